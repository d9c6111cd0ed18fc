"""The beginning of the next segment, fetched while the end of this one is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from takhin_tiered.reader.reader import Reader
from takhin_tiered.segments.names import SegmentId


class Prefetching:
    """Of one reader, who reads a log in order. What is on its way at the end is cancelled."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Prefetching:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def of(self, following: SegmentId) -> Callable[[], None]:
        """To be called when the end of the segment before is near."""

        def begin() -> None:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._reader.prefetch(following))

        return begin
