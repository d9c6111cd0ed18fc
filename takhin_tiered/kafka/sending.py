"""Answers on their way to a client: in order, in pieces, at the pace that all clients share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from takhin_tiered.bulk import FileRange
from takhin_tiered.concurrency import in_thread
from takhin_tiered.kafka.codec import Part
from takhin_tiered.kafka.stream import Stream
from takhin_tiered.pace import Pace

_PIECE = 256 << 10
_SMALL = 32 << 10
"""A piece of a file up to this size goes out with what stands beside it, in one packet."""
_PACED = 1 << 20


class FileTooShort(Exception):
    """A file ends before what was promised of it: the rest of the answer cannot be sent."""


class Sender:
    def __init__(self, stream: Stream, pace: Pace, count: Callable[[int], None]) -> None:
        self._stream, self._pace, self._count = stream, pace, count

    async def send(self, parts: Sequence[Part]) -> None:
        """`TimeoutError` or `OSError` where the client takes no more; `FileTooShort`."""
        waiting = bytearray()
        for part in parts:
            if isinstance(part, FileRange):
                if part.size <= _SMALL:
                    waiting += await _read(part.file, part.start, part.size)
                    continue
                await self._write(waiting)
                waiting = bytearray()
                await self._send_file(part)
            elif len(part) <= _SMALL:
                waiting += part
            else:
                await self._write(waiting)
                waiting = bytearray()
                await self._write(memoryview(part))
            if len(waiting) >= _PIECE:
                await self._write(waiting)
                waiting = bytearray()
        await self._write(waiting)

    async def _write(self, data: bytearray | memoryview) -> None:
        view = memoryview(data)
        for at in range(0, len(view), _PIECE):
            piece = view[at : at + _PIECE]
            await self._passed(len(piece))
            await self._stream.write(piece)

    async def _send_file(self, part: FileRange) -> None:
        if self._stream.is_encrypted:
            for start, size in _pieces(part, _PIECE):
                await self._write(memoryview(await _read(part.file, start, size)))
            return
        for start, size in _pieces(part, _PACED if self._pace.rate else part.size):
            await self._passed(size)
            if await self._stream.send_file(part.file, start, size) < size:
                raise FileTooShort

    async def _passed(self, count: int) -> None:
        await self._pace.spend(count)
        self._count(count)


def _pieces(part: FileRange, most: int) -> Iterable[tuple[int, int]]:
    end = part.start + part.size
    return ((start, min(most, end - start)) for start in range(part.start, end, most))


async def _read(file: int, start: int, size: int) -> bytes:
    data = await in_thread(os.pread, file, size, start)
    if len(data) < size:
        raise FileTooShort
    return data
