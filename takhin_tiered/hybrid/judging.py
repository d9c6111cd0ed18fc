"""Which items are old enough to move to the store. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid.pointers import NAMES, is_pointer
from takhin_tiered.hybrid.schema import Schema

_MILLISECONDS_FROM = 1e11
"""As seconds it would be the year 5138, as milliseconds it is March 1973."""
DAY = 86400.0

YOUNG = "too young"
ARCHIVED = "already archived"
CHANGED = "changed meanwhile"
LEASED = "came back less than 24 hours ago"
NO_TIMESTAMP = "without a timestamp"
BAD_TIMESTAMP = "with a timestamp that is no time"
RESERVED = "with an attribute that is named like one of a pointer"
NOTHING = "with no attribute that could leave the table"
TOO_MANY = "with too many attributes for a conditional update"


def seconds_of(value: Mapping[str, Any] | None) -> float | None:
    """Seconds since the epoch, of ISO 8601, in UTC if it has no offset, or of seconds or milliseconds; else None."""
    if value is None:
        return None
    ((kind, inner),) = value.items()
    try:
        if kind == "S":
            if inner.isdecimal() and len(inner) > len("20240131"):
                # Milliseconds as text: read as ISO 8601, some would be a day of the eighteenth century.
                return None
            found = datetime.fromisoformat(inner)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        if kind == "N":
            number = float(inner)
            return number / 1000 if abs(number) >= _MILLISECONDS_FROM else number
    except (ValueError, OverflowError):
        pass
    return None


@dataclass(frozen=True, slots=True)
class Judge:
    """``before``: what is older moves, in seconds since the epoch."""

    schema: Schema
    timestamp: str
    before: float

    def reason_to_stay(self, item: Item) -> str:
        """Empty for an item that is to be archived."""
        if is_pointer(item):
            return ARCHIVED
        if self.timestamp not in item:
            return NO_TIMESTAMP
        seconds = seconds_of(item[self.timestamp])
        if seconds is None:
            return BAD_TIMESTAMP
        if seconds > self.before:
            return YOUNG
        if item.keys() & NAMES:
            return RESERVED
        if item.keys() <= self.schema.kept:
            return NOTHING
        return ""
