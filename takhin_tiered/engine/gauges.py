"""Gauges that are worked out when somebody reads them."""

from __future__ import annotations

from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.engine.context import Engine


def update_gauges(engine: Engine, stats: Stats) -> None:
    metrics, catalog = engine.metrics, engine.catalog
    metrics.clock_in_doubt.set(bool(engine.time.problem))
    metrics.segments.labels("hot").set(stats.hot_segments)
    metrics.segments.labels("warm").set(stats.warm_segments)
    metrics.segments.labels("cold").set(stats.cold_segments)
    metrics.archived_segments.set(stats.archived_segments)
    metrics.quarantined.set(catalog.quarantined)
    metrics.damaged.set(catalog.damaged)
    metrics.superseded.set(catalog.superseded)
    metrics.intents.set(len(catalog.intents()))
    metrics.local_bytes.set(stats.local_size_bytes)
    metrics.archived_bytes.set(stats.archived_size_bytes)
