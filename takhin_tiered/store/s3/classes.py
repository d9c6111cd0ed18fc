"""Storage classes of an S3 server: into another one by a copy on the server, and out of an archive class.

A copy replaces an object by itself. It is bound to the ETag that was looked at, so that nothing else is copied. A copy
that arrives late, after the object was deleted, finds no source. An object of parts is copied in the same parts, so
that its checksum keeps its form; those of the parts are compared before the copy takes the place of the object.
Source: Amazon S3 API reference, CopyObject, UploadPartCopy, RestoreObject, HeadObject.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from takhin_tiered.codec.checksums import Checksum, header_to_hex, sha256_of_parts
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import ObjectCorrupt, ObjectExists
from takhin_tiered.points import reached
from takhin_tiered.segments.retrieval import ARCHIVES, class_or_default
from takhin_tiered.store.base import Check, Conflict, NotSupported
from takhin_tiered.store.s3.answers import Answer, in_glacier
from takhin_tiered.store.s3.calls import Calls
from takhin_tiered.store.s3.sending import abort_quietly

_PARTS_AT_ONCE = 4
_LARGEST_COPY = 5 << 30
"""Bytes that CopyObject takes at most."""
_ONGOING = 'ongoing-request="true"'
_READABLE = 'ongoing-request="false"'
_TIERING = "INTELLIGENT_TIERING"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object as it is to be: ``size`` and ``checksum`` are those that it has."""

    key: str
    storage_class: str
    size: int
    checksum: Checksum


def is_frozen(head: Answer) -> bool:
    """Whether a read of it would be refused."""
    if _READABLE in head.get("Restore", ""):
        return False
    return head.get("StorageClass") in ARCHIVES or bool(head.get("ArchiveStatus"))


def is_coming(head: Answer) -> bool:
    return _ONGOING in head.get("Restore", "")


async def retrieve(calls: Calls, head: Answer, key: str, *, days: int, tier: str) -> None:
    """See `ReadableStore.retrieve`."""
    if not is_frozen(head) or is_coming(head):
        return
    request: dict[str, Any] = {"GlacierJobParameters": {"Tier": tier}}
    if head.get("StorageClass") != _TIERING:
        # What intelligent tiering brings back stays until nobody reads it.
        request["Days"] = days
    try:
        of = head.get("StorageClass", "")
        await calls.send("retrieve", "restore_object", key, storage_class=of, RestoreRequest=request)
    except Conflict:
        # RestoreAlreadyInProgress: somebody else asked meanwhile.
        return


async def change_class(calls: Calls, head: Answer, wanted: Wanted, check: Check) -> None:
    """See `ObjectStore.change_class`. ``head`` is what the server says of the object now."""
    key = wanted.key
    if class_or_default(head.get("StorageClass", "")) == wanted.storage_class:
        return
    if is_frozen(head):
        raise in_glacier(key, head.get("StorageClass", ""))
    told = head.get("ChecksumSHA256") if check is Check.SHA256 else None
    if head["ContentLength"] != wanted.size or (told and _differ(header_to_hex(told), wanted.checksum.sha256)):
        raise ObjectCorrupt(f"object {key} is not the one that was archived: it is left as it is", key=key)
    if wanted.storage_class in ARCHIVES and told != wanted.checksum.header:
        raise NotSupported(
            f"the server keeps no checksum of object {key} that can be compared",
            key=key,
            hint=f"What is in {wanted.storage_class} cannot be read back, so it stays in the class that it is in",
        )
    reached("class.begin")
    try:
        is_done = bool(wanted.checksum.part_size) and await _copy_parts(calls, head, wanted, check)
        if not is_done:
            _require_one_piece(wanted)
            await _copy(calls, head, wanted, check)
    except ObjectExists as error:
        # The condition on the source failed. Another object stands there by now, or a copy that another owner made of
        # this one: with a key of KMS each has an ETag of its own.
        raise ObjectExists(f"object {key} changed before it was copied: it is left as it is", key=key) from error
    reached("class.copied")


def _differ(told: str, known: str) -> bool:
    """A checksum of other parts says nothing."""
    return told != known and ("-" in told) == ("-" in known)


