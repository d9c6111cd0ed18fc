"""``/api/v1/tiered/verify``: compare the archive with its manifests; one line of JSON per segment as it is done."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter
from starlette.responses import StreamingResponse

from takhin_tiered import logs
from takhin_tiered.api.problems import errors
from takhin_tiered.errors import TakhinError
from takhin_tiered.segments.results import Hole, VerifiedSegment, to_json
from takhin_tiered.tiered_storage import TieredStorage


class Lines(StreamingResponse):
    media_type = "application/x-ndjson"


class Finished(BaseModel):
    """The last line of a complete response."""

    done: Literal[True]


class BrokenOff(BaseModel):
    """The last line of an incomplete response."""

    error: str
    code: str


_KINDS = (VerifiedSegment, Hole, Finished, BrokenOff)


def _form_of(kind: type) -> dict[str, Any]:
    """Describe a pair as a list of two: not every OpenAPI tool knows ``prefixItems``."""
    schema = TypeAdapter(kind).json_schema()
    for described in schema["properties"].values():
        if pair := described.pop("prefixItems", None):
            described["items"] = pair[0]
    return schema


_LINE = {"schema": {"title": "VerifyLine", "anyOf": [_form_of(kind) for kind in _KINDS]}}


class VerifyRequest(BaseModel):
    glob: str = Field(default="*", max_length=4096, examples=["orders-*"])
    deep: bool = Field(default=False, description="Read every byte back.")


def verify_routes(storage: TieredStorage) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/tiered", tags=["tiered"])

    @routes.post("/verify", responses={200: {"content": {Lines.media_type: _LINE}}, **errors(400, 503)})
    async def verify(request: VerifyRequest) -> StreamingResponse:
        """Compare archived segments with their manifests; changes nothing.

        Each line is JSON: a segment with its ``problem``, empty if there is none; then each hole; at the end
        ``{"done": true}``, or an ``error`` with its ``code`` if it failed.
        """

        async def lines() -> AsyncIterator[str]:
            try:
                async for result in storage.verify_told(request.glob, deep=request.deep):
                    yield json.dumps(to_json(result)) + "\n"
            except TakhinError as error:
                logs.logger().error("verify failed", code=error.code, error=str(error))
                yield json.dumps({"error": str(error), "code": error.code}) + "\n"
            else:
                yield json.dumps({"done": True}) + "\n"

        return Lines(lines())

    return routes
