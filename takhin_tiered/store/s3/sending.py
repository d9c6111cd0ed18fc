"""Objects on their way to an S3 server: in one piece, or in parts, each with what the server is to check it by."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import StoreError
from takhin_tiered.store.base import Check
from takhin_tiered.store.s3.body import SourceBody
from takhin_tiered.store.s3.calls import Calls

_PARTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be stored under a key."""

    key: str
    body: Source
    size: int
    checksum: Checksum
    storage_class: str = ""

    @property
    def in_class(self) -> dict[str, Any]:
        return {"StorageClass": self.storage_class} if self.storage_class else {}


async def put_object(calls: Calls, parcel: Parcel, check: Check, *, if_absent: bool) -> Any:
    """The server's answer, with the ``ETags`` of what was sent in one request each."""
    if parcel.checksum.part_size:
        return await _put_parts(calls, parcel, check, if_absent=if_absent)
    key, size, checksum = parcel.key, parcel.size, parcel.checksum
    answer = await calls.send(
        "put", "put_object", key, size=size,
        Body=SourceBody(parcel.body, 0, size, patience=calls.deadlines.read), ContentLength=size,
        **_claim(check, checksum.header, checksum.md5, 0), **_condition(if_absent), **parcel.in_class,
        **calls.demands.of_new,
    )  # fmt: skip
    return {**answer, "ETags": [answer.get("ETag", "")]}


async def _put_parts(calls: Calls, parcel: Parcel, check: Check, *, if_absent: bool) -> Any:
    key = parcel.key
    form: dict[str, Any] = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "COMPOSITE"}
    upload = await calls.send(
        "create upload", "create_multipart_upload", key,
        **(form if check is Check.SHA256 else {}), **parcel.in_class, **calls.demands.of_new,
    )  # fmt: skip
    upload_id = upload["UploadId"]
    try:
        parts = await _send_parts(calls, parcel, check, upload_id)
        answer = await calls.send(
            "complete upload", "complete_multipart_upload", key, size=parcel.size,
            UploadId=upload_id, MultipartUpload={"Parts": parts}, **_condition(if_absent),
        )  # fmt: skip
        return {**answer, "ETags": [part["ETag"] for part in parts]}
    except BaseException:
        # Also when cancelled: an upload that nobody finishes is paid for until somebody aborts it.
        await asyncio.shield(abort_quietly(calls, key, upload_id))
        raise


async def _send_parts(calls: Calls, parcel: Parcel, check: Check, upload_id: str) -> Sequence[dict[str, Any]]:
    room = asyncio.Semaphore(_PARTS_AT_ONCE)
    checksum = parcel.checksum

    async def send(number: int, digest: bytes) -> dict[str, Any]:
        start = (number - 1) * checksum.part_size
        length = min(checksum.part_size, parcel.size - start)
        header = Checksum(digest.hex()).header
        async with room:
            answer = await calls.send(
                "put part", "upload_part", parcel.key, size=length, UploadId=upload_id, PartNumber=number,
                Body=SourceBody(parcel.body, start, length, patience=calls.deadlines.read), ContentLength=length,
                **_claim(check, header, checksum.md5, number - 1),
            )  # fmt: skip
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        return part | ({"ChecksumSHA256": header} if check is Check.SHA256 else {})

    return await all_of([send(number, digest) for number, digest in enumerate(checksum.parts, 1)])


async def abort(calls: Calls, key: str, upload_id: str) -> None:
    await calls.send("abort upload", "abort_multipart_upload", key, UploadId=upload_id)


async def abort_quietly(calls: Calls, key: str, upload_id: str) -> None:
    # What cannot be aborted now is found later, where the server lists unfinished uploads.
    try:
        await abort(calls, key, upload_id)
    except StoreError:
        return


def _claim(check: Check, sha256: str, md5: Sequence[bytes], piece: int) -> dict[str, Any]:
    """What the server is to compare the bytes with."""
    if check is Check.SHA256:
        return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": sha256}
    if check is Check.MD5 and md5:
        return {"ContentMD5": base64.b64encode(md5[piece]).decode()}
    return {}


def _condition(if_absent: bool) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if if_absent else {}
