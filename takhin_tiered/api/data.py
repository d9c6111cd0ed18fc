"""``…/segments/{path}/data``: the bytes of a segment's log, wherever they are, whole or in part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from takhin_tiered import logs
from takhin_tiered.api.byte_ranges import Unsatisfiable, http_date, is_named, may_resume, parse_range
from takhin_tiered.api.problems import errors, problem_response
from takhin_tiered.api.tiered import TopicId
from takhin_tiered.errors import TakhinError
from takhin_tiered.reader.opened import OpenRange
from takhin_tiered.tiered_storage import TieredStorage

MEDIA_TYPE = "application/octet-stream"
PROOF_HEADER = "X-Takhin-Proof"
_STALLED_SECONDS = 300.0
"""A client that takes nothing for so long is cut off."""

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
        answer = Pieces(opened, start, end, status=status, headers=headers)
        if not await answer.begin(request):
            # Nobody gets it.
            return Response(status_code=408)
        # From here on it is the answer that has the segment open.
        answer.stack = stack.pop_all()
        return answer


class Pieces(Response):
    """Bytes as they are read. A client that goes away ends the reading; an error cuts the connection."""

    def __init__(self, opened: OpenRange, start: int, end: int, *, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers, media_type=MEDIA_TYPE)
        self.stack = AsyncExitStack()
        self._opened = opened
        self._pieces: AsyncGenerator[bytes, None] = opened.pieces(start, end)
        self._first = b""

    async def begin(self, request: Request) -> bool:
        """Read the first piece, before a status is sent: an error still has one of its own then.

        False if the client went away meanwhile.
        """
        reading = asyncio.ensure_future(anext(self._pieces, b""))
        gone = asyncio.ensure_future(_until_gone(request.receive))
        try:
            await asyncio.wait([reading, gone], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return False
            self._first = reading.result()
            return True
        finally:
            await _end(reading, gone)
            if not self._first:
                await self._pieces.aclose()

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        async with self.stack, aclosing(self._pieces):
            sending = asyncio.ensure_future(self._send(send))
            gone = asyncio.ensure_future(_until_gone(receive))
            try:
                await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            except TakhinError as error:
                # The answer stays too short, so the server closes the connection: that is how the client is told.
                logs.logger().error("an answer broke off", code=error.code, error=str(error))
            finally:
                await _end(sending, gone)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(OSError, TimeoutError):
            piece = self._first
            while piece:
                async with asyncio.timeout(_STALLED_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(self._pieces, b"")
            await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
