"""Archive: the files of segments go to the store, each segment's manifest last.

The bytes are those of files held open, whose size, modification, change and inode must be the same before
and after, under the same names. An object is never overwritten: where other bytes stand in its place,
the segment gets the next generation. Small segments of one partition go together, and fail each by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from takhin_tiered import logs, work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.branching import OtherIncarnation, branch
from takhin_tiered.engine.copying import Copier, Task, ToArchive, apart_from, step_of_each
from takhin_tiered.engine.evict import Evictor
from takhin_tiered.engine.refresh import refresh, refresh_together, require_known
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import SegmentActive, SegmentChanged, SegmentConflict, SegmentRefused, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.model import LocalFiles, Segment, State
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.opened import OpenSegment, close_all
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import require_all_keys
from takhin_tiered.vault.writer import changed
from takhin_tiered.verbs import named, only

_SETTLE_SECONDS = 1.0
_INCARNATIONS_TRIED = 3


@dataclass(frozen=True, slots=True)
class Archiver:
    """Archives segments, and evicts them where that is asked for."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    situation: Situation
    metrics: Metrics
    copier: Copier
    evictor: Evictor

    async def archive(
        self, owned: OwnedPrefix, identity: SegmentId, *, evict: bool, expected: LocalFiles | None = None
    ) -> Segment:
        """Bring a segment into the store, and with ``evict`` off the disk. Success if it was there already.

        Raises `SegmentNotFound`, `SegmentActive`, `SegmentChanged`, `SegmentConflict`, `SegmentRefused`,
        `StoreError` or `DiskError`; the local files are whole then, and nothing half done counts as archived.
        """
        return only(await self.archive_together(owned, [ToArchive(identity, expected)], evict=evict))

    async def archive_together(
        self, owned: OwnedPrefix, wanted: Sequence[ToArchive], *, evict: bool
    ) -> list[Segment | TakhinError]:
        """Archive segments of one partition, in the order of their base offsets: each as it stands then, or its error.

        See `archive`. Raises what concerns all of them, as an error of the catalog does.
        """
        if wanted:
            await self.copier.adopter.learner.look_at(owned, wanted[0].id)
        results: dict[int, Segment | TakhinError] = {}
        todo = list(enumerate(wanted))
        for number_of_try in range(_INCARNATIONS_TRIED):
            if number_of_try and owned.is_shared:
                # Another replica was faster: what it archived meanwhile may have these bytes.
                owned.looked_at.discard(wanted[0].id.place.partition)
                await self.copier.adopter.learner.look_at(owned, wanted[0].id)
            compared = []
            for number, each in todo:
                try:
                    with named("archive", each.id.path):
                        compared.append((number, replace(each, id=await self._compare_below(owned, each.id))))
                except TakhinError as error:
                    results[number] = error
            async with self._tasks([each for _, each in compared]) as tasks:
                await self._archive_held(owned, tasks, evict=evict)
                self._note_begun(owned, tasks)
                for task in tasks:
                    if isinstance(task.error, OtherIncarnation):
                        if not (task.known.archive is not None and task.known.archive.held):
                            # It was held to be compared.
                            await owned.release(task.id)
                        task.becomes = await branch(
                            self.catalog,
                            self.store,
                            task.opened,
                            task.error,
                            task.opened.topic_id,
                            is_shared=owned.is_shared,
                        )
            todo = []
            for (number, each), task in zip(compared, tasks, strict=True):
                if task.becomes is not None:
                    todo.append((number, replace(each, id=task.becomes)))
                elif isinstance(task.error, TakhinError):
                    results[number] = task.error
                else:
                    results[number] = task.known
            if not todo:
                break
        for number, each in todo:
            path = each.id.path
            results[number] = SegmentConflict(f"{path} contradicts what is archived, again and again", segment=path)
        return [results[number] for number in range(len(wanted))]

    def _note_begun(self, owned: OwnedPrefix, tasks: Sequence[Task]) -> None:
        """With the first segment of a partition, others may have begun too: what they archived is learned once more."""
        partitions = {task.id.place.partition for task in tasks if task.manifest is not None and not task.is_adopted}
        owned.looked_at -= partitions - owned.begun
        owned.begun |= partitions

    @asynccontextmanager
    async def _tasks(self, wanted: Iterable[ToArchive]) -> AsyncIterator[list[Task]]:
        """With all locks held, the lowest taken first. At the end one turn of a thread closes all that was opened."""
        async with AsyncExitStack() as stack:
            tasks: list[Task] = []
            for each in wanted:
                shown = stack.enter_context(work.shown("archive", each.id.path))
                tasks.append(Task(each, OpenSegment(each.id, self.copier.codecs.chunk_size), shown))
            for task in tasks:
                await stack.enter_async_context(self.catalog.lock(task.id))
            try:
                yield tasks
            finally:
                await close_all([task.opened for task in tasks])

    async def _compare_below(self, owned: OwnedPrefix, identity: SegmentId) -> SegmentId:
        """Archive changed segments below first: they tell whether the log is another incarnation.

        Else this segment would be filed with the old one. Returns the segment's identity after that. A lower segment
        never waits for a higher one.
        """
        if self.situation.policy.takes_compacted or not self.catalog.is_current(identity):
            return identity
        compared: SegmentId | None = None
        while (low := self.catalog.unproven_below(identity)) is not None:
            if low == compared:
                raise SegmentChanged(
                    f"segment {low.path} below it is not what was archived, and cannot be compared",
                    segment=identity.path,
                )
            await self.archive(owned, low, evict=False)
            compared = low
        return self.catalog.current(identity.place.partition, identity.base_offset)

    async def _archive_held(self, owned: OwnedPrefix, tasks: Sequence[Task], *, evict: bool) -> None:
        for task in tasks:
            task.before = task.wanted.expected or _last_seen(self.catalog, task.id)
        await self._refresh(tasks)
        await step_of_each(tasks, self._require_ready)
        to_copy = [task for task in tasks if task.is_to_do and not task.known.is_proven]
        began = time.monotonic()
        await self.copier.copy(owned, to_copy)
        for task in to_copy:
            if task.is_to_do:
                self.metrics.archive_seconds.observe(time.monotonic() - began, logs.exemplar())
                self.metrics.archives.labels("success").inc(1, logs.exemplar())
                with named("archive", task.id.path):
                    logs.logger().info("adopted" if task.is_adopted else "archived", bytes=task.known.local.size)
        to_evict = [task for task in tasks if task.is_to_do and evict and not self.evictor.keeps(owned, task.id)]
        if (apart := apart_from(tasks)) is not None:
            # What stands above it belongs to its log, and is archived with that one.
            to_evict = [task for task in to_evict if task.id.base_offset < apart]
        await step_of_each(to_evict, self._require_keys)
        to_evict = [task for task in to_evict if task.is_to_do]
        if not to_evict:
            return
        copied = {task.id: task.opened for task in to_copy}
        results = await self.evictor.evict_together(owned, [task.known for task in to_evict], copied)
        for task, result in zip(to_evict, results, strict=True):
            if isinstance(result, TakhinError):
                task.error = result
            else:
                task.segment = result

    async def _require_keys(self, task: Task) -> None:
        """What was archived before may need a key that is not at hand any more."""
        if task.manifest is not None:
            await require_all_keys(self.store, task.manifest, self.copier.codecs.keys)

    async def _refresh(self, tasks: Sequence[Task]) -> None:
        """Refresh the segments. The same thread call opens their files, and reads small ones."""
        if not tasks:
            return
        opened = {task.id: task.opened for task in tasks}
        for task, found in zip(
            tasks, await refresh_together(self.catalog, self.data_dir, [*opened], opened), strict=True
        ):
            if isinstance(found, TakhinError):
                task.error = found
            else:
                task.segment = found

    async def _require_ready(self, task: Task) -> None:
        """Return if the segment may be archived, or is done already."""
        segment = task.segment = require_known(task.segment, task.id)
        if segment.state is State.ARCHIVED:
            task.is_done = True
            return
        self._require_movable(segment)
        if task.before is not None and task.before != segment.local:
            # A file that changes now may change without a trace in its times. So it is read after the wait, not before.
            await in_thread(task.opened.close)
            task.segment = await self._require_settled(segment, by_plan=task.wanted.expected is not None)

    def _require_movable(self, segment: Segment) -> None:
        path = segment.id.path
        if not self.situation.policy.enabled:
            raise SegmentRefused(
                "tiered storage is not enabled, so nothing is moved",
                segment=path,
                hint="Set storage.tiered.enabled: true",
            )
        if not self.situation.policy.covers(segment.id.topic):
            raise SegmentRefused(
                f"the configuration leaves topic {segment.id.topic} out",
                segment=path,
                hint="See storage.tiered.topics.include and .exclude",
            )
        if segment.active:
            raise SegmentActive(
                f"segment {path} is the active one of its partition: the broker still writes to it", segment=path
            )
        if segment.id in self.situation.outlook.unsafe and not segment.is_proven:
            # The broker may write to the segment that its high watermark lies in, whatever stands above it.
            raise SegmentActive(f"segment {path} is {self.situation.outlook.unsafe[segment.id]}", segment=path)

    async def _require_settled(self, segment: Segment, *, by_plan: bool) -> Segment:
        """A segment that changed since the last scan waits for the next cycle. By hand, it is looked at twice."""
        if not by_plan:
            await asyncio.sleep(_SETTLE_SECONDS)
            again = require_known(await refresh(self.catalog, self.data_dir, segment.id), segment.id)
            if again.local == segment.local and not again.active:
                return again
        raise changed(segment.id, "since the last scan")


def _last_seen(catalog: Catalog, identity: SegmentId) -> LocalFiles | None:
    known = catalog.get(identity)
    return known.local if known and known.local else None
