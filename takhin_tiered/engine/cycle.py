"""The cycle: scan, classify, plan, then archive and evict, some segments at a time.

A verb raises; only the cycle catches, one segment at a time, and only this project's errors. Anything
else is a fault of the program, and stops it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.coverage import HoleCounter
from takhin_tiered.engine.fetching import remove_unfinished
from takhin_tiered.engine.progress import Progress
from takhin_tiered.engine.read_only import ReadOnlyPrefixes
from takhin_tiered.engine.reclassing import ClassChanger
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.engine.restores import Restores
from takhin_tiered.engine.scanning import Scanner
from takhin_tiered.engine.situation import Situation, outlook_now, usage_now
from takhin_tiered.engine.steps import StepRunner
from takhin_tiered.errors import StoreError, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.plan import Plan, make_plan
from takhin_tiered.vault.orphans import remove_orphans, remove_stale_uploads
from takhin_tiered.vault.owned import OwnedPrefix

_STALE_UPLOAD_SECONDS = 24 * 3600.0
_SHARE_OF_INTERVAL = 0.25
"""So long a cycle brings back at most: the next one must not come late."""


After = Callable[[OwnedPrefix, CycleReport], Awaitable[None]]


async def _nothing(_owned: OwnedPrefix, _report: CycleReport) -> None:
    """Do nothing after the steps of the plan."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One cycle at a time."""

    catalog: Catalog
    data_dir: DataDirs
    clock: Clock
    situation: Situation
    metrics: Metrics
    progress: Progress
    scanner: Scanner
    read_only: ReadOnlyPrefixes
    steps: StepRunner
    holes: HoleCounter
    classes: ClassChanger
    restores: Restores
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def scan(self) -> None:
        """Only scan: the catalog is brought up to date."""
        async with self.lock:
            await self.scanner.scan()

    async def plan(self, *, work_only: bool = False) -> Plan:
        """What a cycle would do now, after a fresh scan; ``work_only``: without segments that stay."""
        async with self.lock:
            await self.scanner.scan()
            return await self.read_only.keep(await in_thread(self._plan_work if work_only else self._plan_all))

    def _plan_all(self) -> Plan:
        """Every segment, with the reason why it stays."""
        catalog = self.catalog
        now, segments = self.clock.now(), catalog.segments()
        return make_plan(
            segments,
            catalog.restored(),
            self.situation.policy,
            now,
            outlook=outlook_now(self.situation, self.clock),
            is_current=catalog.is_current,
            usage=usage_now(self.situation, self.clock),
        )

    def _plan_work(self) -> Plan:
        """The same without segments that stay: cheap where there is little to do."""
        catalog, policy, now = self.catalog, self.situation.policy, self.clock.now()
        # In Kafka's log a segment that stays may keep those above it.
        needs_all = policy.kafka and policy.unlinks_somewhere
        segments: Iterable[Segment] = catalog.segments() if needs_all else catalog.may_have_work(policy, now)
        outlook = self.situation.outlook
        if not needs_all and (outlook.due or outlook.pressed):
            found = {segment.id: segment for segment in segments}
            due = ((identity, catalog.get(identity)) for identity in (*outlook.due, *outlook.pressed))
            found |= {identity: segment for identity, segment in due if segment is not None}
            segments = [found[identity] for identity in sorted(found)]
        return make_plan(
            segments,
            catalog.restored(),
            policy,
            now,
            work_only=True,
            outlook=outlook_now(self.situation, self.clock),
            is_current=catalog.is_current,
            usage=usage_now(self.situation, self.clock),
        )

    async def run(
        self, owned: OwnedPrefix | None, listener: Listener = lambda *_: None, after: After = _nothing
    ) -> CycleReport:
        """Run one cycle, and ``after`` once everything is archived. Without an owned prefix it only looks.

        Raises `DiskError` or `StoreError` where nothing can be done at all.
        """
        async with self.lock:
            report = CycleReport(started_at=self.clock.now())
            with logs.operation("cycle", ""):
                began = time.monotonic()
                try:
                    found = await self.scanner.scan()
                    report.reserve_missing = self.situation.outlook.reserve_missing or 0
                    for listing in found.unreadable:
                        report.failures.append((listing.directory, f"the partition cannot be read: {listing.problem}"))
                    for listing in found.unfinished:
                        await remove_unfinished(self.catalog, self.data_dir, listing)
                    # In a thread: a plan over a million rows would block the loop for too long.
                    plan = await self.read_only.keep(await in_thread(self._plan_work))
                    report.planned, self.progress.planned_bytes = len(plan.work), plan.bytes_uploaded
                    self.progress.planned_segments = report.planned
                    if owned is not None:
                        await self.steps.carry_out(owned, plan, report, listener)
                        await after(owned, report)
                    await in_thread(self.holes.count)
                    if owned is not None:
                        await self._clean_up(owned)
                        await self._finish(owned)
                except TakhinError:
                    self.metrics.cycles.labels("failure").inc(1, logs.exemplar())
                    raise
                finally:
                    report.ended_at = self.clock.now()
                    self.metrics.last_cycle.set(report.ended_at)
                    self.metrics.cycle_seconds.observe(time.monotonic() - began, logs.exemplar())
                self.metrics.cycles.labels("failure" if report.failed else "success").inc(1, logs.exemplar())
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

    async def _finish(self, owned: OwnedPrefix) -> None:
        """What frees nothing comes last."""
        try:
            await self.restores.bring_back(self.situation.view.cycle_seconds * _SHARE_OF_INTERVAL)
            await self.classes.change(owned)
        except StoreError as error:
            logs.logger().warning("storage classes and retrievals wait for the store", error=str(error))

    async def _clean_up(self, owned: OwnedPrefix) -> None:
        """Remove what interrupted uploads left in the store."""
        try:
            if self.catalog.intents():
                await remove_orphans(owned, self.catalog, self.clock.sure_now)
        except StoreError as error:
            logs.logger().warning("what broken uploads left was not looked for", error=str(error))
            return
        # An upload must not seem older because the clock is ahead.
        ahead = max(0.0, self.clock.now() - self.clock.sure_now())
        await remove_stale_uploads(owned, self.catalog, _STALE_UPLOAD_SECONDS + ahead)
