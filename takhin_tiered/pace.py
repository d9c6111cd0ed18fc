"""Pace: so many bytes a second, and no more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

_OWED = 0.1


class Pace:
    """A token bucket, shared by tasks and threads. ``rate`` is bytes a second; 0 is no limit."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._free_at = clock()
        self._guard = threading.Lock()

    async def spend(self, count: int) -> None:
        """Return when so many more bytes may have passed."""
        if seconds := self._reserve(count):
            await asyncio.sleep(seconds)

    def spend_here(self, count: int) -> None:
        """The same, in a thread."""
        if seconds := self._reserve(count):
            time.sleep(seconds)

    def _reserve(self, count: int) -> float:
        if not self.rate:
            return 0.0
        with self._guard:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self.rate
            owed = self._free_at - now
        # A little is owed, not slept: timers are not that exact.
        return owed if owed > _OWED else 0.0
