"""Headroom: how long the disk lasts at the present growth. Pure; the samples come from the daemon."""

from __future__ import annotations

from collections import deque

_SPAN = 3600.0
_ENOUGH = 60.0
_NOTABLE = 0.01


def lasts(seconds: float, before: int, free: int) -> float | None:
    """How long ``free`` bytes last, if ``before`` were free so many seconds ago; None where nothing can be said.

    So it is where the samples span less than a minute, and where less than a hundredth was used: one file could explain
    that, and a rate made from it would raise a false alarm.
    """
    lost = before - free
    if seconds < _ENOUGH or lost <= 0 or lost < _NOTABLE * free:
        return None
    return free * seconds / lost


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
        """Until nothing is free, at the rate between the oldest sample and the newest; None: see `lasts`."""
        if not self._samples:
            return None
        (first_at, first_free), (last_at, last_free) = self._samples[0], self._samples[-1]
        return lasts(last_at - first_at, first_free, last_free)
