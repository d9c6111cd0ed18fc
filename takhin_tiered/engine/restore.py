"""Restore: bring an archived segment back, the ``.log`` last, or leave nothing behind.

Every file is downloaded under a temporary name, compared with the manifest, flushed to the disk, given
its old modification time, and only when all are right do they get their names.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from takhin_tiered import logs, work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors, open_partition, read_local_checksum
from takhin_tiered.disk.files import DataDir, DataDirs, PartitionDir
from takhin_tiered.engine.brokers import learn_kafka
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.fetching import Fetch, write_all
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.naming import where_else
from takhin_tiered.engine.placing import Neighbours, Placement, remove_temps
from takhin_tiered.engine.refresh import refresh_together, require_known, unknown
from takhin_tiered.engine.situation import Situation
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import (
    DiskFull,
    ObjectMissing,
    SegmentActive,
    SegmentConflict,
    TakhinError,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import LocalFiles, Segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.decoding import Decoder, decoders_of
from takhin_tiered.vault.plain import PlainFile
from takhin_tiered.vault.proof import load_manifest
from takhin_tiered.vault.splicing import sources_of
from takhin_tiered.verbs import for_each, named, resumed

_LONGEST_LEASE = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True)
class ToRestore:
    """A segment to be restored; ``lease`` is in seconds, ten years at most, None for the configured one.

    ``log`` is the label of the incarnation that is wanted, where several share the segment; ``correlation`` is the
    correlation ID of whoever asks, ``by`` says who that is. ``over_budget``: also where the month's budget is spent.
    ``may_request``: also from an archive class, for money.
    """

    id: SegmentId
    lease: float | None = None
    log: str | None = None
    correlation: str = ""
    by: str = ""
    over_budget: bool = False
    may_request: bool = True


@dataclass(slots=True, eq=False)
class _Task:
    """One segment through all steps: ``segment`` is how it stands, until the end or an ``error``."""

    wanted: ToRestore
    work: work.Work
    segment: Segment | None = None
    manifest: Manifest | None = None
    decoders: dict[FileKind, Decoder] = field(default_factory=dict)
    sources: tuple[PlainFile, ...] = ()
    is_done: bool = False
    error: TakhinError | None = None

    @property
    def id(self) -> SegmentId:
        return self.wanted.id

    @property
    def arriving(self) -> Manifest:
        assert self.manifest is not None
        return self.manifest

    @property
    def is_to_do(self) -> bool:
        return not self.is_done and self.error is None


@dataclass(frozen=True, slots=True)
class Restorer:
    """Brings archived segments back to the disk."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    neighbours: Neighbours
    codecs: Codecs

    async def restore_together(self, wanted: Sequence[ToRestore]) -> list[Segment | TakhinError]:
        """Bring segments of one partition back to the disk, or renew the lease of those that are there.

        Each as it stands then, or its error: `SegmentNotFound`, `SegmentActive`, `SegmentConflict` (other bytes stand
        in its place, or it was never archived), `DiskFull`, `DiskError`, `ObjectMissing`, `ObjectCorrupt` or another
        `StoreError`. Raises what concerns all of them, as an error of the catalog does.
        """
        async with AsyncExitStack() as stack:
            tasks = [_Task(each, stack.enter_context(work.shown("restore", each.id.path))) for each in wanted]
            # The lowest first, as an archive does: so neither waits for the other for ever.
            for task in sorted(tasks, key=lambda task: task.id.base_offset):
                await stack.enter_async_context(self.catalog.lock(task.id))
            found = await refresh_together(self.catalog, self.data_dir, [task.id for task in tasks])
            for task, segment in zip(tasks, found, strict=True):
                if isinstance(segment, TakhinError):
                    task.error = segment
                else:
                    task.segment = segment
            await for_each(tasks, self._begin, _resumed)
            arriving = [task for task in tasks if task.is_to_do]
            began = time.monotonic()
            with self.limits.turns.take(Turn.RESTORE):
                await self._bring(arriving)
            for task in arriving:
                if task.error is None:
                    self.metrics.restore_seconds.observe(
                        time.monotonic() - began, logs.exemplar(task.wanted.correlation)
                    )
            return [task.error or require_known(task.segment, task.id) for task in tasks]

    async def _begin(self, task: _Task) -> None:
        segment = task.segment
        if segment is not None and segment.local.log is not None:
            task.segment = await self._adopt(segment, task.wanted)
            task.is_done = True
            return
        task.manifest = manifest = await self._manifest(task.id, known=segment is not None)
        # Without its key nothing is fetched.
        task.decoders = decoders_of(manifest, self.codecs.keys)
        task.sources = await sources_of(self.store, manifest, self.codecs.keys)
        self.metrics.cache_misses.inc()

    async def _bring(self, tasks: Sequence[_Task]) -> None:
        """Download what is not on the disk, and place it there."""
        if not tasks:
            return
        async with self._room(tasks):
            placed = await self._download([task for task in tasks if task.is_to_do])
        for task, local in placed:
            archived = task.arriving
            segment = task.segment or Segment(task.id)
            with _resumed(task):
                task.segment = self._restored(segment, archived, local, task.wanted)
            reached("restore.placed")
        if not placed:
            return
        await self.catalog.flush()
        for task, local in placed:
            reached("restore.journaled")
            self.metrics.restores.labels("success").inc(1, logs.exemplar(task.wanted.correlation))
            self.metrics.promotions.inc()
            with named("restore", task.id.path, task.wanted.correlation):
                logs.logger().info("restored", bytes=local.size)

    async def _manifest(self, identity: SegmentId, *, known: bool) -> Manifest:
        manifest = await load_manifest(self.store, identity)
        if manifest is None and known:
            raise ObjectMissing(
                f"the manifest of segment {identity.path} is not in the archive",
                segment=identity.path,
                key=identity.manifest_key,
                hint="Somebody removed it: look for it in the bucket's versions or backups",
            )
        if manifest is None:
            raise unknown(identity, hint=where_else(self.catalog, identity))
        return manifest

    def _leased(self, segment: Segment, wanted: ToRestore) -> Segment:
        """With its lease."""
        seconds = self.situation.policy.lease if wanted.lease is None else max(0.0, wanted.lease)
        until = self.clock.stamp_now() + min(seconds, _LONGEST_LEASE)
        return replace(segment, lease_until=until, lease_by=wanted.by, last_access=self.clock.now(), last_failure="")

    async def _adopt(self, segment: Segment, wanted: ToRestore) -> Segment:
        """The log is on disk. If it is the archived one, the restore only renews the lease."""
        identity, path = segment.id, segment.id.path
        if segment.active:
            raise SegmentActive(f"segment {path} is the active one of its partition, and on disk", segment=path)
        if segment.archive is None:
            raise SegmentConflict(
                f"segment {path} is on disk and was never archived: there is nothing to restore", segment=path
            )
        if segment.is_proven:
            self.metrics.cache_hits.inc()
            segment = self._leased(segment, wanted)
            self.catalog.put(segment)
            await self.catalog.flush()
            return segment
        manifest = await self._manifest(identity, known=True)
        for kind, stat in segment.local.items():
            archived = manifest.files.get(kind)
            same = archived is not None and archived.plain_size == stat.size
            if archived and same:
                checksum = await read_local_checksum(self.data_dir, identity, kind, archived.plain_part_size)
                same = checksum == archived.plain_sha256
            if not same:
                raise SegmentConflict(
                    f"{identity.directory}/{identity.file(kind)} stands on disk with other bytes than the archive's",
                    segment=path,
                    key=archived.key if archived else "",
                    hint="Neither was touched. Move the local file away to restore the archived one",
                )
        self.metrics.cache_hits.inc()
        segment = self._restored(segment, manifest, segment.local, wanted)
        await self.catalog.flush()
        return segment

    def _restored(self, segment: Segment, manifest: Manifest, local: LocalFiles, wanted: ToRestore) -> Segment:
        """Tell the catalog that the segment is restored. The journal has it after the next flush."""
        archived = manifest.in_short(local)
        segment = replace(segment, local=local, archive=archived, settled=True, damage=manifest.problem, quarantine="")
        segment = self._leased(segment, wanted)
        self.catalog.put(segment)
        return segment

    @asynccontextmanager
    async def _room(self, tasks: Sequence[_Task]) -> AsyncIterator[None]:
        """Reserve the disk's room for them, beside what others reserve. Those that find none have `DiskFull`."""
        root, free = await in_thread(_free_for, self.data_dir, tasks[0].id)
        held, taken = self.data_dir.held, 0
        if free - held[root.device] - self.limits.reserve_bytes < (needed := sum(task.arriving.size for task in tasks)):
            held[root.device] += needed
            try:
                await self.limits.give_way(root.device)
            finally:
                held[root.device] -= needed
            root, free = await in_thread(_free_for, self.data_dir, tasks[0].id)
        for task in tasks:
            size, usable = task.arriving.size, max(0, free - held[root.device] - self.limits.reserve_bytes)
            if usable < size:
                task.error = DiskFull(
                    f"segment {task.id.path} takes {size} bytes, and {usable} are free, with "
                    f"{self.limits.reserve_bytes} held back by storage.tiered.restore.reserve.mb",
                    segment=task.id.path,
                    hint="It is whole in the archive. Make room, or restore it elsewhere",
                )
            else:
                held[root.device] += size
                taken += size
        try:
            yield
        finally:
            held[root.device] -= taken

    async def _download(self, tasks: Sequence[_Task]) -> list[tuple[_Task, LocalFiles]]:
        """Fetch the files under temporary names, and rename them once all is right; returns what was placed."""
        if not tasks:
            return []
        if any(task.arriving.kafka or task.arriving.topic_id for task in tasks):
            learn_kafka(self.situation)
        first = tasks[0].id
        try:
            with open_partition(self.data_dir, first, create=True) as partition:
                placement = Placement(self.catalog, self.data_dir, partition, first)
                try:
                    await in_thread(_require_places, placement, tasks)
                    await self._fetch(partition, tasks)
                    async with self.limits.placing:
                        return await self._place_all(placement, tasks)
                finally:
                    left = [task.id for task in tasks if task.error is not None or not placement.has(task.id)]
                    if left:
                        await in_thread(remove_temps, partition, left)
        except TakhinError as error:
            for task in tasks:
                task.error = task.error or error
            return []

    async def _fetch(self, partition: PartitionDir, tasks: Sequence[_Task]) -> None:
        parts = self.store, self.limits, self.metrics
        fetches = {
            task: Fetch(
                *parts,
                partition=partition,
                manifest=task.arriving,
                decoders=task.decoders,
                sources=task.sources,
                work=task.work,
            )
            for task in tasks
            if task.is_to_do
        }
        await for_each(tasks, lambda task: fetches[task].fetch(), _resumed)
        todo = [task for task in tasks if task.is_to_do]
        await in_thread(write_all, [fetches[task] for task in todo])
        for task in todo:
            task.error = fetches[task].error

    async def _place_all(self, placement: Placement, tasks: Sequence[_Task]) -> list[tuple[_Task, LocalFiles]]:
        """With `Limits.placing` held. Other restores may have placed segments during the download."""
        await in_thread(_require_places, placement, [task for task in tasks if task.is_to_do])
        await for_each(tasks, lambda task: self.neighbours.require(placement, task.id), _resumed)
        todo = [task for task in tasks if task.is_to_do]
        if not todo:
            return []
        if not placement.is_empty:
            return await in_thread(_place_in_turn, placement, todo)
        # The first one decides which incarnation stands there. The others are then compared with it.
        label = todo[0].wanted.log
        label = _log_of(self.catalog, todo[0].id) if label is None else label
        return await self._place_first(placement, todo, label)

    async def _place_first(
        self, placement: Placement, tasks: Sequence[_Task], label: str
    ) -> list[tuple[_Task, LocalFiles]]:
        """Journal the incarnation of the log before its first file is placed, so that it is known even after a kill."""
        partition = tasks[0].id.place.partition
        before = self.catalog.adopt(partition, label)
        placed: list[tuple[_Task, LocalFiles]] = []
        try:
            if before is not None:
                await self.catalog.flush()
                reached("restore.adopted")
            placed = await in_thread(_place_in_turn, placement, tasks)
        finally:
            if before is not None and not placed:
                self.catalog.adopt(partition, before)
        return placed


