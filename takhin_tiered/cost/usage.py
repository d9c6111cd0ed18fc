"""What was asked of the store in one calendar month, counted; and what that costs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from takhin_tiered.cost.prices import GB, Prices


class Kind(StrEnum):
    """What is billed as one request. DELETE is counted, and free."""

    PUT = "put"
    LIST = "list"
    GET = "get"
    DELETE = "delete"
    THAW = "thaw"


class Purpose(StrEnum):
    """Why the store was asked. ``RESTORE`` and ``READ`` count for the restore budget.

    A restore may be asked for by hand, or by a promotion.
    """

    RESTORE = "restore"
    READ = "read"
    OTHER = "other"


@dataclass(slots=True)
class Usage:
    """Counts of one month, such as ``2026-11``, in UTC. ``received`` are bytes of objects that were read."""

    month: str
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    received: Counter[tuple[str, str]] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        return {
            "month": self.month,
            "requests": [[*key, count] for key, count in sorted(self.requests.items())],
            "received": [[*key, count] for key, count in sorted(self.received.items())],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """`ValueError`, `KeyError` or `TypeError` for what is no such value."""
        requests = Counter({(str(a), str(b), str(c)): int(count) for a, b, c, count in data["requests"]})
        received = Counter({(str(a), str(b)): int(count) for a, b, count in data["received"]})
        return cls(str(data["month"]), requests, received)

    def by_kind(self, prices: Prices) -> Iterator[tuple[str, int, Decimal]]:
        """Each kind with its count and its cost."""
        for kind in Kind:
            found = [(storage, count) for (_, storage, k), count in self.requests.items() if k == kind]
            cost = sum((request_cost(prices, storage, kind, count) for storage, count in found), Decimal(0))
            yield str(kind), sum(count for _, count in found), cost

    @property
    def received_bytes(self) -> int:
        return sum(self.received.values())

    def retrieval(self, prices: Prices) -> Decimal:
        """Of the bytes that were read."""
        costs = (prices.of(storage).retrieval * count / GB for (_, storage), count in self.received.items())
        return sum(costs, Decimal(0))

    def egress(self, prices: Prices) -> Decimal:
        return prices.egress * self.received_bytes / GB

    def spent(self, prices: Prices, *purposes: Purpose) -> Decimal:
        """What these purposes cost: requests, retrieval and egress."""
        total = Decimal(0)
        for (purpose, storage, kind), count in self.requests.items():
            if purpose in purposes:
                total += request_cost(prices, storage, kind, count)
        for (purpose, storage), count in self.received.items():
            if purpose in purposes:
                total += (prices.of(storage).retrieval + prices.egress) * count / GB
        return total


def request_cost(prices: Prices, storage_class: str, kind: str, count: int) -> Decimal:
    of = prices.of(storage_class)
    rates = {Kind.PUT: of.put, Kind.LIST: of.put, Kind.GET: of.get, Kind.THAW: of.thaw}
    return rates.get(Kind(kind), Decimal(0)) * count / 1000


def month_of(seconds: float) -> str:
    """The calendar month in UTC of a time since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m")
