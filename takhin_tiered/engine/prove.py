"""Proof: that the store holds an object with these very bytes, by its own word."""

from __future__ import annotations

from takhin_tiered import work
from takhin_tiered.codec.checksums import Checksum, Hasher
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.context import Engine, load_manifest, open_partition
from takhin_tiered.engine.pace import Pace
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.store import ObjectInfo, ObjectStore

_PACED_READ = 8 << 20


async def prove(
    store: ObjectStore,
    key: str,
    size: int,
    checksum: Checksum,
    *,
    said: ObjectInfo | None = None,
    segment: str,
) -> None:
    """Return if the object is there with this size and checksum; else `ObjectMissing` or `ObjectCorrupt`.

    The answer to an upload may be given in ``said``; where it has no checksum the store is asked, and
    where the store keeps none that can be compared, the object is read back.
    """
    if said is None or said.sha256 is None:
        said = await store.head(key)
    if said is None:
        raise ObjectMissing(f"the archive has no object {key}", segment=segment, key=key)
    if said.size != size:
        raise ObjectCorrupt(f"object {key} has {said.size} bytes, not {size}", segment=segment, key=key)
    if said.sha256 == checksum.sha256:
        return
    if said.sha256 is None or ("-" in said.sha256) != ("-" in checksum.sha256):
        found = await read_checksum(store, key, checksum.part_size)
        if found == (size, checksum.sha256):
            return
    raise ObjectCorrupt(f"object {key} does not hold the bytes that it should", segment=segment, key=key)


async def read_checksum(store: ObjectStore, key: str, part_size: int, pace: Pace | None = None) -> tuple[int, str]:
    """Read an object to its end: its size in bytes, and its SHA-256. At a pace, so that no request waits for it."""
    hasher = Hasher(part_size)

    def take(piece: memoryview) -> None:
        hasher.update(piece)
        work.moved(len(piece))

    if pace is None or not pace.rate:
        await store.fetch(key, take)
        return hasher.size, hasher.checksum().sha256
    at_end = False
    while not at_end:
        begin = hasher.size
        await store.fetch(key, take, start=begin, end=begin + _PACED_READ)
        at_end = hasher.size - begin < _PACED_READ
        await pace.spend(hasher.size - begin)
    return hasher.size, hasher.checksum().sha256


async def prove_file(engine: Engine, identity: SegmentId, file: ManifestFile) -> None:
    checksum = Checksum(file.sha256, file.part_size)
    await prove(engine.store, file.key, file.size, checksum, segment=identity.path)


async def prove_archived(engine: Engine, identity: SegmentId) -> Manifest:
    """The manifest, once every object that it names is proven."""
    manifest = await load_manifest(engine, identity)
    if manifest is None:
        key = identity.manifest_key
        raise ObjectMissing(f"the archive has no manifest {key}", segment=identity.path, key=key)
    for file in manifest.files.values():
        await prove_file(engine, identity, file)
    return manifest


async def read_local_checksum(engine: Engine, identity: SegmentId, kind: FileKind, part_size: int) -> str:
    """The SHA-256 of a local file, which is read to its end."""

    def read() -> str:
        with open_partition(engine, identity) as partition, partition.open(identity.file(kind)) as file:
            hasher = Hasher(part_size)
            for piece in file.pieces(file.found.size):
                hasher.update(piece)
            return hasher.checksum().sha256

    return await in_thread(read)
