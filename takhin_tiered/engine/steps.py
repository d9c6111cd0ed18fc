"""The steps of a plan, carried out some at a time: small segments of a partition go together.

A verb raises; here it is caught, for one segment at a time, and only this project's errors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import all_of
from takhin_tiered.engine.archive import Archiver
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.copying import ToArchive
from takhin_tiered.engine.evict import Evictor
from takhin_tiered.engine.expire import Expirer
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.marks import mark_failed, note_failure
from takhin_tiered.engine.progress import Progress
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.engine.situation import Situation
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import SegmentError, StoreError, StoreFull, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb
from takhin_tiered.store import ReadableStore, StoreHealth
from takhin_tiered.vault.opened import SMALL
from takhin_tiered.vault.owned import OwnedPrefix

# So many small segments go together, as each holds its files open and in memory.
_TOGETHER = 16
_BYTES_TOGETHER = 8 << 20


@dataclass(frozen=True, slots=True)
class StepRunner:
    """Carries out the steps of a plan."""

    catalog: Catalog
    store: ReadableStore
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    health: StoreHealth
    stopping: asyncio.Event
    progress: Progress
    archiver: Archiver
    evictor: Evictor
    expirer: Expirer

    async def carry_out(self, owned: OwnedPrefix, plan: Plan, report: CycleReport, listener: Listener) -> None:
        if plan.work:
            await self.store.check()
        # First segments that were archived with other bytes: they tell whether the log is another incarnation.
        again = [[step] for step in plan.work if step.again]
        await self._carry_out(owned, again, report, listener)
        others = [step for step in plan.work if not step.again]
        await self._carry_out(owned, list(self._batches(others)), report, listener)
        await self._evict_in_order(owned, plan, report)

    def _batches(self, steps: Sequence[Step]) -> Iterator[list[Step]]:
        """Steps that go together: the same with small segments of one partition. All others go by themselves.

        So does the first that may: a store that is full or down shows by one segment, not by a whole batch.
        """
        batch: list[Step] = []
        size = 0
        is_first = True
        for step in steps:
            local = step.local.size if step.local else 0
            joins = self._may_go_together(step) and local <= SMALL
            fits = len(batch) < _TOGETHER and size + local <= _BYTES_TOGETHER
            if batch and not (joins and fits and _alike(batch[-1], step)):
                yield batch
                batch, size = [], 0
            batch.append(step)
            size += local
            if not joins or is_first:
                is_first &= not joins
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _may_go_together(self, step: Step) -> bool:
        # The archive of a lower segment may expire one that was merged into it. So each goes alone.
        return step.verb in {Verb.ARCHIVE, Verb.COPY} and not self.situation.policy.takes_compacted

    async def _carry_out(
        self, owned: OwnedPrefix, batches: list[list[Step]], report: CycleReport, listener: Listener
    ) -> None:
        todo = _Todo(batches, in_order=owned.is_shared)

        async def worker() -> None:
            chain: deque[list[Step]] = deque()
            while True:
                await self.limits.turns.give_way(Turn.ARCHIVE)
                if self.stopping.is_set() or not (chain := chain or todo.take()):
                    return
                batch = chain.popleft()
                self._note_queue(todo.left)
                if self._has_to_wait(batch[0]):
                    report.postponed += len(batch)
                    continue
                with self.metrics.in_flight.track_inprogress(), self.limits.turns.take(Turn.ARCHIVE):
                    blocked = await self._carry_out_batch(owned, batch, report, listener)
                    report.postponed += todo.drop(blocked)

        await all_of([worker() for _ in range(min(self.limits.concurrency, todo.left))])
        report.postponed += todo.left
        self._note_queue(0)

    def _has_to_wait(self, step: Step) -> bool:
        """Whether the window that was open when the plan was made has closed since."""
        windows = self.situation.policy.windows
        return step.waits_for_window and windows.opens_at(self.clock.now()) is not None

    def _note_queue(self, length: int) -> None:
        self.progress.queued = length
        self.metrics.queued.set(length)

    async def _evict_in_order(self, owned: OwnedPrefix, plan: Plan, report: CycleReport) -> None:
        """Evict what is archived and waited for those below it (`Evictor.keeps`), from the lowest up."""
        if not self.situation.policy.kafka and not owned.is_shared:
            return
        wanted = [step for step in plan.work if step.verb in {Verb.ARCHIVE, Verb.EVICT}]
        failed = {path for path, _ in report.failures}
        for partition, group in groupby(wanted, key=lambda step: step.id.place.partition):
            for step in group:
                identity = self.catalog.current(partition, step.id.base_offset)
                segment = self.catalog.get(identity)
                if segment is None or not segment.local:
                    continue
                # It may have been restored meanwhile. What failed is tried again by the next cycle.
                stays = step.id.path in failed or segment.lease_left(self.clock.sure_now()) or not segment.is_proven
                if self.stopping.is_set() or stays or self.evictor.keeps(owned, identity):
                    break
                try:
                    if await self.evictor.evict(owned, identity):
                        report.evicted += 1
                        report.bytes_freed += step.frees
                except TakhinError as error:
                    self._note_failure(step, identity, error)
                    report.failures.append((step.id.path, str(error)))
                    break

    async def _carry_out_batch(
        self, owned: OwnedPrefix, steps: list[Step], report: CycleReport, listener: Listener
    ) -> frozenset[Verb]:
        """Carry out steps. Returns the verbs that are blocked until the next cycle, as the store is full or down."""
        for step in steps:
            listener(step, "begin")
        first = steps[0]
        results: list[Segment | TakhinError | None]
        if first.verb in {Verb.ARCHIVE, Verb.COPY}:
            # A step before this one may have found the log to be another incarnation.
            wanted = [ToArchive(_current(self.catalog, step), step.local) for step in steps]
            try:
                results = [*await self.archiver.archive_together(owned, wanted, evict=first.verb is Verb.ARCHIVE)]
            except TakhinError as error:
                results = [error] * len(steps)
        else:
            results = [await self._remove(owned, first)]
        failed: list[TakhinError] = []
        for step, result in zip(steps, results, strict=True):
            if isinstance(result, TakhinError):
                listener(step, str(result))
                if step.id.place.partition not in self.catalog.gapped:
                    self._note_failure(step, _current(self.catalog, step), result)
                    report.failures.append((step.id.path, str(result)))
                    failed.append(result)
            else:
                if result is not None:
                    _count(step, result, report)
                listener(step, "done")
        if any(isinstance(error, StoreFull) for error in failed):
            return frozenset({Verb.ARCHIVE, Verb.COPY})
        if any(isinstance(error, StoreError) for error in failed) and not await self._store_answers():
            return frozenset(Verb)
        return frozenset()

    async def _remove(self, owned: OwnedPrefix, step: Step) -> Segment | TakhinError | None:
        """Evict or expire; the segment as it stands then, None where nothing was to be done."""
        identity = _current(self.catalog, step)
        try:
            if step.verb is Verb.EXPIRE:
                await self.expirer.expire(owned, step.id)
                return Segment(step.id)
            known = self.catalog.get(identity)
            if known is not None and known.local and known.archive is None:
                # A step before this one found the log to be another incarnation: the next cycle archives it.
                return None
            if self.evictor.keeps(owned, identity) or not await self.evictor.evict(owned, identity):
                return None
            return Segment(identity)
        except TakhinError as error:
            return error

    def _note_failure(self, step: Step, identity: SegmentId, error: TakhinError) -> None:
        attempts = None if step.verb is Verb.EXPIRE else self.metrics.archives
        note_failure(self.health, self.metrics.evictions if step.verb is Verb.EVICT else attempts, error)
        say = logs.logger().warning if isinstance(error, SegmentError) else logs.logger().error
        say("segment failed", verb=str(step.verb), segment=step.id.path, code=error.code, error=str(error))
        mark_failed(self.catalog, identity, error)

    async def _store_answers(self) -> bool:
        try:
            await self.store.check()
        except StoreError:
            return False
        return True


class _Todo:
    """Batches that are to be carried out, in chains: those of one chain go one after the other.

    ``in_order``: all of a partition are one chain. Where replicas share the archive, the lowest segment of a log tells
    whether those above it are archived with the others'.
    """

    def __init__(self, batches: Sequence[list[Step]], *, in_order: bool) -> None:
        self._chains = [deque([batch]) for batch in batches]
        if in_order:
            groups = groupby(batches, key=lambda batch: batch[0].id.place.partition)
            self._chains = [deque(group) for _, group in groups]
        self._untaken = deque(self._chains)

    def take(self) -> deque[list[Step]]:
        """A chain that nobody has taken; an empty one if there is none left."""
        while self._untaken:
            if chain := self._untaken.popleft():
                return chain
        return deque()

    @property
    def left(self) -> int:
        """Steps that are not begun."""
        return sum(len(batch) for chain in self._chains for batch in chain)

    def drop(self, blocked: frozenset[Verb]) -> int:
        """Take out batches with these verbs; returns how many steps they have."""
        before = self.left if blocked else 0
        for chain in self._chains if blocked else ():
            kept = [batch for batch in chain if batch[0].verb not in blocked]
            chain.clear()
            chain.extend(kept)
        return before - self.left if blocked else 0


def _alike(before: Step, step: Step) -> bool:
    is_next = before.id.place.partition == step.id.place.partition and before.id.base_offset < step.id.base_offset
    return before.verb is step.verb and is_next


def _current(catalog: Catalog, step: Step) -> SegmentId:
    return catalog.current(step.id.place.partition, step.id.base_offset)


def _count(step: Step, segment: Segment, report: CycleReport) -> None:
    """What became of a step that succeeded."""
    if step.verb is not Verb.EXPIRE and segment.archive is None and segment.local:
        # It waits for what other replicas archive.
        report.postponed += 1
        return
    report.bytes_freed += 0 if segment.local else step.frees
    if step.verb is Verb.EXPIRE:
        report.expired += 1
        return
    report.evicted += not segment.local
    report.archived += step.verb is Verb.ARCHIVE
    report.copied += step.verb is Verb.COPY