def _resumed(task: _Task) -> AbstractContextManager[None]:
    return resumed(task.work, task.wanted.correlation)


def _log_of(catalog: Catalog, identity: SegmentId) -> str:
    """The label of the log that a segment is restored to: the current one, if it is of that."""
    lineage = catalog.lineage(identity.place.partition)
    return lineage.current if catalog.is_current(identity) else identity.label


def _free_for(data_dir: DataDirs, identity: SegmentId) -> tuple[DataDir, int]:
    root = data_dir.root_for(identity.directory)
    return root, root.free_bytes()


def _require_places(placement: Placement, tasks: Sequence[_Task]) -> None:
    """Check that the segments may stand there: before the download, and again before they are placed."""
    placement.look()
    for task in tasks:
        try:
            with disk_errors(task.id):
                placement.require(task.arriving)
        except TakhinError as error:
            task.error = error


def _place_in_turn(placement: Placement, tasks: Sequence[_Task]) -> list[tuple[_Task, LocalFiles]]:
    placed: list[tuple[_Task, LocalFiles]] = []
    for task in tasks:
        try:
            with disk_errors(task.id):
                placement.require(task.arriving)
                placed.append((task, placement.place(task.arriving)))
        except TakhinError as error:
            task.error = error
    try:
        with disk_errors(tasks[0].id):
            placement.flush()
    except TakhinError as error:
        for task, _ in placed:
            task.error = error
        return []
    return placed
