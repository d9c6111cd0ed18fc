"""``/api/v1/tiered/records``: records, read wherever they are."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from takhin_tiered.api.problems import errors
from takhin_tiered.reader.question import BATCHES, Isolation, Question, described_page
from takhin_tiered.tiered_storage import TieredStorage

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

    @routes.get("/records", response_model=RecordsPage, responses=errors(400, 404, 500, 502, 503))
    async def records(  # noqa: PLR0917 - the framework gives them by name
        topic: Annotated[str, Query(min_length=1, max_length=249)],
        partition: Annotated[int, Query(ge=0, le=2**31 - 1)],
        offset: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
        timestamp: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Milliseconds.")] = None,
        max_records: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 100,
        isolation: Isolation = Isolation.READ_UNCOMMITTED,
        topic_id: Annotated[str | None, Query(max_length=40, description="An earlier incarnation.")] = None,
        accept: Annotated[str, Header(description=f"{BATCHES}: whole batches, as stored, without a maximum.")] = "",
    ) -> Response:
        """Records from an offset or a timestamp on, straight from the disk or the archive, without a restore.

        An answer ends before a hole, and at the last record that consumers may see.
        """
        question = Question(topic, partition, offset, timestamp, isolation, topic_id)
        if accept == BATCHES:
            return await _streamed(storage.read_batches(question), BATCHES)
        page = await storage.read_records(question, max_records)
        return Response(json.dumps(described_page(page)), media_type="application/json")

    return routes


async def _streamed(pieces: AsyncGenerator[bytes, None], media_type: str) -> Response:
    """The first piece is read before the status is sent: an error until then has a status of its own."""
    first = await anext(pieces, None)

    async def body() -> AsyncIterator[bytes]:
        async with aclosing(pieces):
            if first is not None:
                yield first
                async for piece in pieces:
                    yield piece

    return StreamingResponse(body(), media_type=media_type)
