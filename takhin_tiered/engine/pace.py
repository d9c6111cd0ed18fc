"""Pace: so many bytes a second, and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """A token bucket of one second. ``rate`` is bytes a second; 0 is no limit."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock()

    async def spend(self, count: int) -> None:
        """Return when so many more bytes may have passed."""
        if not self._rate:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._rate
        # Up to a tenth of a second is owed, not slept: timers are not that exact.
        if self._free_at - now > 0.1:
            await asyncio.sleep(self._free_at - now)
