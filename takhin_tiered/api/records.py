"""``/api/v1/tiered/records``: records, read wherever they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from takhin_tiered.api.problems import errors
from takhin_tiered.api.streaming import PIECE, Streamed, in_pieces, unless_gone
from takhin_tiered.concurrency import in_thread
from takhin_tiered.reader.query import BATCHES, Isolation, RecordQuery, written
from takhin_tiered.tiered_storage import TieredStorage

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {BATCHES: {"schema": {"type": "string", "format": "binary"}}}},
    **errors(400, 404, 409, 500, 502, 503),
}
MAX_RECORDS = 10_000


class RecordModel(BaseModel):
    """``key``, ``value`` and the values of headers are base64, or null. ``timestamp`` is milliseconds."""

    offset: int
    timestamp: int
    key: str | None
    value: str | None
    headers: list[tuple[str, str | None]]


class RecordsPage(BaseModel):
    """``next_offset`` is where to go on: behind the last record, and behind what was filtered."""

    records: list[RecordModel]
    next_offset: int


def record_routes(storage: TieredStorage) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/tiered", tags=["reading"])

    @routes.get("/records", response_model=RecordsPage, responses=_RESPONSES)
    async def records(  # noqa: PLR0917 - the framework gives them by name
        request: Request,
        topic: Annotated[str, Query(min_length=1, max_length=249)],
        partition: Annotated[int, Query(ge=0, le=2**31 - 1)],
        offset: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
        timestamp: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Milliseconds.")] = None,
        max_records: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 100,
        isolation: Isolation = Isolation.READ_UNCOMMITTED,
        topic_id: Annotated[str | None, Query(max_length=40, description="An earlier incarnation.")] = None,
    ) -> Response:
        """Records from an offset or a timestamp on, straight from the disk or the archive, without a restore.

        An answer ends before a hole, and at the last record that consumers may see. With the media type of batches in
        `Accept`, it is whole record batches as they are stored, without a maximum, up to the end; one that breaks off
        failed, and the same query from where it ended on tells why.
        """
        query = RecordQuery(topic, partition, offset, timestamp, isolation, topic_id)
        if BATCHES in request.headers.get("accept", ""):
            answer = Streamed(in_pieces(storage.read_batches(query)), media_type=BATCHES)
            return answer if await answer.begin(request) else _nobody()
        page = await unless_gone(request, storage.read_records(query, max_records))
        if page is None:
            return _nobody()
        parts = written(page)
        text = await in_thread(_take, parts)
        if len(text) < PIECE:
            return Response(text, media_type="application/json")
        answer = Streamed(in_pieces(_rest(text, parts)), media_type="application/json")
        return answer if await answer.begin(request) else _nobody()

    return routes


def _nobody() -> Response:
    """The client is gone."""
    return Response(status_code=408)


def _take(parts: Iterator[bytes]) -> bytes:
    """What makes a piece, or all that is left. In a thread: a record may have a hundred megabytes."""
    found: list[bytes] = []
    size = 0
    for part in parts:
        found.append(part)
        size += len(part)
        if size >= PIECE:
            break
    return b"".join(found)


async def _rest(first: bytes, parts: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    piece = first
    while piece:
        yield piece
        piece = await in_thread(_take, parts)
