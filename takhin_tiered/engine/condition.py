"""``status``: what a person asks first, and what a monitor checks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from heapq import nsmallest

import takhin_tiered
from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.config import Settings
from takhin_tiered.cost.report import RestoreBudget
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.guards import Guards, answering_soon
from takhin_tiered.engine.history import CycleHistory
from takhin_tiered.engine.live_broker import LiveBroker
from takhin_tiered.engine.pressure import rooms_of
from takhin_tiered.engine.scanning import future_segments
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import CatalogError, StoreError, StoreUnavailable
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import ClockStatus, Consumer, FleetStatus, RequestedSegment, Status
from takhin_tiered.segments.retrieval import Retrieval
from takhin_tiered.store import ReadableStore, StoreHealth

_REQUESTED_SHOWN = 10


@dataclass(frozen=True, slots=True)
class StatusReporter:
    """Tells what a person asks first. Changes nothing."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    health: StoreHealth
    broker: LiveBroker
    history: CycleHistory
    requested: Mapping[SegmentId, Retrieval]

    def describe(
        self,
        settings: Settings,
        headroom: float | None,
        consumers: tuple[Consumer, ...] = (),
        fleet: FleetStatus | None = None,
        restore_budget: RestoreBudget | None = None,
    ) -> Status:
        """``headroom`` is what a daemon knows of how long the disk lasts, in seconds."""
        lost, health = self.history.lost(), self.health
        return Status(
            version=takhin_tiered.__version__,
            **asdict(stats_now(self.catalog, self.situation, self.clock)),
            damaged_segments=self.catalog.damaged,
            quarantined_segments=self.catalog.quarantined,
            superseded_generations=self.catalog.superseded,
            future_segments=future_segments(self.catalog, self.clock),
            clock=ClockStatus(self.clock.span.problem, round(self.clock.now() - self.clock.sure_now())),
            enabled=self.situation.policy.enabled,
            mode=settings.mode(kafka=self.situation.policy.kafka),
            broker=self.broker.status,
            data_dir=",".join(map(str, settings.data_dirs)),
            data_dirs=tuple(map(str, settings.data_dirs)),
            disk_free_bytes=self.data_dir.free_bytes(),
            store=self.store.address if settings.has_store else None,
            store_reachable=not health.problem if settings.has_store else None,
            store_problem=health.problem if settings.has_store else "",
            store_down_since=iso_time(health.down_since),
            last_cycle=self.history.last_cycle,
            last_cycle_problem=self.history.problem,
            last_cycle_at=iso_time(self.history.ended),
            last_cycle_by=self.history.by,
            cycle_running_seconds=self.history.running_seconds,
            cycle_interval_seconds=self.situation.view.cycle_seconds,
            lost_segments=len(lost),
            lost=lost,
            requested_segments=len(self.requested),
            requested=first_expected(self.requested.values()),
            consumers=consumers,
            fleet=fleet,
            headroom_seconds=self.history.headroom(headroom),
            reserve_missing_bytes=self._reserve_missing(),
            restore_budget=restore_budget,
        )

    def _reserve_missing(self) -> int:
        """What the last scan found, of another process too, and is missing still: room may have been made since."""
        found, last = self.situation.outlook.reserve_missing, self.history.last_cycle
        if found is None:
            found = 0 if last is None else last.reserve_missing_bytes
        reserve = self.situation.policy.reserve
        if not found or not reserve:
            return 0
        return min(found, sum(room.missing(reserve) for room in rooms_of(self.data_dir).values()))


def stats_now(catalog: Catalog, situation: Situation, clock: Clock) -> Stats:
    """Over all segments, by the tiers that they have now."""
    now = clock.now()
    return catalog.stats(situation.policy, now, situation.tracker.hot(now), sure=clock.sure_now())


def first_expected(requested: Iterable[Retrieval]) -> tuple[RequestedSegment, ...]:
    return tuple(
        RequestedSegment(each.id.full_path, each.storage_class, iso_time(each.requested_at), iso_time(each.expected_at))
        for each in nsmallest(_REQUESTED_SHOWN, requested, key=lambda each: (each.expected_at, each.id))
    )


def store_trouble(health: StoreHealth, headroom: float | None) -> str:
    """Why the store cannot be used, since when, and how long the disk lasts; empty while it answers."""
    if not health.problem:
        return ""
    since = f", since {iso_time(health.down_since)}" if health.down_since else ""
    lasts = f"; at the present growth the disk is full in {headroom / 3600:.1f} h" if headroom is not None else ""
    return f"{health.problem}{since}{lasts}"


async def check_store(guards: Guards, health: StoreHealth, store: ReadableStore, seconds: float | None) -> None:
    """Ask the store whether it answers, and let ``health`` remember it; see `TieredStorage.check_store`."""
    try:
        async with asyncio.timeout(seconds), answering_soon(store.address):
            await guards.judge_store()
            health.recognised()
            await store.check()
    except StoreError as error:
        health.failed(error)
    except TimeoutError:
        health.failed(StoreUnavailable(f"{store.address} does not answer within {seconds:g} s"))
    except CatalogError as error:
        # It does not tell whether this is the store that is known: the state directory's own trouble.
        logs.logger().error("the store could not be recognised", error=str(error))
