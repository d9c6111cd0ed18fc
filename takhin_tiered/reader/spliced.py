"""A log in the archive that is made of parts of other logs, for one reader."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from takhin_tiered.reader.archived import Proof
from takhin_tiered.reader.window import ArchivedReader, require_within
from takhin_tiered.segments.splice import Part, slices


class SplicedReader:
    """A `SegmentFile`. ``logs`` are the readers of the logs that the parts are of, one for each part.

    ``near_end`` is called once, when the last part is read.
    """

    def __init__(self, parts: Sequence[Part], logs: Sequence[ArchivedReader], near_end: Callable[[], None]) -> None:
        self._parts, self._logs, self._near_end = parts, logs, near_end
        self._size = sum(map(len, parts))
        self._at = 0
        self._is_near_end = False

    @property
    def size(self) -> int:
        return self._size

    @property
    def proof(self) -> Proof:
        return Proof.OBJECT if any(log.proof is Proof.OBJECT for log in self._logs) else Proof.CHUNK

    async def read(self, start: int, end: int) -> bytes:
        """See `SegmentFile`."""
        require_within(self.size, start, end)
        pieces = [await self._turn_to(number).read(first, last) for number, first, last in self._slices(start, end)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The same bytes in small pieces, for a reader who may be slow. One at a time for each file."""
        require_within(self.size, start, end)
        for number, first, last in self._slices(start, end):
            async with aclosing(self._turn_to(number).pieces(first, last)) as pieces:
                async for piece in pieces:
                    yield piece

    def close(self) -> None:
        for log in self._logs:
            log.close()

    def _slices(self, start: int, end: int) -> list[tuple[int, int, int]]:
        return list(slices(self._parts, start, end))

    def _turn_to(self, number: int) -> ArchivedReader:
        """Whoever waits for room in memory holds none of it: so what is held of another log goes first."""
        if number != self._at:
            self._logs[self._at].close()
            self._at = number
        if number == len(self._logs) - 1 and not self._is_near_end:
            self._is_near_end = True
            self._near_end()
        return self._logs[number]
