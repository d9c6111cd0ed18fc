"""The cycle: scan, classify, plan, then archive and evict, some segments at a time.

A verb raises; only the cycle catches, one segment at a time, and only this project's errors. Anything
else is a fault of the program, and stops it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.coverage import count_holes
from takhin_tiered.engine.read_only import leave_read_only
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.engine.restore import remove_unfinished
from takhin_tiered.engine.scanning import refresh_catalog
from takhin_tiered.engine.steps import carry_out
from takhin_tiered.errors import StoreError, TakhinError
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.plan import Plan, make_plan
from takhin_tiered.vault.orphans import remove_orphans, remove_stale_uploads
from takhin_tiered.vault.owned import OwnedPrefix

_STALE_UPLOAD_SECONDS = 24 * 3600.0


After = Callable[[CycleReport], Awaitable[None]]


async def _nothing(_: CycleReport) -> None:
    """Where only the steps of the plan are to be done."""


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


async def run_cycle(
    engine: Engine, owned: OwnedPrefix | None, listener: Listener = lambda *_: None, after: After = _nothing
) -> CycleReport:
    """One cycle; ``after`` is what is to be done once all is archived. Without a prefix of its own it only looks.

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
                if owned is not None:
                    await carry_out(engine, owned, plan, report, listener)
                await after(report)
                await in_thread(count_holes, engine)
                if owned is not None:
                    await _clean_up(engine, owned)
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


async def _clean_up(engine: Engine, owned: OwnedPrefix) -> None:
    """Take away what uploads that broke off left."""
    try:
        if engine.catalog.intents():
            await remove_orphans(owned, engine.catalog, lambda: engine.sure_now)
    except StoreError as error:
        logs.logger().warning("what broken uploads left was not looked for", error=str(error))
        return
    # A clock that is ahead makes none of them older.
    ahead = max(0.0, engine.clock() - engine.sure_now)
    await remove_stale_uploads(owned, engine.catalog, _STALE_UPLOAD_SECONDS + ahead)
