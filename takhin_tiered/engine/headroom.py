"""Headroom: how long the disk lasts at the present growth. Pure; the samples come from the daemon."""

from __future__ import annotations

from collections import deque

_SPAN = 3600.0
_ENOUGH = 60.0


class Headroom:
    """Free bytes over the last hour."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, free: int) -> None:
        """A sample: seconds, and free bytes. Older than an hour, samples are forgotten."""
        self._samples.append((now, free))
        while now - self._samples[0][0] > _SPAN:
            self._samples.popleft()

    def seconds(self) -> float | None:
        """Until nothing is free, at the rate between the oldest sample and the newest; None: it does not shrink.

        None as well until the samples span a minute.
        """
        if not self._samples:
            return None
        (first_at, first_free), (last_at, last_free) = self._samples[0], self._samples[-1]
        lost = first_free - last_free
        if last_at - first_at < _ENOUGH or lost <= 0:
            return None
        return last_free * (last_at - first_at) / lost
