"""``/api/v1/tiered``: statistics, segments, archive, restore, plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.api.problems import errors
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.engine.choosing import describe_choice
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.events import SegmentEvent
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.report import PartitionInfo, SegmentInfo, describe_plan
from takhin_tiered.segments.results import PlanResult, RebuildResult, RekeyResult, Status, to_json
from takhin_tiered.tiered_storage import TieredStorage

MAX_PAGE = 10_000
TopicId = Annotated[str | None, Query(max_length=40, description="Only this incarnation.")]


class SegmentRequest(BaseModel):
    segment_path: str = Field(examples=["orders-0/00000000000000000000.log"], max_length=4096)
    topic_id: str | None = Field(default=None, max_length=40, description="The incarnation; default: the current one.")


class RestoreRequest(SegmentRequest):
    force: bool = Field(
        default=False, description="Beside Kafka: restore even if it leaves a gap, or Kafka would delete it again."
    )
    lease_hours: float | None = Field(default=None, ge=0, le=1e6)
    over_budget: bool = Field(
        default=False, description="Restore even if it costs more than is left of the month's restore budget."
    )
    requested_by: str = Field(default="", max_length=200, description="Who asks, and why: shown with the lease.")
    request_only: bool = Field(
        default=False, description="Only request what lies in an archive class such as Glacier; restore nothing now."
    )


class ChoiceRequest(BaseModel):
    """``offsets`` and ``times`` (milliseconds since the epoch) are [first, last], null for an open end."""

    paths: list[Annotated[str, Field(max_length=4096)]] = Field(min_length=1, max_length=10_000)
    topic_id: str | None = Field(default=None, max_length=40)
    offsets: tuple[int | None, int | None] = (None, None)
    times: tuple[int | None, int | None] = (None, None)
    force: bool = False


class Done(BaseModel):
    status: str = "success"
    message: str


class ScrubReport(BaseModel):
    segment_path: str
    size_bytes: int
    problem: str
    healed: bool
    skipped: str


class SegmentPage(BaseModel):
    segments: list[SegmentInfo]
    next_cursor: str | None


class SegmentHistory(BaseModel):
    events: list[SegmentEvent]


class PartitionPage(BaseModel):
    partitions: list[PartitionInfo]


def tiered_routes(storage: TieredStorage) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/tiered", tags=["tiered"])

    @routes.get("/stats", response_model=Stats, responses=errors())
    async def stats() -> Response:
        """Segments by tier, and bytes on disk and in the archive."""
        # Dashboards call this many times a second: serialised directly, in the dataclass's own form.
        return Response(json.dumps(asdict(storage.stats())), media_type="application/json")

    @routes.get("/status", response_model=Status, responses=errors())
    async def status() -> Response:
        """Statistics, the last cycle, and whether the store answers."""
        return _json_response(storage.status())

    @routes.post("/archive", responses=errors(400, 404, 409, 500, 503))
    async def archive(request: SegmentRequest) -> Done:
        """Archive one segment now, whatever its age."""
        await storage.archive_segment(request.segment_path, topic_id=request.topic_id)
        return Done(message="segment archived successfully")

    @routes.post("/restore", responses=errors(400, 404, 409, 500, 503, 507))
    async def restore(request: RestoreRequest, http: Request) -> Done:
        """Bring one segment back to the disk, for its lease.

        What lies in an archive class such as Glacier is requested there, and restored later: 409, code in_glacier.
        """
        lease = None if request.lease_hours is None else request.lease_hours * 3600
        who = request.requested_by or f"HTTP client {http.client.host if http.client else 'unknown'}"
        if request.request_only:
            await storage.request_retrieval(
                request.segment_path, topic_id=request.topic_id, lease=lease, by=who, over_budget=request.over_budget
            )
            return Done(message="nothing has to be retrieved")
        await storage.restore_segment(
            request.segment_path,
            topic_id=request.topic_id,
            force=request.force,
            lease=lease,
            by=who,
            over_budget=request.over_budget,
        )
        return Done(message="segment restored successfully")

    @routes.post("/restore/plan", responses=errors(400, 404, 413, 500, 503))
    async def restore_plan(request: ChoiceRequest) -> dict[str, Any]:
        """What a restore would bring back, and why it would refuse the rest. Changes nothing."""
        wanted = Wanted(**request.model_dump() | {"paths": tuple(request.paths)})
        choice = await storage.choose_restore(wanted)
        return describe_choice(choice, storage.room_bytes(), storage.quote_restore(choice.segments))

    @routes.post("/scrub", responses=errors(400, 404, 500, 503))
    async def scrub(request: SegmentRequest) -> ScrubReport:
        """Read one archived segment back. A bad one is quarantined, or stored again if the disk has a whole copy."""
        verdict = await storage.scrub_segment(request.segment_path, topic_id=request.topic_id)
        return ScrubReport(
            segment_path=verdict.id.full_path,
            size_bytes=verdict.size,
            problem=verdict.problem,
            healed=verdict.healed,
            skipped=verdict.skipped,
        )

    @routes.get("/segments", responses=errors(400))
    async def segments(  # noqa: PLR0917 - the framework gives them by name
        topic: Annotated[str | None, Query(max_length=249)] = None,
        tier: Tier | None = None,
        state: State | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
        topic_id: TopicId = None,
    ) -> SegmentPage:
        """Segments in order, one page at a time; pass ``next_cursor`` as ``cursor`` to get the next page."""
        found = storage.segments(topic=topic, tier=tier, state=state, after=cursor, topic_id=topic_id)
        page = list(islice(found, limit + 1))
        return SegmentPage(segments=page[:limit], next_cursor=page[limit - 1].cursor if len(page) > limit else None)

    @routes.get("/segments/{segment_path:path}/history", responses=errors(400, 404))
    async def history(segment_path: str, topic_id: TopicId = None) -> SegmentHistory:
        """What happened to a segment, in order, with correlation IDs; also to one that is nowhere any more."""
        return SegmentHistory(events=await storage.history(segment_path, topic_id=topic_id))

    @routes.get("/segments/{segment_path:path}", responses=errors(400, 404))
    async def segment(segment_path: str, topic_id: TopicId = None) -> SegmentInfo:
        """One segment; the slash in its path may be written as ``/`` or ``%2F``."""
        return storage.segment(segment_path, topic_id=topic_id)

    @routes.get("/partitions", responses=errors())
    async def partitions() -> PartitionPage:
        """The offset ranges of each partition and incarnation, local and archived, with holes and overlaps."""
        return PartitionPage(partitions=await storage.partitions())

    @routes.post("/plan", response_model=PlanResult, responses=errors(500))
    async def plan() -> Response:
        """What the next cycle would do with each segment, and why. Changes nothing."""
        found = await storage.plan()
        return _json_response(describe_plan(found, storage.plan_cost(found)))

    @routes.post("/rebuild", response_model=RebuildResult, responses=errors(500, 503))
    async def rebuild() -> Response:
        """Rebuild the catalog from the disk and the bucket."""
        return _json_response((await storage.rebuild()).result)

    @routes.post("/rekey", response_model=RekeyResult, responses=errors(409, 500, 503))
    async def rekey() -> Response:
        """Wrap the data keys of the archive with the current key of the key file."""
        return _json_response(await storage.rekey())

    return routes


def _json_response(result: Status | PlanResult | RebuildResult | RekeyResult) -> Response:
    """Serialised as commands parse it; the framework knows the form only for the OpenAPI document."""
    return Response(json.dumps(to_json(result)), media_type="application/json")
