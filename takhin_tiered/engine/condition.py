"""``status``: what a person asks first, and what a monitor checks."""

from __future__ import annotations

from dataclasses import asdict

import takhin_tiered
from takhin_tiered.config import Settings
from takhin_tiered.engine.beside import Beside
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.past import Past
from takhin_tiered.engine.scanning import future_segments
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import ClockStatus, Status
from takhin_tiered.store import StoreHealth


def describe_status(engine: Engine, settings: Settings, beside: Beside, past: Past, headroom: float | None) -> Status:
    """``headroom`` is what a daemon knows of how long the disk lasts, in seconds."""
    lost, health = past.lost(), engine.health
    return Status(
        version=takhin_tiered.__version__,
        **asdict(engine.catalog.stats(engine.policy, engine.clock())),
        damaged_segments=engine.catalog.damaged,
        quarantined_segments=engine.catalog.quarantined,
        superseded_generations=engine.catalog.superseded,
        future_segments=future_segments(engine),
        clock=ClockStatus(engine.time.problem, round(engine.clock() - engine.sure_now)),
        enabled=engine.policy.enabled,
        mode=settings.mode(kafka=engine.policy.kafka),
        broker=beside.status,
        data_dir=",".join(map(str, settings.data_dirs)),
        data_dirs=tuple(map(str, settings.data_dirs)),
        disk_free_bytes=engine.data_dir.free_bytes(),
        store=engine.store.address if settings.has_store else None,
        store_reachable=not health.problem if settings.has_store else None,
        store_problem=health.problem if settings.has_store else "",
        store_down_since=iso_time(health.down_since),
        last_cycle=past.last_cycle,
        last_cycle_problem=past.problem,
        last_cycle_at=iso_time(past.ended),
        last_cycle_by=past.by,
        cycle_running_seconds=past.running_seconds,
        cycle_interval_seconds=engine.view.cycle_seconds,
        lost_segments=len(lost),
        lost=lost,
        headroom_seconds=past.headroom(headroom),
    )


def store_trouble(health: StoreHealth, headroom: float | None) -> str:
    """Why the store cannot be used, since when, and how long the disk lasts; empty while it answers."""
    if not health.problem:
        return ""
    since = f", since {iso_time(health.down_since)}" if health.down_since else ""
    lasts = f"; at the present growth the disk is full in {headroom / 3600:.1f} h" if headroom is not None else ""
    return f"{health.problem}{since}{lasts}"
