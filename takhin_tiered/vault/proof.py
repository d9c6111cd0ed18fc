"""Proof: that the store holds an object with these very bytes, by its own word."""

from __future__ import annotations

import os
from pathlib import Path

from takhin_tiered import work
from takhin_tiered.codec.checksums import Checksum, Hasher, bytes_source, checksum_of
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import ObjectCorrupt, ObjectExists, ObjectMissing
from takhin_tiered.pace import Pace
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.splice import Part
from takhin_tiered.store import ObjectInfo, ReadableStore
from takhin_tiered.vault.decoding import require_keys
from takhin_tiered.vault.owned import OwnedPrefix

_PACED_READ = 8 << 20
MANIFEST_LIMIT = 64 << 20
"""Bytes: with a checksum for each chunk a manifest has many, at most."""


class OtherBytes(Exception):
    """An object that was to be written exists with other bytes: another generation has to be tried."""


async def prove(
    store: ReadableStore,
    key: str,
    size: int,
    checksum: Checksum,
    *,
    answer: ObjectInfo | None = None,
    segment: str,
) -> None:
    """Return if the object is there with this size and checksum; else `ObjectMissing` or `ObjectCorrupt`.

    The answer to an upload may be given in ``answer``; where it has no checksum the store is asked, and
    where the store keeps none that can be compared, the object is read back.
    """
    if answer is None or answer.sha256 is None:
        answer = await store.head(key)
    if answer is None:
        raise ObjectMissing(f"the archive has no object {key}", segment=segment, key=key)
    if answer.size != size:
        raise ObjectCorrupt(f"object {key} has {answer.size} bytes, not {size}", segment=segment, key=key)
    if answer.sha256 == checksum.sha256:
        return
    # A checksum of parts says nothing of the bytes where the parts are others, as in a bucket that was copied.
    if answer.sha256 is None or "-" in answer.sha256 or "-" in checksum.sha256:
        found = await read_checksum(store, key, checksum.part_size)
        if found == (size, checksum.sha256):
            return
    raise ObjectCorrupt(f"object {key} does not hold the bytes that it should", segment=segment, key=key)


async def read_checksum(store: ReadableStore, key: str, part_size: int, pace: Pace | None = None) -> tuple[int, str]:
    """Read an object to its end: its size in bytes, and its SHA-256. At a pace, so that no request waits for it."""
    hasher = Hasher(part_size)

    def take(piece: memoryview) -> None:
        hasher.update(piece)
        work.moved(len(piece))

    # Into nothing, and hashed on the way: to bring each piece to the event loop takes a third more of the processor.
    with Path(os.devnull).open("wb", buffering=0) as nothing:  # noqa: ASYNC230 - it never blocks
        into = nothing.fileno()
        if pace is None or not pace.rate:
            await store.fetch_into(key, into, seen=take)
            return hasher.size, hasher.checksum().sha256
        at_end = False
        while not at_end:
            begin = hasher.size
            await store.fetch_into(key, into, start=begin, end=begin + _PACED_READ, seen=take)
            at_end = hasher.size - begin < _PACED_READ
            await pace.spend(hasher.size - begin)
    return hasher.size, hasher.checksum().sha256


async def prove_file(store: ReadableStore, identity: SegmentId, file: ManifestFile) -> None:
    """`prove` for an object that a manifest names, or for each whose log a part is of."""
    for part in file.parts:
        archived = (await log_of(store, part)).log
        await prove(
            store, archived.key, archived.size, Checksum(archived.sha256, archived.part_size), segment=part.id.path
        )
    if file.parts:
        return
    await prove(store, file.key, file.size, Checksum(file.sha256, file.part_size), segment=identity.path)


async def prove_archived(store: ReadableStore, identity: SegmentId, keys: KeyRing) -> Manifest:
    """The manifest, once every object that it names is proven, and can be decrypted.

    `NoKey` or `WrongKey` where it cannot: then the bytes on the disk may be the last that anybody can read.
    """
    manifest = await load_manifest(store, identity)
    if manifest is None:
        key = identity.manifest_key
        raise ObjectMissing(f"the archive has no manifest {key}", segment=identity.path, key=key)
    for file in manifest.files.values():
        await prove_file(store, identity, file)
    await require_all_keys(store, manifest, keys)
    return manifest


async def require_all_keys(store: ReadableStore, manifest: Manifest, keys: KeyRing) -> None:
    """Return if its files can be decrypted, and the logs that its parts are of. `NoKey`, `WrongKey`, `StoreError`."""
    require_keys(manifest, keys)
    for part in manifest.log.parts:
        require_keys(await log_of(store, part), keys)


async def load_manifest(store: ReadableStore, identity: SegmentId) -> Manifest | None:
    """The manifest as the store has it now, or None. `ObjectCorrupt` where it is none, and `StoreError`."""
    try:
        return await read_manifest(store, identity, identity.manifest_key)
    except ObjectMissing:
        return None


async def read_manifest(store: ReadableStore, identity: SegmentId, key: str) -> Manifest:
    """The manifest that stands under a key: the segment's own, or that of a superseded generation.

    `ObjectMissing`, `ObjectCorrupt` where it is none of this segment, and other `StoreError`.
    """
    return Manifest.from_json(await store.read(key, limit=MANIFEST_LIMIT), key=identity.manifest_key)


async def log_of(store: ReadableStore, part: Part) -> Manifest:
    """The manifest of the generation whose log has the bytes that a part is of: the current one, or an earlier one.

    `ObjectMissing` where the archive has no such log any more, `ObjectCorrupt` where a manifest is none.
    """
    manifest = await load_manifest(store, part.id)
    latest = 0 if manifest is None else manifest.generation
    for generation in range(latest - 1, 0, -1):
        if manifest is not None and is_that_of(part, manifest.log):
            break
        try:
            manifest = await read_manifest(store, part.id, part.id.superseded_key(generation))
        except ObjectMissing:
            continue
    if manifest is None or not is_that_of(part, manifest.log):
        raise ObjectMissing(
            f"the archive has no log of segment {part.id.full_path} with SHA-256 {part.sha256}",
            segment=part.id.path,
            key=part.key,
            hint="Somebody removed it, or stored other bytes: look for it in the bucket's versions or backups",
        )
    return manifest


def is_that_of(part: Part, file: ManifestFile) -> bool:
    """Whether this is an archived log with the bytes that a part is of."""
    plain = (file.plain_size, file.plain_sha256, file.plain_part_size)
    return not file.parts and plain == (part.size, part.sha256, part.part_size)


async def put_proven(owned: OwnedPrefix, key: str, data: bytes, *, segment: str, if_absent: bool = False) -> None:
    """Write a small object and prove it. `OtherBytes` where ``if_absent`` and another one stands there."""
    checksum = checksum_of(bytes_source(data), len(data))
    try:
        answer = await owned.put(key, bytes_source(data), size=len(data), checksum=checksum, if_absent=if_absent)
    except ObjectExists:
        answer = None
    try:
        await prove(owned.store, key, len(data), checksum, answer=answer, segment=segment)
    except ObjectCorrupt as error:
        if answer is None:
            raise OtherBytes from error
        raise
