"""The cycle: scan, classify, plan, then archive and evict, some segments at a time.

A verb raises; only the cycle catches, one segment at a time, and only this project's errors. Anything
else is a fault of the program, and stops it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, islice

from takhin_tiered import logs
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.scan import scan
from takhin_tiered.engine.archive import archive
from takhin_tiered.engine.brokers import look_at_brokers
from takhin_tiered.engine.context import Engine, require_in_place
from takhin_tiered.engine.coverage import count_holes
from takhin_tiered.engine.evict import evict, leaves_gap
from takhin_tiered.engine.expire import expire
from takhin_tiered.engine.marks import mark_failed, note_failure
from takhin_tiered.engine.orphans import remove_orphans, remove_stale_uploads
from takhin_tiered.engine.outlook import is_compacted, look_ahead, read_directories
from takhin_tiered.engine.read_only import leave_read_only
from takhin_tiered.engine.restore import remove_unfinished
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import DiskError, SegmentError, StoreError, StoreFull, TakhinError
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb, make_plan
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import CycleResult, FailedSegment

_LISTINGS_AT_ONCE = 4
_WRITES_AT_ONCE = 20_000
_CLOCKS_DIFFER_SECONDS = 3600.0
_STALE_UPLOAD_SECONDS = 24 * 3600.0


@dataclass(slots=True)
class CycleReport:
    """What one cycle did. Times are seconds since the epoch; ``postponed`` steps were not begun.

    ``evicted`` are all that left the disk, just archived or before.

    ``bytes_freed`` are those of unlinked files. Their space is free once whoever has them open, as a live broker
    does, closes them.
    """

    started_at: float
    ended_at: float = 0.0
    planned: int = 0
    archived: int = 0
    copied: int = 0
    evicted: int = 0
    expired: int = 0
    postponed: int = 0
    bytes_freed: int = 0
    trimmed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.failures)

    @property
    def result(self) -> CycleResult:
        """As it stands now, in the stable form."""
        return CycleResult(
            started_at=iso_time(self.started_at),
            ended_at=iso_time(self.ended_at),
            archived=self.archived,
            copied=self.copied,
            evicted=self.evicted,
            expired=self.expired,
            postponed=self.postponed,
            bytes_freed=self.bytes_freed,
            trimmed=self.trimmed,
            failures=tuple(FailedSegment(path, error) for path, error in self.failures),
        )


After = Callable[[CycleReport], Awaitable[None]]


async def _nothing(_: CycleReport) -> None:
    """Where only the steps of the plan are to be done."""


Listener = Callable[[Step, str], None]
"""Told of each step: ``begin``, then ``done``, or why it failed."""


@dataclass(slots=True)
class Look:
    """What a scan found besides segments: unfinished files of a restore, and partitions that cannot be read."""

    unfinished: list[PartitionListing] = field(default_factory=list)
    unreadable: list[PartitionListing] = field(default_factory=list)


async def refresh_catalog(engine: Engine) -> Look:
    """Scan the data directories, and take over what it shows. `DiskError` where one cannot be read.

    What is known of a partition that cannot be read stays as it is.
    """
    look = Look()
    await in_thread(require_in_place, engine)
    await in_thread(look_at_brokers, engine)
    engine.catalog.begin_scan()
    seen: set[tuple[str, int]] = set()
    listings = scan(engine.data_dir, engine.scan_memory, engine.catalog.restless, known=len(engine.catalog))
    try:
        with closing(listings):
            while batch := await in_thread(lambda: list(islice(listings, _LISTINGS_AT_ONCE))):
                for listing in batch:
                    seen.add((listing.topic, listing.partition))
                    if listing.problem:
                        look.unreadable.append(listing)
                        continue
                    _tell_gone(engine, engine.catalog.observe(listing), listing)
                    if listing.unfinished:
                        look.unfinished.append(listing)
                    # Whoever asks for something meanwhile is answered between two partitions.
                    await asyncio.sleep(0)
                if engine.catalog.unwritten > _WRITES_AT_ONCE:
                    await engine.catalog.flush()
    except OSError as error:
        raise DiskError(
            f"the data directory {error.filename or engine.data_dir} cannot be read: {error.strerror or error}",
            hint="Nothing is moved until it can",
        ) from error
    _tell_gone(engine, engine.catalog.observe_missing(seen), None)
    engine.outlook = await in_thread(look_ahead, engine)
    await engine.catalog.flush()
    await in_thread(measure_room, engine)
    _tell_of_the_future(engine)
    for listing in look.unreadable:
        logs.logger().error("a partition cannot be read", partition=listing.directory, error=listing.problem)
    return look


def measure_room(engine: Engine) -> dict[int, int]:
    """Tell the metrics how much is free, and return it for each file system."""
    for root in engine.data_dir.roots:
        engine.metrics.data_dir_free_bytes.labels(str(root.path)).set(root.free_bytes())
    free = engine.data_dir.free_by_device()
    engine.metrics.disk_free_bytes.set(sum(free.values()))
    return free


def plan_now(engine: Engine) -> Plan:
    """What a cycle would do, by what the catalog knows."""
    catalog = engine.catalog
    now, segments = engine.clock(), catalog.segments()
    return make_plan(
        segments, catalog.restored(), engine.policy, now, outlook=engine.outlook_now, is_current=catalog.is_current
    )


def _plan_work(engine: Engine) -> Plan:
    """The same, without what is kept: cheap where there is little to do."""
    catalog, policy, now = engine.catalog, engine.policy, engine.clock()
    # What stays has its say on what is above it in Kafka's log.
    needs_all = policy.kafka and policy.may_unlink
    segments: Iterable[Segment] = catalog.segments() if needs_all else catalog.may_have_work(policy, now)
    if not needs_all and engine.outlook.due:
        found = {segment.id: segment for segment in segments}
        due = ((identity, catalog.get(identity)) for identity in engine.outlook.due)
        found |= {identity: segment for identity, segment in due if segment is not None}
        segments = [found[identity] for identity in sorted(found)]
    return make_plan(
        segments,
        catalog.restored(),
        policy,
        now,
        work_only=True,
        outlook=engine.outlook_now,
        is_current=catalog.is_current,
    )


async def run_cycle(engine: Engine, listener: Listener = lambda *_: None, after: After = _nothing) -> CycleReport:
    """One cycle; ``after`` is what is to be done once all is archived.

    Raises `DiskError` or `StoreError` where nothing can be done at all.
    """
    async with engine.cycle_lock:
        report = CycleReport(started_at=engine.clock())
        with logs.operation("cycle", ""), engine.metrics.cycle_seconds.time():
            try:
                look = await refresh_catalog(engine)
                for listing in look.unreadable:
                    report.failures.append((listing.directory, f"the partition cannot be read: {listing.problem}"))
                for listing in look.unfinished:
                    await remove_unfinished(engine, listing)
                # In a thread: a look at a million rows takes the loop's time for as long as a person would notice.
                plan = await leave_read_only(engine, await in_thread(_plan_work, engine))
                report.planned, engine.planned_bytes = len(plan.work), plan.bytes_uploaded
                engine.planned_segments = report.planned
                if plan.work:
                    await engine.store.check()
                # First what was archived otherwise before: it tells whether the log is another incarnation.
                again = [step for step in plan.work if step.again]
                await _carry_out(engine, again, report, listener)
                await _carry_out(engine, [step for step in plan.work if not step.again], report, listener)
                await _evict_in_order(engine, plan, report)
                await after(report)
                await in_thread(count_holes, engine)
                if engine.policy.enabled:
                    await _clean_up(engine)
            except TakhinError:
                engine.metrics.cycles.labels("failure").inc()
                raise
            finally:
                report.ended_at = engine.clock()
                engine.metrics.last_cycle.set(report.ended_at)
            engine.metrics.cycles.labels("failure" if report.failed else "success").inc()
            logs.logger().info(
                "cycle ended",
                archived=report.archived,
                copied=report.copied,
                evicted=report.evicted,
                expired=report.expired,
                bytes_unlinked=report.bytes_freed,
                failed=len(report.failures),
                postponed=report.postponed,
                seconds=round(report.ended_at - report.started_at, 3),
            )
        return report


async def _carry_out(engine: Engine, steps: list[Step], report: CycleReport, listener: Listener) -> None:
    todo = deque(steps)

    async def worker() -> None:
        while True:
            await engine.turns.give_way(Turn.ARCHIVE)
            if not todo or engine.stopping.is_set():
                return
            step = todo.popleft()
            _note_queue(engine, len(todo))
            with engine.metrics.in_flight.track_inprogress(), engine.turns.take(Turn.ARCHIVE):
                hopeless = await _step(engine, step, report, listener)
                if hopeless:
                    left = [step for step in todo if step.verb not in hopeless]
                    report.postponed += len(todo) - len(left)
                    todo.clear()
                    todo.extend(left)

    await all_of([worker() for _ in range(min(engine.concurrency, len(todo)))])
    report.postponed += len(todo)
    _note_queue(engine, 0)


def _note_queue(engine: Engine, length: int) -> None:
    engine.queued = length
    engine.metrics.queued.set(length)


async def _evict_in_order(engine: Engine, plan: Plan, report: CycleReport) -> None:
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
                if await evict(engine, identity):
                    report.evicted += 1
                    report.bytes_freed += step.frees
            except TakhinError as error:
                _note_failure(engine, step, identity, error)
                report.failures.append((step.id.path, str(error)))
                break


async def _step(engine: Engine, step: Step, report: CycleReport, listener: Listener) -> frozenset[Verb]:
    """Carry out one step; returns what there is no sense in going on with: that waits for the next cycle, on disk."""
    listener(step, "begin")
    # A step before this one may have found the log to be another incarnation.
    identity = engine.catalog.current(step.id.place.partition, step.id.base_offset)
    freed = step.frees
    try:
        if step.verb is Verb.EVICT:
            if leaves_gap(engine, identity) or not await evict(engine, identity):
                listener(step, "done")
                return frozenset()
            report.evicted += 1
        elif step.verb is Verb.EXPIRE:
            await expire(engine, step.id)
            report.expired += 1
        else:
            segment = await archive(engine, identity, evict=step.verb is Verb.ARCHIVE, expected=step.local)
            freed = 0 if segment.local else step.frees
            report.evicted += not segment.local
            if step.verb is Verb.ARCHIVE:
                report.archived += 1
            else:
                report.copied += 1
        report.bytes_freed += freed
        listener(step, "done")
    except TakhinError as error:
        listener(step, str(error))
        if step.id.place.partition in engine.catalog.gapped:
            return frozenset()
        _note_failure(engine, step, identity, error)
        report.failures.append((step.id.path, str(error)))
        if isinstance(error, StoreFull):
            return frozenset({Verb.ARCHIVE, Verb.COPY})
        if isinstance(error, StoreError) and not await _store_answers(engine):
            return frozenset(Verb)
    return frozenset()


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


async def _clean_up(engine: Engine) -> None:
    """Take away what uploads that broke off left."""
    try:
        if engine.catalog.intents():
            await remove_orphans(engine)
    except StoreError as error:
        logs.logger().warning("what broken uploads left was not looked for", error=str(error))
        return
    await remove_stale_uploads(engine, _STALE_UPLOAD_SECONDS)


def future_segments(engine: Engine) -> int:
    """Segments whose times are in the future: by those they never grow cold."""
    return engine.catalog.later_than(engine.clock() + _CLOCKS_DIFFER_SECONDS)


def _tell_of_the_future(engine: Engine) -> None:
    if count := future_segments(engine):
        logs.logger().warning(
            "segments were modified in the future, and do not grow cold until then",
            segments=count,
            hint="If a clock was wrong, set their times right (touch), or archive them by hand",
        )


def _tell_gone(engine: Engine, identities: list[SegmentId], listing: PartitionListing | None) -> None:
    """Segments that the broker deleted before they were archived: their records are nowhere any more."""
    bases = sorted({identity.base_offset for identity in identities} | set(listing.rows if listing else ()))
    if identities and engine.policy.kafka:
        # The cleaner, which merges segments, may have begun since the last look.
        read_directories(engine)
    for identity in identities:
        if not engine.policy.covers(identity.topic) or is_compacted(engine, identity.place.partition):
            logs.logger().info("a segment that is not archived is gone from the disk", segment=identity.path)
            continue
        engine.metrics.lost.inc()
        engine.lost.append((engine.clock(), identity.path))
        above = next((base for base in bases if base > identity.base_offset), None)
        told = engine.view.offsets.get(identity.place.partition)
        end = above if above is not None else told.high_watermark if told is not None else None
        logs.logger().warning(
            "a segment is gone from the disk that was never archived",
            segment=identity.path,
            first_offset=identity.base_offset,
            last_offset=None if end is None else end - 1,
            hint="If the topic was not deleted: archive earlier, and set segment.ms well below retention.ms, as Kafka "
            "rolls and deletes an idle topic's last segment in one pass: less is in it then",
        )
