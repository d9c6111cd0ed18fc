"""Gauges that are worked out when somebody reads them."""

from __future__ import annotations

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.history import CycleHistory
from takhin_tiered.metrics import Metrics


def update_gauges(
    metrics: Metrics, catalog: Catalog, clock: Clock, history: CycleHistory, stats: Stats, *, tracked: int
) -> None:
    """``tracked``: segments whose reads are known."""
    metrics.clock_in_doubt.set(bool(clock.span.problem))
    metrics.segments.labels("hot").set(stats.hot_segments)
    metrics.segments.labels("warm").set(stats.warm_segments)
    metrics.segments.labels("cold").set(stats.cold_segments)
    metrics.tracked.set(tracked)
    metrics.archived_segments.set(stats.archived_segments)
    metrics.quarantined.set(catalog.quarantined)
    metrics.damaged.set(catalog.damaged)
    metrics.superseded.set(catalog.superseded)
    metrics.intents.set(len(catalog.intents()))
    metrics.local_bytes.set(stats.local_size_bytes)
    metrics.archived_bytes.set(stats.archived_size_bytes)
    metrics.last_cycle_blocked.set(bool(history.problem))
    metrics.last_cycle_failures.set(0 if history.problem else history.failures)
