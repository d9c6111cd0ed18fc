"""Requests to the store and bytes that came from it, counted as they are billed: by kind, storage class and purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from takhin_tiered.cost.prices import STANDARD
from takhin_tiered.cost.usage import Kind, Purpose, Usage, month_of
from takhin_tiered.metrics import Metrics

_MONTHS_KEPT = 13
_purpose: ContextVar[Purpose] = ContextVar("purpose", default=Purpose.OTHER)


@contextmanager
def counted_as(purpose: Purpose) -> Iterator[None]:
    """Within: what is asked of the store counts for this purpose, in tasks that begin here too."""
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


class RequestCounter:
    """One `Usage` for each calendar month, the last thirteen. Used in the event loop only."""

    def __init__(self, metrics: Metrics | None = None, clock: Callable[[], float] = time.time) -> None:
        self._metrics, self.clock = metrics, clock
        self._months: dict[str, Usage] = {}
        self.changes = 0
        """Goes up with each count."""

    @property
    def usage(self) -> Usage:
        """Of the current month."""
        month = month_of(self.clock())
        if month not in self._months:
            self._months[month] = Usage(month)
            for name in sorted(self._months)[:-_MONTHS_KEPT]:
                del self._months[name]
        return self._months[month]

    def requested(self, kind: Kind, storage_class: str = "", number: int = 1) -> None:
        self.changes += 1
        self.usage.requests[_purpose.get(), storage_class or STANDARD, kind] += number
        if self._metrics is not None:
            self._metrics.costs.requests.labels(kind).inc(number)

    def received(self, count: int, storage_class: str = "") -> None:
        """Bytes of an object that the store sent."""
        self.changes += 1
        self.usage.received[_purpose.get(), storage_class or STANDARD] += count

    def to_json(self) -> list[dict[str, Any]]:
        return [usage.to_json() for usage in self._months.values()]

    def load(self, months: Iterable[dict[str, Any]]) -> None:
        """What an earlier process wrote by `to_json`; `ValueError`, `KeyError` or `TypeError` for anything else."""
        found = {usage.month: usage for usage in map(Usage.from_json, months)}
        for month, usage in self._months.items():
            # Counted since this process began.
            known = found.setdefault(month, Usage(month))
            known.requests.update(usage.requests)
            known.received.update(usage.received)
        self._months = found
