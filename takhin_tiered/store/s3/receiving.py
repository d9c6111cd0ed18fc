"""Bytes of an object on their way from an S3 server. A download that breaks off in its body is taken up again there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError

from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import StoreUnavailable
from takhin_tiered.store.landing import Seen, write_sparse
from takhin_tiered.store.s3 import wire
from takhin_tiered.store.s3.answers import EmptyRange, size_of_all
from takhin_tiered.store.s3.calls import Calls

_TRIES = 4
_BROKEN = (aiohttp.ClientError, BotoCoreError, OSError, TimeoutError)


class Download:
    """Bytes ``start`` to ``end`` (exclusive; None: to the end) of an object. To be used once."""

    def __init__(self, calls: Calls, key: str, start: int, end: int | None) -> None:
        self._calls, self._key = calls, key
        self._at, self._end = start, end
        self._tries = 1
        # Seconds that the server has for all of it, however often it is asked; from the first answer.
        self._left: float | None = None

    async def into_memory(self) -> bytes:
        """For a small object: what it is collected by blocks nobody."""
        pieces: list[bytes] = []
        await self._to(lambda piece: pieces.append(bytes(piece)), wire.at_once)
        return b"".join(pieces)

    async def into_file(self, file: int, seen: Seen) -> None:
        """See `ReadableStore.fetch_into`."""

        def land(piece: memoryview) -> None:
            seen(piece)
            try:
                write_sparse(file, piece, self._at)
            except OSError as error:
                raise _NotWritten(error) from error

        try:
            await self._to(land, in_thread)
        except _NotWritten as error:
            raise error.cause from None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """See `ReadableStore.open`. The time that its reader takes is not the server's: no deadline runs meanwhile."""
        while (answer := await self._ask()) is not None:
            async with aclosing(wire.pieces_of(answer["Body"], _length(answer), self._calls.deadlines.read)) as pieces:
                while True:
                    try:
                        async with self._timed(answer):
                            piece = await anext(pieces, b"")
                    except _BROKEN as error:
                        self._try_again_after(error)
                        break
                    if not piece:
                        return
                    self._at += len(piece)
                    yield piece

    async def _to(self, sink: wire.Sink, hand: wire.Hand) -> None:
        deadlines = self._calls.deadlines

        def take(piece: memoryview) -> None:
            sink(piece)
            self._at += len(piece)

        while (answer := await self._ask()) is not None:
            try:
                async with self._timed(answer):
                    await wire.take_body(answer["Body"], _length(answer), take, deadlines.read, hand)
                return
            except _BROKEN as error:
                self._try_again_after(error)

    @asynccontextmanager
    async def _timed(self, answer: Any) -> AsyncGenerator[None, None]:
        """`TimeoutError` once the server has had its time. Other ranges of the same object may share the line."""
        left = self._calls.deadlines.operation(size_of_all(answer)) if self._left is None else self._left
        began = time.monotonic()
        try:
            async with asyncio.timeout(left):
                yield
        finally:
            self._left = left - (time.monotonic() - began)

    def _try_again_after(self, error: Exception) -> None:
        if self._tries == _TRIES or (self._left is not None and self._left <= 0):
            raise StoreUnavailable(f"the download broke off at byte {self._at}: {error!r}", key=self._key) from error
        self._tries += 1

    async def _ask(self) -> Any:
        """For what is missing; None where nothing is."""
        start, end = self._at, self._end
        if end is not None and end <= start:
            return None
        try:
            answer = await ask_for(self._calls, self._key, start, end)
        except EmptyRange:
            return None
        is_whole = not start and (end is None or _length(answer) <= end)
        if "ContentRange" not in answer and not is_whole:
            answer["Body"].close()
            raise StoreUnavailable("the server does not answer a range with that range", key=self._key)
        return answer


class _NotWritten(Exception):
    """It is the file that failed, not the connection."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def ask_for(calls: Calls, key: str, start: int, end: int | None) -> Any:
    """An answer with those bytes as its ``Body``."""
    is_range = start or end is not None
    wanted: dict[str, Any] = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if is_range else {}
    return await calls.send("get", "get_object", key, **wanted)


def _length(answer: Any) -> int:
    return int(answer.get("ContentLength", 0))
