"""Restore: bring an archived segment back, the ``.log`` last, or leave nothing behind.

Every file is downloaded under a temporary name, compared with the manifest, flushed to the disk, given
its old modification time, and only when all are right do they get their names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from takhin_tiered import logs
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.files import PartitionDir
from takhin_tiered.engine.brokers import learn_kafka
from takhin_tiered.engine.context import Engine, disk_errors, load_manifest, open_partition, refresh, unknown, verb
from takhin_tiered.engine.incoming import Incoming, Range
from takhin_tiered.engine.naming import where_else
from takhin_tiered.engine.placing import complete_partition, require_neighbours, require_place
from takhin_tiered.engine.prove import read_local_checksum
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import (
    DiskFull,
    ObjectMissing,
    SegmentActive,
    SegmentChanged,
    SegmentConflict,
)
from takhin_tiered.points import reached
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import Archive, LocalFiles, Segment
from takhin_tiered.segments.names import TEMP_SUFFIX, FileKind, Partition, SegmentId, parse_file

_SMALL = 256 << 10
_LONGEST_LEASE = 10 * 365 * 86400.0
_LOG_LAST = (*(kind for kind in FileKind if kind is not FileKind.LOG), FileKind.LOG)
_KINDS_OF_VERSION_1 = {FileKind.LOG, FileKind.INDEX, FileKind.TIMEINDEX}


async def restore(
    engine: Engine, identity: SegmentId, *, lease: float | None = None, log: str | None = None
) -> Segment:
    """Bring a segment back to the disk, or renew its lease if it is there; ``lease`` is in seconds, ten years at most.

    ``log`` is the label of the incarnation that is wanted, where several share the segment.

    Raises `SegmentNotFound`, `SegmentActive`, `SegmentConflict` (other bytes stand in its place, or it was
    never archived), `DiskFull`, `DiskError`, `ObjectMissing`, `ObjectCorrupt` or another `StoreError`.
    """
    with verb("restore", identity):
        async with engine.catalog.lock(identity):
            segment = await refresh(engine, identity)
            if segment is not None and segment.local.log is not None:
                return await _adopt(engine, segment, _lease(engine, lease))
            manifest = await _manifest(engine, identity, known=segment is not None)
            engine.metrics.cache_misses.inc()
            with engine.metrics.restore_seconds.time(), engine.turns.take(Turn.RESTORE):
                async with _room(engine, identity, manifest.size):
                    local = await _download(engine, manifest, _log_of(engine, identity) if log is None else log)
            segment = await _restored(engine, segment or Segment(identity), manifest, local, _lease(engine, lease))
            engine.metrics.restores.labels("success").inc()
            engine.metrics.promotions.inc()
            logs.logger().info("restored", bytes=local.size)
            return segment


async def _manifest(engine: Engine, identity: SegmentId, *, known: bool) -> Manifest:
    manifest = await load_manifest(engine, identity)
    if manifest is None and known:
        raise ObjectMissing(
            f"the manifest of segment {identity.path} is not in the archive",
            segment=identity.path,
            key=identity.manifest_key,
            hint="Somebody removed it: look for it in the bucket's versions or backups",
        )
    if manifest is None:
        raise unknown(identity, hint=where_else(engine, identity))
    return manifest


def _log_of(engine: Engine, identity: SegmentId) -> str:
    """The label of the log that a segment is restored to: the current one, if it is of that."""
    lineage = engine.catalog.lineage(identity.place.partition)
    return lineage.current if engine.catalog.is_current(identity) else identity.label


def _lease(engine: Engine, seconds: float | None) -> float:
    """When it ends, in seconds since the epoch."""
    return engine.stamp_now + min(engine.policy.lease if seconds is None else max(0.0, seconds), _LONGEST_LEASE)


async def _adopt(engine: Engine, segment: Segment, lease_until: float) -> Segment:
    """The log is on disk. If it is what the archive holds, that is a restore with nothing to do."""
    identity, path = segment.id, segment.id.path
    if segment.active:
        raise SegmentActive(f"segment {path} is the active one of its partition, and on disk", segment=path)
    if segment.archive is None:
        raise SegmentConflict(
            f"segment {path} is on disk and was never archived: there is nothing to restore", segment=path
        )
    if segment.is_proven:
        engine.metrics.cache_hits.inc()
        now = engine.clock()
        segment = replace(segment, lease_until=lease_until, last_access=now, last_failure="")
        engine.catalog.put(segment)
        await engine.catalog.flush()
        return segment
    manifest = await _manifest(engine, identity, known=True)
    for kind, stat in segment.local.items():
        archived = manifest.files.get(kind)
        same = archived is not None and archived.size == stat.size
        if archived and same:
            same = await read_local_checksum(engine, identity, kind, archived.part_size) == archived.sha256
        if not same:
            raise SegmentConflict(
                f"{identity.directory}/{identity.file(kind)} stands on disk with other bytes than the archive's",
                segment=path,
                key=archived.key if archived else "",
                hint="Neither was touched. Move the local file away to restore the archived one",
            )
    engine.metrics.cache_hits.inc()
    return await _restored(engine, segment, manifest, segment.local, lease_until)


async def _restored(
    engine: Engine, segment: Segment, manifest: Manifest, local: LocalFiles, lease_until: float
) -> Segment:
    archived = Archive(
        manifest.generation, manifest.size, manifest.log.mtime_ns, manifest.archived_at, local, manifest.end
    )
    segment = replace(
        segment,
        local=local,
        archive=archived,
        settled=True,
        lease_until=lease_until,
        last_access=engine.clock(),
        damage=manifest.problem,
        last_failure="",
        quarantine="",
    )
    engine.catalog.put(segment)
    reached("restore.placed")
    await engine.catalog.flush()
    reached("restore.journaled")
    return segment


@asynccontextmanager
async def _room(engine: Engine, identity: SegmentId, size: int) -> AsyncIterator[None]:
    """Hold so many bytes of the disk, counted against what other restores hold; `DiskFull` if they are not free."""
    root, held = await in_thread(engine.data_dir.root_for, identity.directory), engine.data_dir.held
    free = await in_thread(root.free_bytes)
    usable = max(0, free - held[root.device] - engine.reserve_bytes)
    if usable < size:
        raise DiskFull(
            f"segment {identity.path} takes {size} bytes, and {usable} are free, with {engine.reserve_bytes} held back "
            "by storage.tiered.restore.reserve.mb",
            segment=identity.path,
            hint="It is whole in the archive. Make room, or restore it elsewhere",
        )
    held[root.device] += size
    try:
        yield
    finally:
        held[root.device] -= size


async def _download(engine: Engine, manifest: Manifest, log: str) -> LocalFiles:
    identity = manifest.id
    if manifest.kafka or manifest.topic_id:
        learn_kafka(engine)
    with open_partition(engine, identity, create=True) as partition:
        is_empty = False

        def check() -> None:
            with disk_errors(identity):
                nonlocal is_empty
                is_empty = require_place(engine, manifest, partition)

        def place() -> LocalFiles:
            # Others may have been placed while this one came.
            check()
            return _place(engine, partition, manifest)

        await in_thread(check)
        try:
            for kind in _LOG_LAST:
                if kind in manifest.files:
                    await _download_file(Incoming(engine, partition, identity, kind, manifest.files[kind]))
                    reached(f"restore.{kind}.downloaded")
            async with engine.placing:
                await in_thread(check)
                await require_neighbours(engine, identity)
                if not is_empty:
                    return await in_thread(place)
                async with _adopted(engine, identity.place.partition, log):
                    return await in_thread(place)
        except BaseException:
            await in_thread(_remove_temps, partition, identity)
            raise


@asynccontextmanager
async def _adopted(engine: Engine, partition: Partition, label: str) -> AsyncIterator[None]:
    """Before the first file has its name it is known whose log stands there from then on, even after a kill."""
    before = engine.catalog.adopt(partition, label)
    try:
        if before is not None:
            await engine.catalog.flush()
            reached("restore.adopted")
        yield
    except BaseException:
        if before is not None:
            engine.catalog.adopt(partition, before)
        raise


async def _download_file(incoming: Incoming) -> None:
    store, archived, ranges = incoming.engine.store, incoming.archived, incoming.ranges
    if archived.size <= _SMALL:
        # One more than it should have shows an object that grew.
        data = await store.read(archived.key, limit=archived.size + 1)
        await in_thread(incoming.write_whole, data)
        return
    try:
        await in_thread(incoming.create)
        if len(ranges) == 1:
            await store.fetch(archived.key, ranges[0].take)
        else:
            await all_of([_fetch(incoming, each) for each in ranges])
        await in_thread(incoming.finish)
    finally:
        incoming.close()


async def _fetch(incoming: Incoming, part: Range) -> None:
    engine, archived = incoming.engine, incoming.archived
    # The last one goes on to the end, wherever that is: an object that grew is not what was archived.
    end = part.end if part.end < archived.size else None
    async with engine.ranges:
        await engine.store.fetch(archived.key, part.take, start=part.start, end=end)


def _place(engine: Engine, partition: PartitionDir, manifest: Manifest) -> LocalFiles:
    """Give the finished files their names: the indexes, which belong to no log before, then the log."""
    identity, local, placed = manifest.id, LocalFiles(), []
    appeared = SegmentConflict(f"{identity.path} appeared on disk during the restore", segment=identity.path)
    with disk_errors(identity):
        if not partition.is_in_place():
            raise FileNotFoundError(identity.directory)
        if partition.exists(identity.file(FileKind.LOG)):
            raise appeared
        complete_partition(engine, partition, manifest)
        reached("restore.partition.completed")
        try:
            for kind in _LOG_LAST:
                name = identity.file(kind)
                if kind in manifest.files:
                    partition.place_temp(name, replace=kind is not FileKind.LOG)
                    placed.append(name)
                elif manifest.version > 1 or kind in _KINDS_OF_VERSION_1:
                    # Recorded as missing: what an earlier log of this name left would be a wrong index.
                    with suppress(FileNotFoundError):
                        partition.unlink(name)
                reached(f"restore.{kind}.placed")
                local = local.with_file(kind, partition.stat(name))
            partition.fsync()
        except OSError as error:
            _take_back(partition, placed)
            if isinstance(error, FileExistsError):
                raise appeared from error
            raise
    _remove_temps(partition, identity)
    return local


def _take_back(partition: PartitionDir, placed: list[str]) -> None:
    """The log first; where it cannot be taken away its indexes stay with it, and the segment stands there whole."""
    with suppress(OSError):
        for name in reversed(placed):
            partition.unlink(name)


def _remove_temps(partition: PartitionDir, identity: SegmentId) -> None:
    for kind in FileKind:
        with suppress(OSError):
            partition.unlink(identity.file(kind) + TEMP_SUFFIX)


async def remove_unfinished(engine: Engine, listing: PartitionListing) -> None:
    """Take away the temporary files of a restore that was killed; one that runs holds its segment's lock."""
    for name in listing.unfinished:
        file = parse_file(name.removesuffix(TEMP_SUFFIX))
        if file is None:
            continue
        identity = SegmentId(listing.topic, listing.partition, file[0])

        def remove(identity: SegmentId = identity, name: str = name) -> None:
            with suppress(SegmentChanged), open_partition(engine, identity) as partition:
                partition.unlink(name)

        if engine.catalog.is_held(identity):
            # A restore is at work, and its files are not left over.
            continue
        async with engine.catalog.lock(identity):
            await in_thread(remove)
