"""How a segment was read, for people and programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.heat.rates import Reads, average_rate, rate
from takhin_tiered.segments.report import iso_time


@dataclass(frozen=True, slots=True)
class Access:
    """The reads of a segment. Times are ISO 8601 in UTC, None for never.

    ``access_count`` and ``read_bytes`` are in all. ``average_read_hz`` is reads an hour since the first one, and
    ``rate_per_hour`` what counts for the tiers: reads an hour, of which the older count for less.
    """

    segment_path: str
    access_count: int = 0
    first_access_at: str | None = None
    last_access_at: str | None = None
    read_bytes: int = 0
    average_read_hz: float = 0.0
    rate_per_hour: float = 0.0


def describe_access(path: str, reads: Reads, now: float) -> Access:
    return Access(
        segment_path=path,
        access_count=reads.total,
        first_access_at=iso_time(reads.first),
        last_access_at=iso_time(reads.last),
        read_bytes=reads.size,
        average_read_hz=round(average_rate(reads, now), 6) if reads.total else 0.0,
        rate_per_hour=round(rate(reads, now), 6),
    )
