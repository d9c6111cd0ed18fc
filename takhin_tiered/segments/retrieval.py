"""Storage classes that cannot be read at once: how long it takes to have an object retrieved from one. Pure.

Source: Amazon S3 User Guide, "Understanding archive retrieval options". The times are those that Amazon states, not
promises.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from takhin_tiered.segments.names import SegmentId

GLACIER, DEEP_ARCHIVE = "GLACIER", "DEEP_ARCHIVE"
ARCHIVES = frozenset({GLACIER, DEEP_ARCHIVE})
"""Classes whose objects have to be retrieved before they are read. GLACIER_IR is none: it is read at once."""

STANDARD = "STANDARD"
"""The class of an object for which a store tells none."""

SMALLEST_IN_CLASS = 128 * 1024
"""Bytes. Smaller objects stay in the bucket's own class: the infrequent-access classes charge for at least as many."""

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_TO_RESTORE = 12 * _HOUR
"""So long everything that a segment needs can be read at once, at least: for the daemon to look, and to fetch it."""
# From, to, in seconds.
_TIMES = {
    (GLACIER, "Expedited"): (_MINUTE, 5 * _MINUTE),
    (GLACIER, "Standard"): (3 * _HOUR, 5 * _HOUR),
    (GLACIER, "Bulk"): (5 * _HOUR, 12 * _HOUR),
    (DEEP_ARCHIVE, "Standard"): (9 * _HOUR, 12 * _HOUR),
    (DEEP_ARCHIVE, "Bulk"): (12 * _HOUR, 48 * _HOUR),
}


def class_or_default(storage_class: str) -> str:
    return storage_class or STANDARD


def class_of_object(storage_class: str, size: int) -> str:
    """Where an object of so many bytes stands that was to be put in this class."""
    return storage_class if storage_class and size >= SMALLEST_IN_CLASS else STANDARD


STANDARD_TIER = "Standard"


def _times_of(storage_class: str, tier: str) -> tuple[float, float]:
    found = _TIMES.get((storage_class, tier)) or _TIMES.get((storage_class, STANDARD_TIER))
    return found or _TIMES[GLACIER, STANDARD_TIER]


def longest_retrieval(storage_class: str, tier: str) -> float:
    """Seconds until an object can be read, at most by the usual times; those of `GLACIER` for an unknown class."""
    return _times_of(storage_class, tier)[1]


def days_needed(days: int, storage_classes: Collection[str], tier: str, *, before_others: bool = False) -> int:
    """Days for which retrieved copies are asked for, so that all of a segment can be read at once; ``days`` at least.

    The first object may come long before the last, and lapse before that one comes. ``storage_classes`` are those of
    what is requested together. ``before_others``: what is requested is a manifest. Only then it is known what else has
    to be retrieved, in whatever class.
    """
    times = [_times_of(each, tier) for each in storage_classes]
    if before_others:
        apart = max(longest_retrieval(each, tier) for each in ARCHIVES)
    else:
        apart = max(last for _, last in times) - min(first for first, _ in times)
    return max(days, math.ceil((apart + _TO_RESTORE) / _DAY))


def span_of(seconds: float) -> str:
    """For people."""
    if seconds < 2 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.0f} h"


def minute_of(seconds: float) -> str:
    """A time, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A segment that was requested from an archive class, to be restored once it can be read.

    Times are seconds since the epoch. ``lease``, ``log`` and ``by`` are those of the restore that was asked for;
    ``lease`` is None for the configured one, ``log`` where it was not said which incarnation's. ``over_budget``: it
    was to be done whatever it costs. ``sent``: all that was known to be needed was requested; what is not coming any
    more has lapsed then. ``only_manifest``: that was the manifest, and the objects are requested after it.
    """

    id: SegmentId
    storage_class: str
    requested_at: float
    expected_at: float
    lease: float | None = None
    log: str | None = None
    by: str = ""
    correlation: str = ""
    over_budget: bool = False
    sent: bool = False
    only_manifest: bool = False

    @property
    def reason(self) -> str:
        return f"requested from {self.storage_class}: it is restored once it can be read"

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.id.path,
            "label": self.id.label,
            "storage_class": self.storage_class,
            "requested_at": self.requested_at,
            "expected_at": self.expected_at,
            "lease": self.lease,
            "log": self.log,
            "by": self.by,
            "correlation": self.correlation,
            "over_budget": self.over_budget,
            "sent": self.sent,
            "only_manifest": self.only_manifest,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Retrieval:
        """`ValueError`, `LookupError`, `TypeError` or `InvalidSegmentPath` where it is none."""
        values = {name: value for name, value in data.items() if name not in {"path", "label"}}
        parsed = SegmentId.parse(data["path"])
        return cls(SegmentId(parsed.topic, parsed.partition, parsed.base_offset, data["label"]), **values)


def pause_before_look(retrieval: Retrieval, now: float) -> float:
    """Seconds until it is worth asking again: short at first, as some servers take seconds, then ever longer."""
    return min(300.0, max(0.5, (now - retrieval.requested_at) / 10))
