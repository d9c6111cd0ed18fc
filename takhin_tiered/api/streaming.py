"""Answers that are sent as they are read. A client that goes away ends the reading; an error cuts the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from takhin_tiered import logs
from takhin_tiered.errors import TakhinError
from takhin_tiered.formats.batch import Bytes

_STALLED_SECONDS = 300.0
"""A client that takes nothing for so long, or up to twice as long, is cut off."""
PIECE = 256 << 10

Answer = TypeVar("Answer")


class Streamed(Response):
    """``stack`` is closed with it, once it is sent or given up."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        status: int = 200,
        headers: Mapping[str, str] = {},
    ) -> None:
        super().__init__(status_code=status, headers={"Content-Length": "0", **headers}, media_type=media_type)
        if "Content-Length" not in headers:
            # How long it is shows at its end.
            del self.headers["Content-Length"]
        self.stack = AsyncExitStack()
        self._pieces = pieces
        # None if there is none, as of a log that is read to its end.
        self._first: bytes | None = None
        # How many pieces the client has taken, and whether it is the one who is waited for.
        self._taken = 0
        self._is_with_client = False

    async def begin(self, request: Request) -> bool:
        """Read the first piece, before a status is sent: an error still has one of its own then.

        False if the client went away meanwhile.
        """
        is_there = False
        try:
            is_there = await unless_gone(request, self._read_first()) is not None
        finally:
            if not is_there or self._first is None:
                await self._pieces.aclose()
        return is_there

    async def _read_first(self) -> bool:
        self._first = await anext(self._pieces, None)
        return True

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        async with self.stack, aclosing(self._pieces):
            sending = asyncio.ensure_future(self._send(send))
            gone = asyncio.ensure_future(_until_gone(receive))
            try:
                await self._until_stalled(sending, gone)
                if sending.done():
                    sending.result()
            except TakhinError as error:
                # The answer has no end, so the server closes the connection: that is how the client is told.
                logs.logger().error("an answer broke off", code=error.code, error=str(error))
            finally:
                await _end(sending, gone)

    async def _until_stalled(self, *tasks: asyncio.Future[Any]) -> None:
        """Until one of them is done, or the client has taken nothing for so long.

        It looks now and then: a timer for each piece takes a twentieth of the time.
        """
        taken = -1
        while True:
            done, _ = await asyncio.wait(tasks, timeout=_STALLED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if done or (self._is_with_client and self._taken == taken):
                return
            taken = self._taken

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(OSError):
            piece = self._first
            # An empty piece is not the end: only where there is none.
            while piece is not None:
                self._is_with_client = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._is_with_client = False
                self._taken += 1
                piece = await anext(self._pieces, None)
            await send({"type": "http.response.body", "body": b""})


async def unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer | None:
    """The result; None if the client went away meanwhile, and the work was cancelled."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request.receive))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _end(working, gone)


async def in_pieces(parts: AsyncGenerator[Bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes, in pieces of about `PIECE`: small ones together, large ones cut."""
    waiting: list[Bytes] = []
    size = 0
    async with aclosing(parts):
        try:
            async for part in parts:
                if len(part) >= PIECE:
                    if waiting:
                        yield b"".join(waiting)
                    waiting, size = [], 0
                    for at in range(0, len(part), PIECE):
                        # A copy: a slow client keeps no more than that in memory.
                        yield bytes(part[at : at + PIECE])
                    continue
                waiting.append(part)
                size += len(part)
                if size >= PIECE:
                    yield b"".join(waiting)
                    waiting, size = [], 0
        except TakhinError:
            # What came before the error is right.
            if waiting:
                yield b"".join(waiting)
            raise
        if waiting:
            yield b"".join(waiting)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
