"""``/api/v1/tiers``: how segments are read, and how they move between the tiers by that."""

from __future__ import annotations

import json

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from takhin_tiered.api.problems import errors, problem_response
from takhin_tiered.api.tiered import Done, SegmentRequest, TopicId
from takhin_tiered.cost.report import CostReport
from takhin_tiered.errors import TakhinError
from takhin_tiered.heat.access import Access
from takhin_tiered.metrics import value_of
from takhin_tiered.segments.results import to_json
from takhin_tiered.tiered_storage import TieredStorage

_MOST_BYTES = 1 << 53


class TierStats(BaseModel):
    """Counts since the start of the daemon, but for the segments. ``tracked_segments``: those whose reads are known."""

    hot_segments: int
    warm_segments: int
    cold_segments: int
    promotion_count: int
    demotion_count: int
    cache_hits: int
    cache_misses: int
    tracked_segments: int


class Evaluated(BaseModel):
    """What was done. ``waiting_segments`` are hot and stay in the archive for now; ``waiting_for`` says why."""

    message: str = "tier evaluation completed successfully"
    hot_segments: int
    warm_segments: int
    cold_segments: int
    tracked_segments: int
    promoted: list[str]
    promoted_bytes: int
    demoted: list[str]
    waiting_segments: int
    waiting_for: str


class ReadRequest(SegmentRequest):
    read_bytes: int = Field(default=0, ge=0, le=_MOST_BYTES)


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
            tracked_segments=storage.tracked_segments,
        )

    @routes.get("/access/{segment_path:path}", responses=errors(400, 404))
    async def access(segment_path: str, topic_id: TopicId = None) -> Access:
        """How a segment is read; zeros where no read of it is known."""
        return storage.access(segment_path, topic_id=topic_id) or Access(segment_path)

    @routes.post("/access", responses=errors(400, 404))
    async def report(request: ReadRequest) -> Done:
        """A broker reports that it read a segment, and how many bytes of it."""
        storage.report_read(request.segment_path, request.read_bytes, topic_id=request.topic_id)
        return Done(message="read recorded")

    @routes.post("/evaluate", response_model=Evaluated, responses=errors(500))
    async def evaluate() -> Evaluated | JSONResponse:
        """Bring archived segments that are read much back to the disk now, as far as cache and budget have room."""
        try:
            done = await storage.evaluate_tiers()
        except TakhinError as error:
            return problem_response(500, error.code, str(error))
        if done.failures:
            failed = "; ".join(f"{path}: {error}" for path, error in done.failures)
            return problem_response(500, "evaluation_failed", f"{len(done.promoted)} promoted, and failed: {failed}")
        found = storage.stats()
        return Evaluated(
            hot_segments=found.hot_segments,
            warm_segments=found.warm_segments,
            cold_segments=found.cold_segments,
            tracked_segments=storage.tracked_segments,
            promoted=done.promoted,
            promoted_bytes=done.promoted_bytes,
            demoted=done.demoted,
            waiting_segments=done.waiting,
            waiting_for=done.reason,
        )

    @routes.get("/cost-analysis", response_model=CostReport, responses=errors())
    async def cost_analysis() -> Response:
        """What storage costs a month, by tier and storage class, what it saves, and what this month has cost so far.

        US dollars; a GB is 10^9 bytes as stored.
        """
        return Response(json.dumps(to_json(storage.cost())), media_type="application/json")

    return routes
