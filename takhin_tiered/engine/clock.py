"""The time of this machine, and how far it can be believed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from takhin_tiered import machine


@dataclass(frozen=True, slots=True)
class Span:
    """The time at the last look, by all that is known: see `takhin_tiered.segments.clock.Judgement`.

    ``uptime`` is when that was. Before the first look, the wall clock is believed.
    """

    earliest: float = float("inf")
    latest: float = float("-inf")
    uptime: float = 0.0
    problem: str = ""


@dataclass(slots=True)
class Clock:
    """Times are in seconds since the epoch. `ClockWatch` sets ``span``: how far ``wall`` can be believed."""

    wall: Callable[[], float] = time.time
    uptime: Callable[[], float] = machine.uptime
    span: Span = field(default_factory=Span)

    def now(self) -> float:
        """The time by the wall clock."""
        return self.wall()

    def sure_now(self) -> float:
        """The time by which something may go for its age: never later than it is."""
        return min(self.wall(), self.span.earliest + self.uptime() - self.span.uptime)

    def stamp_now(self) -> float:
        """The time from which an age begins: never earlier than it is."""
        return max(self.wall(), self.span.latest + self.uptime() - self.span.uptime)

    def ahead(self) -> float:
        """By how many seconds the wall clock may be ahead."""
        return max(0.0, self.wall() - self.sure_now())
