"""Archive: the files of one segment go to the store, the manifest last.

The bytes are those of files held open, whose size, modification, change and inode must be the same before
and after, under the same names. An object is never overwritten: where other bytes stand in its place,
the segment gets the next generation.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.branching import OtherIncarnation, branch
from takhin_tiered.engine.context import Engine, load_manifest, open_partition, refresh, require_known, verb
from takhin_tiered.engine.evict import evict_held, leaves_gap
from takhin_tiered.engine.expire import expire
from takhin_tiered.engine.opened import OpenSegment, to_be_opened
from takhin_tiered.engine.superseded import forget_superseded
from takhin_tiered.engine.upload import OtherBytes, Upload, changed
from takhin_tiered.errors import SegmentActive, SegmentChanged, SegmentConflict, SegmentRefused
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import NO_FILES, Archive, LocalFiles, Segment, State
from takhin_tiered.segments.names import FileKind, SegmentId, generation_of

_GENERATIONS_TRIED = 100
_SETTLE_SECONDS = 1.0
_INCARNATIONS_TRIED = 3


async def archive(engine: Engine, identity: SegmentId, *, evict: bool, expected: LocalFiles | None = None) -> Segment:
    """Bring a segment into the store, and with ``evict`` off the disk. Success if it was there already.

    ``expected`` is how a plan saw its files: if they stand otherwise now, they are left alone.
    Raises `SegmentNotFound`, `SegmentActive`, `SegmentChanged`, `SegmentConflict`, `SegmentRefused`,
    `StoreError` or `DiskError`; the local files are whole then, and nothing half done counts as archived.
    """
    with verb("archive", identity):
        identity = await _compare_below(engine, identity)
        for _ in range(_INCARNATIONS_TRIED):
            async with engine.catalog.lock(identity), to_be_opened(identity) as opened:
                try:
                    return await _archive_held(engine, opened, evict=evict, expected=expected)
                except OtherIncarnation as found:
                    identity = await branch(engine, opened, found, opened.topic_id)
        raise SegmentConflict(f"{identity.path} contradicts what is archived, again and again", segment=identity.path)


async def _compare_below(engine: Engine, identity: SegmentId) -> SegmentId:
    """First what is below on the disk, and not as it was archived: it tells whether the log is another incarnation.

    Else this segment would be filed with the old one. Returns what the segment is then. A lower segment never waits for
    a higher one.
    """
    if engine.policy.takes_compacted or not engine.catalog.is_current(identity):
        return identity
    compared: SegmentId | None = None
    while (low := engine.catalog.unproven_below(identity)) is not None:
        if low == compared:
            raise SegmentChanged(
                f"segment {low.path} below it is not what was archived, and cannot be compared", segment=identity.path
            )
        await archive(engine, low, evict=False)
        compared = low
    return engine.catalog.current(identity.place.partition, identity.base_offset)


async def _archive_held(engine: Engine, opened: OpenSegment, *, evict: bool, expected: LocalFiles | None) -> Segment:
    identity = opened.identity
    before = expected or _last_seen(engine, identity)
    segment = require_known(await refresh(engine, identity, opened), identity)
    if segment.state is State.ARCHIVED:
        return segment
    _require_movable(engine, segment)
    if before is not None and before != segment.local:
        # What is changing now may change without a trace in its times: it is read after the wait, not before.
        await in_thread(opened.close)
        segment = await _require_settled(engine, segment, by_plan=expected is not None)
    fresh = not segment.is_proven
    if fresh:
        with engine.metrics.archive_seconds.time():
            segment = await copy_held(engine, segment, opened)
        engine.metrics.archives.labels("success").inc()
        logs.logger().info("archived", bytes=segment.local.size)
    if not evict or leaves_gap(engine, identity):
        return segment
    return await evict_held(engine, segment, copied=opened if fresh else None)


def _require_movable(engine: Engine, segment: Segment) -> None:
    path = segment.id.path
    if not engine.policy.enabled:
        raise SegmentRefused(
            "tiered storage is not enabled, so nothing is moved",
            segment=path,
            hint="Set storage.tiered.enabled: true",
        )
    if not engine.policy.covers(segment.id.topic):
        raise SegmentRefused(
            f"the configuration leaves topic {segment.id.topic} out",
            segment=path,
            hint="See storage.tiered.topics.include and .exclude",
        )
    if segment.active:
        raise SegmentActive(
            f"segment {path} is the active one of its partition: the broker still writes to it", segment=path
        )
    if segment.id in engine.outlook.unsafe and not segment.is_proven:
        # Whatever stands above it, the broker may write to the segment that its high watermark lies in.
        raise SegmentActive(f"segment {path} is {engine.outlook.unsafe[segment.id]}", segment=path)


def _last_seen(engine: Engine, identity: SegmentId) -> LocalFiles | None:
    known = engine.catalog.get(identity)
    return known.local if known and known.local else None


async def _require_settled(engine: Engine, segment: Segment, *, by_plan: bool) -> Segment:
    """A segment that changed since it was last seen waits for the next cycle; by hand, it is looked at twice."""
    if not by_plan:
        await asyncio.sleep(_SETTLE_SECONDS)
        again = require_known(await refresh(engine, segment.id), segment.id)
        if again.local == segment.local and not again.active:
            return again
    raise changed(segment.id, "since the last scan")


async def copy_held(
    engine: Engine, segment: Segment, opened: OpenSegment, distrusted: frozenset[FileKind] = frozenset()
) -> Segment:
    """Bring a segment into the store while its lock is held; ``distrusted`` files are stored anew."""
    identity = segment.id
    existing = await load_manifest(engine, identity) if segment.archive else None
    generation = existing.generation if existing else 1
    if not opened.files:
        await in_thread(_open, engine, opened)
    if opened.stats != segment.local or FileKind.LOG not in opened.files:
        raise changed(identity, "before it was read")
    for _ in range(_GENERATIONS_TRIED):
        upload = Upload(engine, opened, existing, generation, distrusted)
        try:
            manifest = await upload.run()
            break
        except OtherBytes:
            # Each attempt reads what it sends.
            opened.content = None
            await upload.undo()
            # Either another generation is committed that the catalog does not know, or an upload broke off.
            existing = await load_manifest(engine, identity)
            generation = max(generation, existing.generation if existing else 0) + 1
        except BaseException:
            await asyncio.shield(upload.undo())
            raise
    else:
        raise SegmentConflict(f"{_GENERATIONS_TRIED} generations of {identity.path} are taken", segment=identity.path)
    log = manifest.log
    archived = Archive(
        manifest.generation, manifest.size, log.mtime_ns, manifest.archived_at, opened.stats, manifest.end
    )
    segment = replace(segment, archive=archived, damage=manifest.problem, last_failure="", quarantine="")
    if not engine.catalog.is_current(identity):
        # Meanwhile the log was found to be another incarnation from further below on: the files are that one's.
        segment = replace(segment, local=NO_FILES, active=False, lease_until=0.0)
    engine.catalog.put(segment)
    engine.catalog.learn(identity.place.partition, manifest.incarnation)
    engine.catalog.settle(file.key for file in manifest.files.values())
    reached("archive.committed")
    await engine.catalog.flush()
    reached("archive.journaled")
    if existing is not None and manifest.generation != existing.generation:
        if upload.was_compacted:
            await _forget_compacted(engine, existing, manifest)
            return segment
        engine.catalog.superseded += 1
        logs.logger().warning(
            "other bytes were archived before under this name, and are kept", generation=existing.generation
        )
    if upload.was_compacted:
        await _expire_merged(engine, manifest)
    return segment


async def _forget_compacted(engine: Engine, old: Manifest, new: Manifest) -> None:
    """What compaction has replaced holds deleted keys: whoever archives compacted topics wants them gone."""
    still = {file.key for file in new.files.values()}
    own = [file.key for file in old.files.values() if generation_of(file.key) == old.generation]
    keys = [key for key in own if key not in still]
    await engine.store.delete([*keys, old.id.superseded_key(old.generation)])
    logs.logger().info("removed what compaction replaced", generation=old.generation)
    await _expire_merged(engine, new)


async def _expire_merged(engine: Engine, manifest: Manifest) -> None:
    """The cleaner merges segments into the lowest of them: those above it are in that one now."""
    for other in engine.catalog.log_of(manifest.id.place.partition):
        if manifest.id.base_offset < other.id.base_offset <= manifest.end and other.local.log is None:
            logs.logger().info("a segment was merged into one below it by compaction", merged=other.id.path)
            await expire(engine, other.id)
            await forget_superseded(engine, other.id)


def _open(engine: Engine, opened: OpenSegment) -> None:
    with open_partition(engine, opened.identity) as partition:
        opened.open(partition)
