"""The steps of a plan, carried out some at a time: small segments of a partition go together.

A verb raises; here it is caught, for one segment at a time, and only this project's errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby

from takhin_tiered import logs
from takhin_tiered.concurrency import all_of
from takhin_tiered.engine.archive import archive_together
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.copying import Wanted
from takhin_tiered.engine.evict import evict, leaves_gap
from takhin_tiered.engine.expire import expire
from takhin_tiered.engine.marks import mark_failed, note_failure
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import SegmentError, StoreError, StoreFull, TakhinError
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb
from takhin_tiered.vault.opened import SMALL
from takhin_tiered.vault.owned import OwnedPrefix

# So many small segments go together, as each holds its files open and in memory.
_TOGETHER = 16
_BYTES_TOGETHER = 8 << 20


async def carry_out(engine: Engine, owned: OwnedPrefix, plan: Plan, report: CycleReport, listener: Listener) -> None:
    if plan.work:
        await engine.store.check()
    # First what was archived otherwise before: it tells whether the log is another incarnation.
    again = [[step] for step in plan.work if step.again]
    await _carry_out(engine, owned, again, report, listener)
    others = [step for step in plan.work if not step.again]
    await _carry_out(engine, owned, list(_batches(engine, others)), report, listener)
    await _evict_in_order(engine, owned, plan, report)


def _batches(engine: Engine, steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Steps that go together: the same with small segments of one partition. All others go by themselves."""
    batch: list[Step] = []
    size = 0
    for step in steps:
        local = step.local.size if step.local else 0
        joins = _may_go_together(engine, step) and local <= SMALL
        fits = len(batch) < _TOGETHER and size + local <= _BYTES_TOGETHER
        if batch and not (joins and fits and _alike(batch[-1], step)):
            yield batch
            batch, size = [], 0
        batch.append(step)
        size += local
        if not joins:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _may_go_together(engine: Engine, step: Step) -> bool:
    # What the cleaner merged away is expired by the archive of a lower segment, so each goes alone.
    return step.verb in {Verb.ARCHIVE, Verb.COPY} and not engine.policy.takes_compacted


def _alike(before: Step, step: Step) -> bool:
    is_next = before.id.place.partition == step.id.place.partition and before.id.base_offset < step.id.base_offset
    return before.verb is step.verb and is_next


async def _carry_out(
    engine: Engine, owned: OwnedPrefix, batches: list[list[Step]], report: CycleReport, listener: Listener
) -> None:
    todo = deque(batches)

    async def worker() -> None:
        while True:
            await engine.turns.give_way(Turn.ARCHIVE)
            if not todo or engine.stopping.is_set():
                return
            batch = todo.popleft()
            _note_queue(engine, sum(map(len, todo)))
            with engine.metrics.in_flight.track_inprogress(), engine.turns.take(Turn.ARCHIVE):
                hopeless = await _carry_out_batch(engine, owned, batch, report, listener)
                if hopeless:
                    left = [batch for batch in todo if batch[0].verb not in hopeless]
                    report.postponed += sum(map(len, todo)) - sum(map(len, left))
                    todo.clear()
                    todo.extend(left)

    await all_of([worker() for _ in range(min(engine.concurrency, len(todo)))])
    report.postponed += sum(map(len, todo))
    _note_queue(engine, 0)


def _note_queue(engine: Engine, length: int) -> None:
    engine.queued = length
    engine.metrics.queued.set(length)


async def _evict_in_order(engine: Engine, owned: OwnedPrefix, plan: Plan, report: CycleReport) -> None:
    """Of Kafka's logs, from the lowest segment up: what is archived, and could not go before those below it."""
    if not engine.policy.kafka:
        return
    wanted = [step for step in plan.work if step.verb in {Verb.ARCHIVE, Verb.EVICT}]
    for partition, group in groupby(wanted, key=lambda step: step.id.place.partition):
        for step in group:
            identity = engine.catalog.current(partition, step.id.base_offset)
            segment = engine.catalog.get(identity)
            if segment is None or not segment.local:
                continue
            if engine.stopping.is_set() or not segment.is_proven or leaves_gap(engine, identity):
                break
            try:
                if await evict(engine, owned, identity):
                    report.evicted += 1
                    report.bytes_freed += step.frees
            except TakhinError as error:
                _note_failure(engine, step, identity, error)
                report.failures.append((step.id.path, str(error)))
                break


async def _carry_out_batch(
    engine: Engine, owned: OwnedPrefix, steps: list[Step], report: CycleReport, listener: Listener
) -> frozenset[Verb]:
    """Carry out steps; returns what there is no sense in going on with: that waits for the next cycle, on disk."""
    for step in steps:
        listener(step, "begin")
    first = steps[0]
    results: list[Segment | TakhinError | None]
    if first.verb in {Verb.ARCHIVE, Verb.COPY}:
        # A step before this one may have found the log to be another incarnation.
        wanted = [Wanted(_current(engine, step), step.local) for step in steps]
        try:
            results = [*await archive_together(engine, owned, wanted, evict=first.verb is Verb.ARCHIVE)]
        except TakhinError as error:
            results = [error] * len(steps)
    else:
        results = [await _remove(engine, owned, first)]
    failed: list[TakhinError] = []
    for step, result in zip(steps, results, strict=True):
        if isinstance(result, TakhinError):
            listener(step, str(result))
            if step.id.place.partition not in engine.catalog.gapped:
                _note_failure(engine, step, _current(engine, step), result)
                report.failures.append((step.id.path, str(result)))
                failed.append(result)
        else:
            if result is not None:
                _count(step, result, report)
            listener(step, "done")
    if any(isinstance(error, StoreFull) for error in failed):
        return frozenset({Verb.ARCHIVE, Verb.COPY})
    if any(isinstance(error, StoreError) for error in failed) and not await _store_answers(engine):
        return frozenset(Verb)
    return frozenset()


def _current(engine: Engine, step: Step) -> SegmentId:
    return engine.catalog.current(step.id.place.partition, step.id.base_offset)


async def _remove(engine: Engine, owned: OwnedPrefix, step: Step) -> Segment | TakhinError | None:
    """Evict or expire; the segment as it stands then, None where nothing was to be done."""
    identity = _current(engine, step)
    try:
        if step.verb is Verb.EXPIRE:
            await expire(engine, owned, step.id)
            return Segment(step.id)
        if leaves_gap(engine, identity) or not await evict(engine, owned, identity):
            return None
        return Segment(identity)
    except TakhinError as error:
        return error


def _count(step: Step, segment: Segment, report: CycleReport) -> None:
    """What became of a step that succeeded."""
    report.bytes_freed += 0 if segment.local else step.frees
    if step.verb is Verb.EXPIRE:
        report.expired += 1
        return
    report.evicted += not segment.local
    report.archived += step.verb is Verb.ARCHIVE
    report.copied += step.verb is Verb.COPY


def _note_failure(engine: Engine, step: Step, identity: SegmentId, error: TakhinError) -> None:
    attempts = None if step.verb is Verb.EXPIRE else engine.metrics.archives
    note_failure(engine, engine.metrics.evictions if step.verb is Verb.EVICT else attempts, error)
    say = logs.logger().warning if isinstance(error, SegmentError) else logs.logger().error
    say("segment failed", verb=str(step.verb), segment=step.id.path, code=error.code, error=str(error))
    mark_failed(engine.catalog, identity, error)


async def _store_answers(engine: Engine) -> bool:
    try:
        await engine.store.check()
    except StoreError:
        return False
    return True
