"""Which archived segments come back to the disk because they are read, and which restored ones make room. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from takhin_tiered.heat.rates import HOUR
from takhin_tiered.segments.names import SegmentId

CACHE_SHARE = 0.9
"""Restored segments get so much of the local cache; the rest is for chunks of those that are read in place."""
_CLEARLY = 1.5
"""A segment takes the place of others that are read less by this factor: else the two would change places for ever."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segment, its bytes, and its reads an hour. ``stays``: a restored one that its lease keeps on the disk."""

    id: SegmentId
    size: int
    rate: float
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """``instead_of`` leave the disk first."""

    id: SegmentId
    size: int
    rate: float
    instead_of: tuple[SegmentId, ...] = ()


@dataclass(slots=True)
class Budget:
    """Bytes an hour. One that is larger than that takes the budget of as many hours as it needs."""

    hourly: float
    spent: list[tuple[float, int]] = field(default_factory=list)

    def left(self, now: float) -> float:
        """0 or less: nothing before an hour has passed."""
        self._forget(now)
        return self.hourly - sum(size for _, size in self.spent)

    def allows(self, size: int, now: float) -> bool:
        left = self.left(now)
        return 0 < size <= left or (self.hourly > 0 and not self.spent)

    def spend(self, size: int, now: float) -> None:
        self._forget(now)
        if self.spent and now - self.spent[-1][0] < 1.0 and self.spent[-1][1] + size <= self.hourly:
            # Many small ones: a line for each second is enough.
            self.spent[-1] = now, self.spent[-1][1] + size
        else:
            self.spent.append((now, size))

    def _forget(self, now: float) -> None:
        # A clock that was set back must not stop everything until it is there again.
        self.spent = [(min(at, now), size) for at, size in self.spent]
        self.spent = [(at, size) for at, size in self.spent if now - at < self._lasts(size)]

    def _lasts(self, size: int) -> float:
        return HOUR * max(1.0, size / self.hourly) if self.hourly > 0 else HOUR

    def to_text(self) -> str:
        return json.dumps(self.spent)

    @classmethod
    def from_text(cls, hourly: float, text: str | None) -> Budget:
        return cls(hourly, [(float(at), int(size)) for at, size in json.loads(text or "[]")])


@dataclass(frozen=True, slots=True)
class Choice:
    """In the order in which they are to be done. ``waiting`` are hot, and stay in the archive for now."""

    promotions: tuple[Promotion, ...]
    waiting: int
    reason: str = ""


def choose(
    archived: Iterable[Candidate], restored: Iterable[Candidate], cache_size: int, budget: Budget, now: float
) -> Choice:
    """The hottest first, as far as cache and budget have room. What is clearly colder makes room in the cache."""
    copies = sorted(restored, key=lambda copy: (copy.rate, copy.id), reverse=True)
    room = int(cache_size * CACHE_SHARE) - sum(copy.size for copy in copies)
    leaving = [copy for copy in copies if not copy.stays]
    wanted = sorted(archived, key=lambda each: (-each.rate, each.id))
    trial, found = Budget(budget.hourly, list(budget.spent)), list[Promotion]()
    reason = ""
    for each in wanted:
        if not trial.allows(each.size, now):
            reason = "the budget of this hour is spent"
            break
        displaced: list[Candidate] = []
        while room + sum(copy.size for copy in displaced) < each.size and len(displaced) < len(leaving):
            copy = leaving[-1 - len(displaced)]
            if copy.rate * _CLEARLY > each.rate:
                break
            displaced.append(copy)
        freed = sum(copy.size for copy in displaced)
        if room + freed < each.size:
            reason = "the local cache is full of segments that are read as much"
            break
        del leaving[len(leaving) - len(displaced) :]
        room += freed - each.size
        trial.spend(each.size, now)
        found.append(Promotion(each.id, each.size, each.rate, tuple(copy.id for copy in displaced)))
    return Choice(tuple(found), len(wanted) - len(found), reason)
