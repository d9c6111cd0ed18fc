"""``status``: what a person asks first, and what a monitor checks. A stable form, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import takhin_tiered
from takhin_tiered.config import Settings
from takhin_tiered.engine.beside import Beside
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.cycle import future_segments
from takhin_tiered.engine.past import Past
from takhin_tiered.segments.report import iso_time


def describe_status(
    engine: Engine, settings: Settings, beside: Beside, past: Past, headroom: float | None
) -> dict[str, Any]:
    """``headroom`` is what a daemon knows of how long the disk lasts, in seconds."""
    return {
        "version": takhin_tiered.__version__,
        **asdict(engine.catalog.stats(engine.policy, engine.clock())),
        "damaged_segments": engine.catalog.damaged,
        "quarantined_segments": engine.catalog.quarantined,
        "superseded_generations": engine.catalog.superseded,
        "future_segments": future_segments(engine),
        "clock": {"problem": engine.time.problem, "ahead_seconds": round(engine.clock() - engine.sure_now)},
        "enabled": engine.policy.enabled,
        "mode": settings.mode(kafka=engine.policy.kafka),
        "broker": beside.described(),
        "data_dir": ",".join(map(str, settings.data_dirs)),
        "data_dirs": [str(path) for path in settings.data_dirs],
        "disk_free_bytes": engine.data_dir.free_bytes(),
        "store": engine.store.address if settings.has_store else None,
        "store_reachable": not engine.health.problem if settings.has_store else None,
        "store_problem": engine.health.problem if settings.has_store else "",
        "store_down_since": iso_time(engine.health.down_since),
        **past.described(headroom),
    }