def _source(calls: Calls, head: Answer, key: str) -> dict[str, Any]:
    return {
        "CopySource": {"Bucket": calls.bucket, "Key": calls.full(key)},
        "CopySourceIfMatch": head["ETag"],
    }


def _made(calls: Calls, head: Answer, wanted: Wanted) -> dict[str, Any]:
    """How the copy is made: encrypted as the object is, and else as new ones are."""
    sse = {name: head[name] for name in ("ServerSideEncryption", "SSEKMSKeyId") if head.get(name)}
    return {"StorageClass": wanted.storage_class, **(sse or calls.demands.of_new)}


def _require_one_piece(wanted: Wanted) -> None:
    """Return if the object may be copied by one request; `NotSupported` where it would have to be in its parts."""
    if wanted.size > _LARGEST_COPY:
        raise NotSupported(f"the server copies no parts, and object {wanted.key} is too large for one", key=wanted.key)
    if wanted.checksum.part_size and wanted.storage_class in ARCHIVES:
        raise NotSupported(
            f"the server tells no checksums of the parts of object {wanted.key} that it copies",
            key=wanted.key,
            hint=f"What is in {wanted.storage_class} cannot be read back, so it stays in the class that it is in",
        )


async def _copy(calls: Calls, head: Answer, wanted: Wanted, check: Check) -> None:
    # The copy of an object in parts is in one piece: it keeps its checksum where the server copies that too.
    form = {"ChecksumAlgorithm": "SHA256"} if check is Check.SHA256 and not wanted.checksum.part_size else {}
    await calls.send(
        "copy", "copy_object", wanted.key, size=wanted.size, MetadataDirective="COPY",
        **_source(calls, head, wanted.key), **_made(calls, head, wanted), **form,
    )  # fmt: skip


async def _copy_parts(calls: Calls, head: Answer, wanted: Wanted, check: Check) -> bool:
    """False, and nothing is changed, where the server tells no checksums of the parts that it copies."""
    if check is not Check.SHA256:
        return False
    key = wanted.key
    upload = await calls.send(
        "create upload", "create_multipart_upload", key,
        ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE", **_made(calls, head, wanted),
    )  # fmt: skip
    upload_id = upload["UploadId"]
    try:
        try:
            parts = await _send_parts(calls, head, wanted, upload_id)
        except NotSupported:
            # So says MinIO, which wants to be told the checksum of each part.
            parts = []
        if not parts or not all("ChecksumSHA256" in part for part in parts):
            await abort_quietly(calls, key, upload_id)
            return False
        digests = [bytes.fromhex(header_to_hex(part["ChecksumSHA256"])) for part in parts]
        if sha256_of_parts(digests) != wanted.checksum.sha256:
            raise ObjectCorrupt(f"the copy of object {key} has other bytes: the object is left as it is", key=key)
        reached("class.parts.copied")
        await calls.send(
            "complete upload", "complete_multipart_upload", key, size=wanted.size,
            UploadId=upload_id, MultipartUpload={"Parts": parts},
        )  # fmt: skip
    except BaseException:
        await asyncio.shield(abort_quietly(calls, key, upload_id))
        raise
    return True


async def _send_parts(calls: Calls, head: Answer, wanted: Wanted, upload_id: str) -> Sequence[dict[str, Any]]:
    room = asyncio.Semaphore(_PARTS_AT_ONCE)
    part_size = wanted.checksum.part_size

    async def send(start: int) -> dict[str, Any]:
        end = min(start + part_size, wanted.size)
        number = start // part_size + 1
        async with room:
            answer = await calls.send(
                "copy part", "upload_part_copy", wanted.key, size=end - start, UploadId=upload_id, PartNumber=number,
                CopySourceRange=f"bytes={start}-{end - 1}", **_source(calls, head, wanted.key),
            )  # fmt: skip
        result = Answer(answer["CopyPartResult"])
        part = {"PartNumber": number, "ETag": result["ETag"]}
        return part | ({"ChecksumSHA256": result["ChecksumSHA256"]} if "ChecksumSHA256" in result else {})

    return await all_of([send(start) for start in range(0, wanted.size, part_size)])
