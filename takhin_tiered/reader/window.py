"""The chunks of one file in order, for one reader, with some fetched ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from takhin_tiered.concurrency import in_thread
from takhin_tiered.reader.archived import ArchivedFile, Proof
from takhin_tiered.reader.fetching import Fetcher
from takhin_tiered.reader.memory import Chunk

_AHEAD, _FAR_AHEAD = 3, 7
"""Chunks beside the one that is read, if there is room for them in memory: of a scan more, as each GET costs."""
_SCAN = 32 << 20
"""A reader that has read so many bytes in order reads on, and hardly again: the cache is spared the rest."""
PIECE = 256 << 10
"""Bytes that a reader gets at a time: few, as each of them may have stalled with one."""
_JOINED_IN_PLACE = 16 << 20
"""Bytes up to which a turn in a thread costs more than to join them in the event loop."""


class ArchivedReader:
    """A `SegmentFile` in the archive. ``near_end`` is called once, when the last chunks of the file are on their way.

    ``prove`` has to be called before the first byte is read, if it is given: it returns the file as it is proven then.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        file: ArchivedFile,
        near_end: Callable[[], None],
        prove: Callable[[], Awaitable[ArchivedFile]] | None = None,
    ) -> None:
        self._fetcher, self._file, self._near_end, self._prove = fetcher, file, near_end, prove
        self._memory = fetcher.memory
        self._held: dict[int, Chunk] = {}
        self._one_reads = asyncio.Lock()
        self._expected = self._in_order = 0
        self._last = -1
        self._is_near_end = self._is_resting = False

    @property
    def size(self) -> int:
        return self._file.size

    @property
    def proof(self) -> Proof:
        return Proof.OBJECT if self._prove is not None else self._file.proof

    async def read(self, start: int, end: int) -> bytes:
        """See `SegmentFile`. Where reads follow one another, the next chunks are fetched meanwhile."""
        require_within(self.size, start, end)
        if start == end:
            return b""
        async with self._one_reads:
            await self._be_proven()
            numbers = self._file.chunks.holding(start, end)
            is_next = 0 < start == self._expected
            last = self._file.count - 1 if is_next else numbers[-1]
            parts = []
            self._go_on()
            try:
                for number in numbers:
                    first, _ = self._file.plain_range(number)
                    plain = await self._chunk(number, last)
                    parts.append(plain[max(0, start - first) : end - first])
            finally:
                self._rest()
            self._expected = end
            if len(parts) == 1:
                return parts[0]
            return b"".join(parts) if end - start <= _JOINED_IN_PLACE else await in_thread(b"".join, parts)

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The same bytes in small pieces, for a reader who may be slow. One at a time for each file."""
        require_within(self.size, start, end)
        if start == end:
            return
        await self._be_proven()
        numbers = self._file.chunks.holding(start, end)
        try:
            for number in numbers:
                first, last = self._file.plain_range(number)
                at, until = max(start, first), min(end, last)
                while at < until:
                    plain = await self._chunk(number, numbers[-1])
                    piece = plain[at - first : min(at + PIECE, until) - first]
                    at += len(piece)
                    # Not while it waits: the chunk may be dropped then.
                    del plain
                    self._rest()
                    try:
                        yield piece
                    finally:
                        self._go_on()
        finally:
            self.close()

    async def prefetch(self) -> None:
        """The first chunks, if there is room for them now. They stay in memory for a while."""
        if self._prove is None and self._file.count:
            numbers = range(min(self._file.count, _AHEAD))
            chunks = await self._fetcher.want(self._file, numbers, patient=False)
            try:
                for chunk in chunks:
                    await chunk.wait()
            finally:
                for chunk in chunks:
                    self._memory.leave(chunk)

    async def _be_proven(self) -> None:
        if self._prove is not None:
            self._file = await self._prove()
            self._prove = None

    def close(self) -> None:
        """Let go of all chunks. What is on its way for nobody else is cancelled."""
        self._go_on()
        for number in list(self._held):
            self._memory.leave(self._held.pop(number))

    async def _chunk(self, number: int, last: int) -> bytes:
        """A chunk's bytes; it is held, with those ahead of it up to ``last``, until a later one is asked for."""
        if number != self._last:
            self._in_order = self._in_order + self._file.chunks.size if number == self._last + 1 else 0
            self._last = number
        self._let_go(number)
        if number not in self._held:
            # Whoever waits for room in memory holds none of it: two readers never wait for each other.
            self.close()
            missing = range(number, min(last, number + self._ahead) + 1)
            self._held.update(zip(missing, await self._want(missing), strict=False))
        await self._fetch_ahead(number, last)
        if number + self._ahead >= self._file.count - 1 and last == self._file.count - 1 and not self._is_near_end:
            self._is_near_end = True
            self._near_end()
        return await self._held[number].wait()

    async def _fetch_ahead(self, number: int, last: int) -> None:
        """By half a window: a GET of several chunks costs less than as many GETs."""
        ahead = number + 1
        while ahead in self._held:
            ahead += 1
        until = min(last, number + self._ahead)
        if ahead > until or ahead - number > self._ahead // 2 + 1:
            return
        wanted = [each for each in range(ahead, until + 1) if each not in self._held]
        self._held.update(zip(wanted, await self._want(wanted, patient=False), strict=False))

    async def _want(self, numbers: Sequence[int], *, patient: bool = True) -> list[Chunk]:
        return await self._fetcher.want(self._file, numbers, patient=patient, is_scan=self._is_scan)

    @property
    def _is_scan(self) -> bool:
        return self._in_order > _SCAN

    @property
    def _ahead(self) -> int:
        return _FAR_AHEAD if self._is_scan else _AHEAD

    def _let_go(self, number: int) -> None:
        """Of chunks that were passed, that are too far ahead after a jump, and that were dropped."""
        for each, chunk in list(self._held.items()):
            if each < number or each > number + self._ahead or chunk.is_dropped:
                self._memory.leave(self._held.pop(each))

    def _rest(self) -> None:
        self._is_resting = True
        for chunk in self._held.values():
            self._memory.rest(chunk)

    def _go_on(self) -> None:
        if self._is_resting:
            self._is_resting = False
            for chunk in self._held.values():
                self._memory.go_on(chunk)


def require_within(size: int, start: int, end: int) -> None:
    if not 0 <= start <= end <= size:
        raise ValueError(f"bytes {start} to {end} of a file of {size} bytes")
