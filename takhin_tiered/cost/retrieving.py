"""What it costs to take segments out of the store, before it is done. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from takhin_tiered.cost.prices import GB, STANDARD, Prices

_INDEXES = 2
"""They stand in the bucket's own class, as the manifest does: a GET each."""
_RANGE = 32 << 20
_RANGES = 4
"""A log of at least two ranges is fetched in several, four at most."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a restore will cost, about, before it is made: US dollars, with what the month's restore budget has left.

    ``budget_left`` is None where there is no budget. ``over_budget``: it would be refused. ``budget_waiting``: what
    other restores will cost that wait for an archive class. It is not left either.
    """

    cost: float
    budget_monthly: float
    budget_spent: float
    budget_left: float | None
    over_budget: bool
    budget_waiting: float = 0.0


def retrieval_cost(prices: Prices, storage_class: str, stored_bytes: int, segments: int = 1) -> Decimal:
    """Dollars for so many segments with so many bytes as stored, all together.

    The log is in this class. Out of a Glacier class it has to be taken first, which is a request besides.
    """
    of = prices.of(storage_class)
    ranges = max(1, min(_RANGES, stored_bytes // max(1, segments) // _RANGE))
    requests = (of.get * ranges + prices.of(STANDARD).get * (_INDEXES + 1) + of.thaw) * segments
    return requests / 1000 + (of.retrieval + prices.egress) * stored_bytes / GB
