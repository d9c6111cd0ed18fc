"""``…/segments/{path}/data``: the bytes of a segment's log, wherever they are, whole or in part."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from takhin_tiered.api.byte_ranges import Unsatisfiable, http_date, is_named, may_resume, parse_range
from takhin_tiered.api.problems import errors, problem_response
from takhin_tiered.api.streaming import Streamed
from takhin_tiered.api.tiered import TopicId
from takhin_tiered.tiered_storage import TieredStorage

MEDIA_TYPE = "application/octet-stream"
PROOF_HEADER = "X-Takhin-Proof"

_BYTES: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_HEADERS: dict[str, Any] = {
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            PROOF_HEADER: "What proves the bytes: chunk, object or local.",
            "ETag": "Another one for other bytes; use it in If-Range.",
            "Accept-Ranges": "bytes",
            "Last-Modified": "When the broker wrote to the segment last.",
        }.items()
    }
}
_RANGE = {
    "name": "Range",
    "in": "header",
    "required": False,
    "description": "One range: bytes=0-499, bytes=500- or bytes=-500. Several at once are answered with the whole.",
    "schema": {"type": "string", "example": "bytes=0-499"},
}
_IF_RANGE = _RANGE | {"name": "If-Range", "description": "The range, if this is the ETag; else the whole."}
_IF_RANGE["schema"] = {"type": "string"}
_IF_NONE_MATCH = _IF_RANGE | {"name": "If-None-Match", "description": "304 if this is the ETag."}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole log.", **_BYTES, **_HEADERS},
    206: {"description": "The range.", **_BYTES, **_HEADERS},
    304: {"description": "Not modified."},
    **errors(400, 404, 409, 416, 500, 502, 503),
}
_EXTRA = {"parameters": [_RANGE, _IF_RANGE, _IF_NONE_MATCH]}


def data_routes(storage: TieredStorage) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/tiered", tags=["tiered"])
    how: dict[str, Any] = {
        "responses": _RESPONSES,
        "openapi_extra": _EXTRA,
        "response_class": Response,
        "summary": "The bytes of a segment's log, from the disk or from the archive.",
    }

    @routes.get("/segments/{segment_path:path}/data", **how)
    async def data(request: Request, segment_path: str, topic_id: TopicId = None) -> Response:
        """With `Range`, a part of them. `X-Takhin-Proof` says what proves them: `chunk`, the checksum of each chunk;
        `object`, that of the whole object, for archives of earlier releases; `local`, they are the broker's own file.

        An answer that breaks off before its `Content-Length` failed: nothing in it is wrong, and it may be resumed.
        """
        return await _answer(storage, request, segment_path, topic_id)

    @routes.head("/segments/{segment_path:path}/data", **how)
    async def data_head(request: Request, segment_path: str, topic_id: TopicId = None) -> Response:
        """The same without the bytes."""
        return await _answer(storage, request, segment_path, topic_id)

    return routes


async def _answer(storage: TieredStorage, request: Request, path: str, topic_id: str | None) -> Response:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(storage.open_range(path, topic_id=topic_id))
        etag = f'"{opened.tag}"'
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Last-Modified": http_date(opened.modified),
            PROOF_HEADER: str(opened.proof),
        }
        asked = request.headers
        is_head = request.method == "HEAD"
        may_be_part = not is_head and may_resume(asked.get("If-Range"), etag, opened.modified)
        if is_named(asked.get("If-None-Match"), etag):
            return Response(status_code=304, headers=headers)
        try:
            wanted = parse_range(asked.get("Range"), opened.size) if may_be_part else None
        except Unsatisfiable:
            text = f"the log of segment {opened.id.path} has {opened.size} bytes, and none in {asked['Range']}"
            problem = problem_response(416, "range_not_satisfiable", text)
            problem.headers["Content-Range"] = f"bytes */{opened.size}"
            return problem
        start, end = wanted or (0, opened.size)
        headers["Content-Length"] = str(end - start)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{opened.size}"
        status = 200 if wanted is None else 206
        if is_head:
            return Response(status_code=status, headers=headers, media_type=MEDIA_TYPE)
        answer = Streamed(opened.pieces(start, end), status=status, headers=headers, media_type=MEDIA_TYPE)
        if not await answer.begin(request):
            # Nobody gets it.
            return Response(status_code=408)
        # From here on it is the answer that has the segment open.
        answer.stack = stack.pop_all()
        return answer
