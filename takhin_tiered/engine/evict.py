"""Evict: take the local files of archived segments off the disk, the ``.log`` of each first.

Nothing is unlinked that is not proven: the manifest is committed, the store has every object, and the
local files still are the ones that were archived. If anything differs, they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors, is_behind, open_partition, read_local_checksum
from takhin_tiered.disk.files import DataDirs, PartitionDir
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.engine.brokers import require_no_broker
from takhin_tiered.engine.heating import Heating
from takhin_tiered.engine.refresh import refresh, require_known
from takhin_tiered.engine.relying import Reliance
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import (
    ObjectCorrupt,
    ObjectMissing,
    SegmentActive,
    SegmentChanged,
    SegmentConflict,
    SegmentRefused,
    TakhinError,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.model import NO_FILES, FileStat, Segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.opened import OpenSegment
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import prove_archived
from takhin_tiered.verbs import for_each, named, only, verb


@dataclass(frozen=True, slots=True)
class Evictor:
    """Takes archived segments off the disk."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    situation: Situation
    metrics: Metrics
    codecs: Codecs
    reliance: Reliance
    heating: Heating

    async def evict(self, owned: OwnedPrefix, identity: SegmentId) -> bool:
        """Take a segment off the disk; False where nothing stood there. See `evict_held` for what is raised."""
        with verb("evict", identity.path):
            async with self.catalog.lock(identity):
                segment = require_known(await refresh(self.catalog, self.data_dir, identity), identity)
                evicted = await self.evict_held(owned, segment)
                return evicted != segment

    def keeps(self, owned: OwnedPrefix, identity: SegmentId) -> str:
        """Why a segment stays on the disk as long as a lower one does; empty where it may go.

        What replicas share: a lower segment that differs from the archived one begins a log of this replica's own. If
        one above it were in the shared log alone by then, its own log would lack it.
        """
        if self.situation.policy.kafka and self.catalog.has_local_below(identity):
            return "as a lower one does: consumers would skip the gap between them silently"
        if owned.is_shared and self.catalog.has_unarchived_below(identity):
            return "as a lower one is not archived yet, and may show that this replica's log is another one"
        return ""

    async def evict_held(self, owned: OwnedPrefix, segment: Segment) -> Segment:
        """Evict while the segment's lock is held.

        Raises `SegmentActive`, `SegmentChanged`, `SegmentConflict`, `SegmentRefused`, `ObjectMissing`,
        `ObjectCorrupt`, `StoreUnavailable` or `DiskError`; what is not unlinked then is whole.
        """
        return only(await self.evict_together(owned, [segment], {}))

    async def evict_together(
        self, owned: OwnedPrefix, segments: Sequence[Segment], copied: Mapping[SegmentId, OpenSegment]
    ) -> list[Segment | TakhinError]:
        """Evict segments of one partition while their locks are held: one look at the owner, one turn of a thread.

        Returns each segment after that, or its error; see `evict_held`. Raises errors that concern all of them.
        """
        evictions = [_Eviction(segment, copied.get(segment.id)) for segment in segments]
        await for_each(evictions, partial(self._require_evictable, owned), _named)
        if owned.is_shared:
            await for_each(evictions, lambda eviction: self._hold(owned, eviction), _named)
        await for_each(evictions, partial(self._require_proof, is_shared=owned.is_shared), _named)
        todo = [eviction for eviction in evictions if eviction.is_to_do]
        if any(eviction.copied is None for eviction in todo):
            await self.catalog.flush()
        if todo:
            await self.heating.note_demotions([eviction.id for eviction in todo])
            # The proof was read from the prefix that this process still owns.
            await owned.require()
            await self._unlink(todo)
        return [eviction.error or eviction.segment for eviction in evictions]

    async def _require_evictable(self, owned: OwnedPrefix, eviction: _Eviction) -> None:
        segment, path = eviction.segment, eviction.id.path
        if self.situation.policy.of(segment.id.topic).keep_local:
            raise SegmentRefused("this mode never deletes a local file", segment=path)
        if segment.active:
            raise SegmentActive(f"segment {path} is the active one of its partition", segment=path)
        if not segment.local or not self.catalog.is_current(segment.id):
            eviction.is_done = True
        elif why := self.keeps(owned, segment.id):
            raise SegmentRefused(f"segment {path} stays on the disk, {why}", segment=path)
        if segment.quarantine and not eviction.is_done:
            raise SegmentRefused(
                f"segment {path} stays on the disk, as its archived copy is quarantined: {segment.quarantine}",
                segment=path,
                hint="takhin-tiered verify --deep reads that copy again, and stores it anew from the disk",
            )

    async def _hold(self, owned: OwnedPrefix, eviction: _Eviction) -> None:
        """Nobody removes the archived copy from now on. That of what was just copied is held already."""
        archive = eviction.segment.archive
        if eviction.copied is None and archive is not None:
            await self.reliance.hold_archived(owned, eviction.id)
            eviction.segment = replace(eviction.segment, archive=replace(archive, held=True))

    async def _require_proof(self, eviction: _Eviction, *, is_shared: bool) -> None:
        if eviction.copied is None:
            await self._prove_again(eviction.segment, is_shared=is_shared)
        elif not eviction.segment.is_proven:
            path = eviction.id.path
            raise SegmentChanged(f"the files of segment {path} are not the ones that were archived", segment=path)

    async def _prove_again(self, segment: Segment, *, is_shared: bool) -> None:
        """Prove what was archived some time ago: the store still has all objects, and the files are the same."""
        identity, path = segment.id, segment.id.path
        try:
            manifest = await prove_archived(self.store, identity, self.codecs.keys)
        except (ObjectMissing, ObjectCorrupt):
            # The disk has the last whole copy. With the mark of the archive removed, the next cycle stores it again.
            if segment.local.log is not None:
                self.catalog.put(replace(segment, archive=None, quarantine=""))
            raise
        if segment.is_proven and segment.archive is not None and segment.archive.generation == manifest.generation:
            return
        for kind, stat in segment.local.items():
            if is_shared and segment.is_proven and kind is not FileKind.LOG:
                # Another replica stored it anew: the same log, with all that belongs to it.
                continue
            archived = manifest.files.get(kind)
            if archived is None or archived.plain_size != stat.size:
                raise SegmentConflict(f"{identity.file(kind)} is not what the archive holds", segment=path)
            checksum = await read_local_checksum(self.data_dir, identity, kind, archived.plain_part_size)
            if checksum != archived.plain_sha256:
                raise SegmentConflict(f"{identity.file(kind)} is not what the archive holds", segment=path)

    async def _unlink(self, evictions: Sequence[_Eviction]) -> None:
        for _ in evictions:
            reached("evict.begin")
        await in_thread(self._unlink_files, evictions)
        for eviction in evictions:
            if eviction.error is not None:
                # Some files may be gone: the catalog takes over what is left.
                with suppress(TakhinError):
                    await refresh(self.catalog, self.data_dir, eviction.id)
                continue
            reached("evict.unlinked")
            segment, freed = eviction.segment, eviction.segment.local.size
            eviction.segment = replace(segment, local=NO_FILES, settled=True, lease_until=0.0, last_failure="")
            with _named(eviction):
                self.catalog.put(eviction.segment)
            self.metrics.evictions.labels("success").inc(1, logs.exemplar())
            self.metrics.demotions.inc()
            with _named(eviction):
                logs.logger().info("evicted", bytes=freed)
        await self.catalog.flush()
        for eviction in evictions:
            if eviction.error is None:
                reached("evict.journaled")

    def _unlink_files(self, evictions: Sequence[_Eviction]) -> None:
        """Unlink the files of each, or set its error. The directory is flushed once, at the end."""
        for eviction in evictions:
            if eviction.copied is not None:
                eviction.copied.close()
        try:
            with open_partition(self.data_dir, evictions[0].id) as partition:
                try:
                    for eviction in evictions:
                        try:
                            with disk_errors(eviction.id):
                                self._unlink_one(partition, eviction)
                        except TakhinError as error:
                            eviction.error = error
                finally:
                    partition.fsync()
        except TakhinError as error:
            for eviction in evictions:
                eviction.error = eviction.error or error

    def _unlink_one(self, partition: PartitionDir, eviction: _Eviction) -> None:
        identity = eviction.id
        expected: dict[FileKind, FileStat] = dict(eviction.segment.local.items())
        if not self.catalog.is_current(identity):
            raise SegmentChanged(
                f"the files of segment {identity.path} are another incarnation's by now", segment=identity.path
            )
        # The proof may have taken minutes. Meanwhile a broker may have truncated the log, so that this is the active
        # segment.
        if not is_behind(partition, identity, self.catalog.active_offset(identity)):
            listing = scan_partition(self.data_dir, identity.directory)
            if listing is not None and listing.active == identity.base_offset:
                raise SegmentActive(
                    f"segment {identity.path} became the active one of its partition", segment=identity.path
                )
        # Last, as the listing above is of whatever directory has that name now.
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
                require_no_broker(self.data_dir, identity)
                partition.unlink(identity.file(kind))
                reached(f"evict.{kind}.unlinked")


@dataclass(slots=True, eq=False)
class _Eviction:
    """``copied``: these files were just stored, and the store proved it."""

    segment: Segment
    copied: OpenSegment | None
    error: TakhinError | None = None
    is_done: bool = False

    @property
    def id(self) -> SegmentId:
        return self.segment.id

    @property
    def is_to_do(self) -> bool:
        return not self.is_done and self.error is None


def _named(eviction: _Eviction) -> AbstractContextManager[None]:
    return named("evict", eviction.id.path)
