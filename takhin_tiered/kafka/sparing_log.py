"""Warnings about clients: whatever they do, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from takhin_tiered import logs

_SECONDS = 10.0


class SparingLog:
    """One line for each event in so many seconds; it tells how many were left out before it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}

    def warning(self, event: str, **facts: object) -> None:
        at, left_out = self._last.get(event, (-_SECONDS, 0))
        if self._clock() - at < _SECONDS:
            self._last[event] = at, left_out + 1
            return
        self._last[event] = self._clock(), 0
        more = {"left_out": left_out} if left_out else {}
        logs.logger().warning(event, **facts, **more)
