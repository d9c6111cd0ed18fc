"""``/api/v1/tiers``: how segments move between the tiers, and what reads found near."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from takhin_tiered.api.problems import errors
from takhin_tiered.metrics import value_of
from takhin_tiered.tiered_storage import TieredStorage


class TierStats(BaseModel):
    """Counts since the start of the daemon, but for the segments."""

    hot_segments: int
    warm_segments: int
    cold_segments: int
    promotion_count: int
    demotion_count: int
    cache_hits: int
    cache_misses: int
    tracked_segments: int


def tiers_routes(storage: TieredStorage) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/tiers", tags=["tiers"])

    @routes.get("/stats", responses=errors())
    async def stats() -> TierStats:
        """Segments by tier, moves between disk and archive, and chunks that reads found in the cache or not."""
        found, metrics = storage.stats(), storage.metrics
        return TierStats(
            hot_segments=found.hot_segments,
            warm_segments=found.warm_segments,
            cold_segments=found.cold_segments,
            promotion_count=value_of(metrics.promotions),
            demotion_count=value_of(metrics.demotions),
            cache_hits=value_of(metrics.cache_hits),
            cache_misses=value_of(metrics.cache_misses),
            tracked_segments=found.total_segments,
        )

    return routes
