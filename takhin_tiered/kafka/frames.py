"""Frames: four bytes of length, and a request. Within a bound of memory that all connections share.

A short frame is read into memory of its own. A longer one waits for its share, in turn, and keeps it until it has been
handled; before a client is authenticated there is no share for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from takhin_tiered.kafka.apis import PRODUCE
from takhin_tiered.kafka.codec import Malformed
from takhin_tiered.kafka.limits import Limits
from takhin_tiered.kafka.stream import Stream

_DECODED = 20
"""So many times the bytes of a frame its message takes at most, in lists and objects."""
_MOST_DECODED = 16 << 20


class Idle(Exception):
    """Nothing came for a long time."""


class Memory:
    """So many bytes, shared in turn."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, size: int) -> None:
        # One waits for memory, the others for it: so that a large one gets its turn.
        async with self._turn:
            while self._free < size:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size

    def give_back(self, size: int) -> None:
        self._free += size
        self._freed.set()


class Frames:
    """The requests of one connection."""

    def __init__(self, stream: Stream, memory: Memory, limits: Limits) -> None:
        self._stream, self._memory, self._limits = stream, memory, limits

    @asynccontextmanager
    async def next(self, *, is_trusted: bool) -> AsyncIterator[memoryview]:
        """The next frame, in memory that is given back at the end.

        `Idle` where none comes, `ConnectionResetError` at the end, `Malformed` for what is no frame or too large a one,
        `TimeoutError` for one that takes too long.
        """
        size = await self._size(is_trusted)
        head = memoryview(bytearray(min(size, self._limits.free_frame_bytes)))
        deadline = asyncio.get_running_loop().time() + self._limits.frame_seconds
        async with asyncio.timeout_at(deadline):
            await self._stream.read_into(head)
        if len(head) == size:
            yield head
            return
        self._check(size, int.from_bytes(head[:2], "big", signed=True), is_trusted)
        share = size + min(size * _DECODED, _MOST_DECODED)
        async with asyncio.timeout_at(deadline):
            await self._memory.take(share)
        try:
            frame = memoryview(bytearray(size))
            frame[: len(head)] = head
            async with asyncio.timeout_at(deadline):
                await self._stream.read_into(frame[len(head) :])
            yield frame
        finally:
            self._memory.give_back(share)

    async def _size(self, is_trusted: bool) -> int:
        room = memoryview(bytearray(4))
        try:
            async with asyncio.timeout(self._limits.idle_seconds if is_trusted else self._limits.login_seconds):
                await self._stream.read_into(room)
        except TimeoutError:
            raise Idle from None
        size = int.from_bytes(room, "big", signed=True)
        if not 0 <= size <= max(self._limits.frame_bytes, self._limits.produce_bytes):
            raise Malformed(f"a frame of {size} bytes")
        return size

    def _check(self, size: int, api: int, is_trusted: bool) -> None:
        most = self._limits.produce_bytes if api == PRODUCE else self._limits.frame_bytes
        if not is_trusted:
            most = self._limits.free_frame_bytes
        if size > most:
            raise Malformed(f"a frame of {size} bytes for API {api}, where {most} are allowed")
