"""A log at a glance: its segments in a few dozen cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from takhin_tiered.heat.tracker import Usage
from takhin_tiered.segments.model import Segment, State, Tier
from takhin_tiered.segments.policy import Policy, classify

CELLS = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """Segments that follow each other. ``place`` is where most of them are: ``local``, ``copied`` or ``archived``;
    ``tier`` is that of most. ``first`` and ``last`` are base offsets, of the first and the last of them. ``rate`` is
    reads an hour of all of them, ``before`` the path of the segment that comes before, empty for none.
    """

    place: str
    tier: str
    first: int
    last: int
    segments: int
    troubled: int
    size: int
    rate: float
    before: str


def cells_of(log: Sequence[Segment], policy: Policy, now: float, usage: Usage, *, sure: float) -> list[Cell]:
    """``sure`` is as in `Segment.lease_left`."""
    bounds = [round(number * len(log) / CELLS) for number in range(CELLS + 1)]
    if len(log) <= CELLS:
        bounds = list(range(len(log) + 1))
    return [
        _cell(log[start:end], log[start - 1].id.exact_path if start else "", policy, now, usage, sure=sure)
        for start, end in pairwise(bounds)
        if end > start
    ]


def _cell(some: Sequence[Segment], before: str, policy: Policy, now: float, usage: Usage, *, sure: float) -> Cell:
    places = [segment.state for segment in some]
    tiers = [classify(segment, policy, now, usage, sure=sure) for segment in some]
    return Cell(
        place=max(State, key=places.count),
        tier=max(Tier, key=tiers.count),
        first=some[0].id.base_offset,
        last=some[-1].id.base_offset,
        segments=len(some),
        troubled=sum(bool(each.quarantine or each.damage or each.last_failure) for each in some),
        size=sum(each.size for each in some),
        rate=sum(usage.rate(each.id) for each in some),
        before=before,
    )
