"""What archiving a table costs once, what it saves a month, and when it has paid for itself. Pure.

List prices in US dollars, us-east-1, as of 2025: DynamoDB standard tables on demand (0.25 for a GB-month, 0.625 for a
million write units, 0.125 for a million read units), Amazon S3 Standard (0.023 for a GB-month, 0.005 for a thousand
PUT). Free tiers, reserved capacity, reads of what was archived and transfer are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from takhin_tiered.cost.prices import GB, STANDARD, STORAGE

TABLE_GB_MONTH = 0.25
STORE_GB_MONTH = STORAGE[STANDARD]
WRITE_UNIT = 0.625 / 1_000_000
READ_UNIT = 0.125 / 1_000_000
PUT = 0.005 / 1000
_EACH_ITEM = 100
"""Bytes that DynamoDB adds to the size of each item for its index."""
_POINTER = 120
"""Bytes of ``s3Key`` and ``archivedAt``, about."""
_COMPRESSED = 0.5
"""What gzip leaves of JSON, about."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Dollars. ``months`` until what was saved exceeds the cost; None where nothing is saved. ``pays_off``: 2027-03."""

    items: int
    bytes_moved: int
    monthly_before: float
    monthly_after: float
    monthly_saved: float
    saved_percent: float
    cost: float
    months: int | None
    pays_off: str


def estimate(*, items: int, size: int, kept: int, sizes: Mapping[int, int], scanned: int, now: datetime) -> Estimate:
    """Of ``items`` that are to be archived, with ``size`` bytes, of which ``kept`` stay in the table beside the
    pointer. ``sizes``: how many items of how many KiB. ``scanned``: bytes of the whole table, which is read for it.
    """
    before = (size + items * _EACH_ITEM) / GB * TABLE_GB_MONTH
    stays = (kept + items * (_EACH_ITEM + _POINTER)) / GB * TABLE_GB_MONTH
    after = stays + size * _COMPRESSED / GB * STORE_GB_MONTH
    writes = sum(count * max(1, kib) for kib, count in sizes.items())
    cost = writes * WRITE_UNIT + items * PUT + scanned / 4096 * READ_UNIT
    saved = before - after
    months = None if saved <= 0 or not items else max(1, -int(-cost // saved))
    return Estimate(
        items=items,
        bytes_moved=size,
        monthly_before=before,
        monthly_after=after,
        monthly_saved=saved,
        saved_percent=100 * saved / before if before else 0.0,
        cost=cost,
        months=months,
        pays_off="" if months is None else _month_after(now, months),
    )


def _month_after(now: datetime, months: int) -> str:
    number = now.year * 12 + now.month - 1 + months
    return f"{number // 12}-{number % 12 + 1:02d}"
