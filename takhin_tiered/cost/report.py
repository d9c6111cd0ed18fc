"""What the tiers cost a month, what that saves, and what was spent this month. Pure; sums are exact until the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from takhin_tiered.cost.prices import GB, STANDARD, ClassPrices, Prices
from takhin_tiered.cost.retrieving import retrieval_cost
from takhin_tiered.cost.usage import Usage

_NANO = 9


@dataclass(frozen=True, slots=True)
class Held:
    """What stands in one storage class. ``bytes`` as stored; ``short``: what the logs lack to the minimum size.

    A segment counts where its log is, as one object: its indexes are small, and stand in the bucket's own class.
    """

    segments: int = 0
    bytes: int = 0
    short: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.segments + other.segments, self.bytes + other.bytes, self.short + other.short)


@dataclass(frozen=True, slots=True)
class ClassCost:
    """``billed_bytes`` are those of storage, with minimum sizes and what the class adds to each object."""

    storage_class: str
    segments: int
    bytes: int
    billed_bytes: int
    cost_monthly: float


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Requests of one kind in the current month: put, list, get, delete, thaw."""

    kind: str
    requests: int
    cost: float


@dataclass(frozen=True, slots=True)
class RestoreBudget:
    """Dollars of the current month. ``spent``: by restores, promotions and reads in place, running ones included.

    ``waiting`` is what restores will cost that wait for an archive class. ``monthly`` is 0 where there is no limit, and
    ``left`` is None then. ``used_up``: what is left does not pay for a restore of average size.
    """

    monthly: float
    spent: float
    left: float | None
    waiting: float = 0.0
    used_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """US dollars; a GB is 10**9 bytes as stored, compressed where they are.

    Hot is what stands on the disk, cold what stands in the store; a segment in both places is paid for twice.
    ``all_local_cost_monthly``: the same segments, each once, all on the disk. ``saved_monthly`` and
    ``cost_savings_pct`` are the difference to that. ``retrieval_cost_per_restore``: of an archived segment of average
    size. ``month`` is the calendar month, in UTC, of ``requests``, ``requests_cost``, ``received_gb``,
    ``retrieval_cost``, ``egress_cost`` and ``restore_budget``.
    """

    hot_storage_gb: float
    cold_storage_gb: float
    hot_storage_cost_monthly: float
    cold_storage_cost_monthly: float
    total_cost_monthly: float
    cost_savings_pct: float
    retrieval_cost_per_restore: float
    all_local_gb: float
    all_local_cost_monthly: float
    saved_monthly: float
    classes: tuple[ClassCost, ...]
    month: str
    requests: tuple[RequestCost, ...]
    requests_cost: float
    received_gb: float
    retrieval_cost: float
    egress_cost: float
    restore_budget: RestoreBudget


def report(
    *,
    local_bytes: int,
    total_bytes: int,
    held: Mapping[str, Held],
    usage: Usage,
    prices: Prices,
    budget: Decimal = Decimal(0),
    spent: Decimal = Decimal(0),
    waiting: Decimal = Decimal(0),
) -> CostReport:
    """``local_bytes`` stand on the disk, ``total_bytes`` are those of all segments, each counted once.

    ``spent``: of the restore ``budget``, with what running restores will cost. ``waiting``: what those will cost that
    wait for an archive class.
    """
    hot = prices.disk * local_bytes / GB
    costs = {name: storage_cost(each, prices.of(name), prices.of(STANDARD)) for name, each in held.items()}
    cold = sum(costs.values(), Decimal(0))
    all_local = prices.disk * total_bytes / GB
    saved = all_local - hot - cold
    segments, stored = sum(each.segments for each in held.values()), sum(each.bytes for each in held.values())
    per_restore = _restores(held, prices) / segments if segments else Decimal(0)
    requests = tuple(RequestCost(kind, count, dollars(cost)) for kind, count, cost in usage.by_kind(prices))
    return CostReport(
        hot_storage_gb=gigabytes(local_bytes),
        cold_storage_gb=gigabytes(stored),
        hot_storage_cost_monthly=dollars(hot),
        cold_storage_cost_monthly=dollars(cold),
        total_cost_monthly=dollars(hot + cold),
        cost_savings_pct=round(float(100 * saved / all_local), 4) if all_local else 0.0,
        retrieval_cost_per_restore=dollars(per_restore),
        all_local_gb=gigabytes(total_bytes),
        all_local_cost_monthly=dollars(all_local),
        saved_monthly=dollars(saved),
        classes=tuple(
            ClassCost(name, each.segments, each.bytes, billed_bytes(each, prices.of(name)), dollars(costs[name]))
            for name, each in sorted(held.items())
        ),
        month=usage.month,
        requests=requests,
        requests_cost=dollars(sum((cost for _, _, cost in usage.by_kind(prices)), Decimal(0))),
        received_gb=gigabytes(usage.received_bytes),
        retrieval_cost=dollars(usage.retrieval(prices)),
        egress_cost=dollars(usage.egress(prices)),
        restore_budget=budget_of(budget, spent, waiting, per_restore),
    )


def budget_of(budget: Decimal, spent: Decimal, waiting: Decimal, per_restore: Decimal) -> RestoreBudget:
    """``per_restore``: what a restore of average size costs."""
    left = budget - spent - waiting
    used_up = bool(budget) and (left <= 0 or left < per_restore)
    return RestoreBudget(dollars(budget), dollars(spent), dollars(left) if budget else None, dollars(waiting), used_up)


def billed_bytes(held: Held, of: ClassPrices) -> int:
    return held.bytes + held.short + held.segments * (of.overhead + of.overhead_standard)


def storage_cost(held: Held, of: ClassPrices, standard: ClassPrices) -> Decimal:
    """Dollars a month."""
    objects = held.segments
    own = of.storage * (held.bytes + held.short + objects * of.overhead) / GB
    return own + standard.storage * objects * of.overhead_standard / GB + of.monitoring * objects / 1000


def held_of(sizes: Sequence[int], of: ClassPrices) -> Held:
    """Segments of so many bytes each, in a class with these prices."""
    least = of.minimum_bytes
    return Held(len(sizes), sum(sizes), sum([least - size for size in sizes if size < least]))


def _restores(held: Mapping[str, Held], prices: Prices) -> Decimal:
    """What it costs to restore all segments, each by itself."""
    return sum((retrieval_cost(prices, name, each.bytes, each.segments) for name, each in held.items()), Decimal(0))


def dollars(amount: Decimal) -> float:
    """To the billionth of a dollar, which a single request may cost."""
    return float(round(amount, _NANO))


def gigabytes(count: int) -> float:
    return round(count / GB, _NANO)
