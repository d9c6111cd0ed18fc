"""What a plan will cost once, what it saves a month, and when it has paid for itself. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from takhin_tiered.cost.prices import GB, STANDARD, ClassPrices, Prices
from takhin_tiered.cost.report import Held, dollars, held_of, storage_cost

_DAYS_OF_MONTH = 30
_PART = 16 << 20
_IN_PARTS_ABOVE = 64 << 20
_INDEXES = 2
_MANIFEST_GETS = 2
_LOOKS_BEFORE_CHANGE = 2
_DAY = 86400.0
_NEVER = 1200


@dataclass(frozen=True, slots=True)
class Move:
    """What a step does with a segment: ``uploads`` bytes to the store, ``frees`` of the disk, ``removes`` of the store.

    ``stored_for``: seconds that what it removes has stood there. ``storage_class`` is that of the log, and
    ``later_class`` the one that it is changed to, if it is, after ``changes_in`` seconds.
    """

    uploads: int = 0
    frees: int = 0
    removes: int = 0
    stored_for: float = 0.0
    storage_class: str = STANDARD
    later_class: str = ""
    changes_in: float = 0.0


@dataclass(frozen=True, slots=True)
class PlanCost:
    """US dollars. ``cost_once``: requests, and what is billed for objects that leave, or change their class, before the
    minimum duration of the class that they are in. The change of class that follows an upload is counted with it.

    ``saved_monthly`` is below 0 where bytes are only copied. ``payback_months``: after so many the saving exceeds the
    cost, in the calendar month ``pays_off_in`` (2026-12); both None where nothing is saved.
    """

    requests: int
    cost_once: float
    saved_monthly: float
    payback_months: float | None
    pays_off_in: str | None


def plan_cost(moves: Iterable[Move], prices: Prices, made_at: float) -> PlanCost:
    """Uploads count as large as they are on the disk: how far they can be compressed is known afterwards."""
    standard = prices.of(STANDARD)
    uploaded: defaultdict[str, Held] = defaultdict(Held)
    removed: defaultdict[str, Held] = defaultdict(Held)
    requests, freed, once = 0, 0, Decimal(0)
    for move in moves:
        of = prices.of(move.storage_class)
        freed += move.frees
        if move.uploads:
            uploaded[move.storage_class] += held_of([move.uploads], of)
            puts = puts_of_log(move.uploads)
            # Indexes and manifest stand in the bucket's own class. Before an unlink each object is looked at.
            others = _INDEXES + 1
            looks = _INDEXES + _MANIFEST_GETS
            requests += puts + others + 1 + looks
            once += (of.put * puts + standard.put * others + of.get + standard.get * looks) / 1000
            if move.later_class:
                later = prices.of(move.later_class)
                # A copy is made in as many requests as an upload. The manifest is read; the object is looked at twice
                # in the class that it is in, and then in the new one.
                requests += puts + 1 + _LOOKS_BEFORE_CHANGE + 1
                once += (later.put * puts + standard.get + of.get * _LOOKS_BEFORE_CHANGE + later.get) / 1000
                once += _rest_of_minimum(of, held_of([move.uploads], of), move.changes_in)
        if move.removes:
            held = held_of([move.removes], of)
            removed[move.storage_class] += held
            once += _rest_of_minimum(of, held, move.stored_for)
    saved = prices.disk * freed / GB
    saved += _storage(removed, prices) - _storage(uploaded, prices)
    months = once / saved if saved > 0 else None
    if months is not None and months > _NEVER:
        months = None
    return PlanCost(
        requests=requests,
        cost_once=dollars(once),
        saved_monthly=dollars(saved),
        payback_months=None if months is None else round(float(months), 2),
        pays_off_in=None if months is None else _month_after(made_at, float(months)),
    )


def _rest_of_minimum(of: ClassPrices, held: Held, stored_for: float) -> Decimal:
    """What is billed for the days that lack to the minimum duration."""
    left = max(Decimal(0), of.minimum_days - Decimal(repr(stored_for)) / Decimal(_DAY))
    return of.storage * (held.bytes + held.short) / GB * left / _DAYS_OF_MONTH


def puts_of_log(size: int) -> int:
    """Requests that upload a log of so many bytes, a large one in parts."""
    return 1 if size <= _IN_PARTS_ABOVE else 2 + -(-size // _PART)


def _storage(held: Mapping[str, Held], prices: Prices) -> Decimal:
    """Dollars a month."""
    standard = prices.of(STANDARD)
    return sum((storage_cost(each, prices.of(name), standard) for name, each in held.items()), Decimal(0))


def _month_after(seconds: float, months: float) -> str:
    return datetime.fromtimestamp(seconds + months * _DAYS_OF_MONTH * _DAY, UTC).strftime("%Y-%m")
