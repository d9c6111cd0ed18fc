"""Evict: take the local files of an archived segment off the disk, the ``.log`` first.

Nothing is unlinked that is not proven: the manifest is committed, the store has every object, and the
local files still are the ones that were archived. If anything differs, they stay.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.look import scan_partition
from takhin_tiered.engine.brokers import require_no_broker
from takhin_tiered.engine.context import Engine, is_behind, open_partition, refresh, require_known, verb
from takhin_tiered.engine.opened import OpenSegment
from takhin_tiered.engine.prove import prove_archived, read_local_checksum
from takhin_tiered.errors import (
    ObjectCorrupt,
    ObjectMissing,
    SegmentActive,
    SegmentChanged,
    SegmentConflict,
    SegmentRefused,
    TakhinError,
)
from takhin_tiered.points import reached
from takhin_tiered.segments.model import NO_FILES, FileStat, Segment
from takhin_tiered.segments.names import FileKind, SegmentId


async def evict(engine: Engine, identity: SegmentId) -> bool:
    """Take a segment off the disk; False where nothing stood there. See `evict_held` for what is raised."""
    with verb("evict", identity):
        async with engine.catalog.lock(identity):
            segment = require_known(await refresh(engine, identity), identity)
            evicted = await evict_held(engine, segment)
            return evicted != segment


def leaves_gap(engine: Engine, identity: SegmentId) -> bool:
    """Whether Kafka's log would have a gap without this segment, as a lower one stands on the disk."""
    return engine.policy.kafka and engine.catalog.has_local_below(identity)


async def evict_held(engine: Engine, segment: Segment, *, copied: OpenSegment | None = None) -> Segment:
    """Evict while the segment's lock is held; ``copied``: these files were just stored, and the store proved it.

    Raises `SegmentActive`, `SegmentChanged`, `SegmentConflict`, `SegmentRefused`, `ObjectMissing`,
    `ObjectCorrupt`, `StoreUnavailable` or `DiskError`; what is not unlinked then is whole.
    """
    identity, path = segment.id, segment.id.path
    if engine.policy.keep_local:
        raise SegmentRefused("this mode never deletes a local file", segment=path)
    if segment.active:
        raise SegmentActive(f"segment {path} is the active one of its partition", segment=path)
    if not segment.local:
        return segment
    if not engine.catalog.is_current(identity):
        return segment
    if leaves_gap(engine, identity):
        raise SegmentRefused(
            f"segment {path} stays on the disk, as a lower one does: consumers pass a gap between them without a word",
            segment=path,
        )
    if segment.quarantine:
        raise SegmentRefused(
            f"segment {path} stays on the disk, as its archived copy is quarantined: {segment.quarantine}",
            segment=path,
            hint="takhin-tiered verify --deep reads that copy again, and stores it anew from the disk",
        )
    expected = dict(segment.local.items())
    if copied is None:
        await _prove_again(engine, segment)
        await engine.catalog.flush()
    elif not segment.is_proven:
        raise SegmentChanged(f"the files of segment {path} are not the ones that were archived", segment=path)
    # The archive that was proven is the one that we own, now.
    await engine.fence(fresh=True)
    reached("evict.begin")
    try:
        await in_thread(_unlink, engine, identity, expected, copied)
    except TakhinError:
        # Some may be gone: what is said of the segment is what stands there.
        with suppress(TakhinError):
            await refresh(engine, identity)
        raise
    reached("evict.unlinked")
    segment = replace(segment, local=NO_FILES, settled=True, lease_until=0.0, last_failure="")
    engine.catalog.put(segment)
    await engine.catalog.flush()
    reached("evict.journaled")
    engine.metrics.evictions.labels("success").inc()
    engine.metrics.demotions.inc()
    logs.logger().info("evicted", bytes=sum(stat.size for stat in expected.values()))
    return segment


async def _prove_again(engine: Engine, segment: Segment) -> None:
    """Time has passed since these files were archived: is all of it still in the store, and are these they?"""
    identity, path = segment.id, segment.id.path
    try:
        manifest = await prove_archived(engine, identity)
    except (ObjectMissing, ObjectCorrupt):
        # The disk has the last whole copy. Without this word of an archive, the next cycle stores it again.
        if segment.local.log is not None:
            engine.catalog.put(replace(segment, archive=None, quarantine=""))
        raise
    if segment.is_proven and segment.archive is not None and segment.archive.generation == manifest.generation:
        return
    for kind, stat in segment.local.items():
        archived = manifest.files.get(kind)
        if archived is None or archived.size != stat.size:
            raise SegmentConflict(f"{identity.file(kind)} is not what the archive holds", segment=path)
        checksum = await read_local_checksum(engine, identity, kind, archived.part_size)
        if checksum != archived.sha256:
            raise SegmentConflict(f"{identity.file(kind)} is not what the archive holds", segment=path)


def _unlink(
    engine: Engine, identity: SegmentId, expected: dict[FileKind, FileStat], copied: OpenSegment | None
) -> None:
    if copied is not None:
        copied.close()
    if not engine.catalog.is_current(identity):
        raise SegmentChanged(
            f"the files of segment {identity.path} are another incarnation's by now", segment=identity.path
        )
    with open_partition(engine, identity) as partition:
        # The proof may have taken minutes, in which a broker that truncates can have made this the active segment.
        if not is_behind(partition, identity, engine.catalog.active_offset(identity)):
            listing = scan_partition(engine.data_dir, identity.directory)
            if listing is not None and listing.active == identity.base_offset:
                raise SegmentActive(
                    f"segment {identity.path} became the active one of its partition", segment=identity.path
                )
        # Last, as what was listed is the directory of that name, whichever that is.
        if not partition.is_in_place():
            raise SegmentChanged(f"the directory of segment {identity.path} was moved away", segment=identity.path)
        for kind, stat in expected.items():
            if partition.stat(identity.file(kind)) != stat:
                raise SegmentChanged(
                    f"{identity.directory}/{identity.file(kind)} changed after it was archived",
                    segment=identity.path,
                    hint="The local files stay",
                )
        # The log goes first: a broker that starts now sees no log without its indexes.
        for kind in FileKind:
            if kind in expected:
                require_no_broker(engine, identity)
                partition.unlink(identity.file(kind))
                reached(f"evict.{kind}.unlinked")
        partition.fsync()
