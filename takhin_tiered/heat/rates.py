"""The reads of one segment, as two sums that decay: one forgets within hours, the other within weeks. Pure.

The short one follows a burst, the long one tells what is read day after day. Neither stays: a segment that nobody reads
any more is as cold as one that nobody ever read.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

HOUR = 3600.0
RECENT_HALF_LIFE = HOUR
STEADY_HALF_LIFE = 7 * 24 * HOUR
_COOLED = 0.5
"""A segment is hot from the threshold on, and until it is below so much of it: at the threshold it would flap."""
_RECENT_HOURLY, _STEADY_HOURLY = math.log(2) * HOUR / RECENT_HALF_LIFE, math.log(2) * HOUR / STEADY_HALF_LIFE
"""A decayed sum times this is reads an hour."""
_BY_RATE, _BY_COUNT = 1, 2
_ROW = struct.Struct("<qqdddddB")
ROW_SIZE = _ROW.size


@dataclass(frozen=True, slots=True)
class HotRule:
    """From when on a segment is hot. ``rate`` is reads an hour, ``count`` is reads; 0: not by this."""

    rate: float = 0.0
    count: float = 0.0


class Reads(NamedTuple):
    """What is known of one segment's reads. Times are seconds since the epoch, 0 for never.

    ``total`` and ``size`` are reads and bytes in all. ``recent`` and ``steady`` are reads of which each counts for half
    after a half-life; they are as of ``last``. ``hot`` has a bit for each rule that made it hot. ``demoted``: when it
    left the disk last.
    """

    total: int = 0
    size: int = 0
    first: float = 0.0
    last: float = 0.0
    recent: float = 0.0
    steady: float = 0.0
    demoted: float = 0.0
    hot: int = 0


def pack(reads: Reads) -> bytes:
    return _ROW.pack(*reads)


def unpack(row: bytes) -> Reads:
    return Reads._make(_ROW.unpack(row))


def _left(seconds: float, half_life: float) -> float:
    """What is left of 1. A clock that was set back makes nothing grow."""
    return 1.0 if seconds <= 0.0 else 2.0 ** (-seconds / half_life)


def with_read(reads: Reads, now: float, size: int, rule: HotRule, count: int = 1) -> Reads:
    """``size``: bytes that were read. With a ``count`` of 0 they belong to a read that was noted before."""
    passed = now - reads.last
    recent = reads.recent * _left(passed, RECENT_HALF_LIFE)
    steady = reads.steady * _left(passed, STEADY_HALF_LIFE)
    added = reads._replace(
        total=reads.total + count,
        size=reads.size + size,
        first=reads.first or now,
        last=now,
        recent=recent + count,
        steady=steady + count,
    )
    return judged(added, rule)


def judged(reads: Reads, rule: HotRule, now: float | None = None) -> Reads:
    """With the bits of the rules that it meets, now or when it was read last."""
    at = reads.last if now is None else now
    hot = 0
    for bit, value, threshold in (
        (_BY_RATE, rate(reads, at), rule.rate),
        # A hundred reads within minutes are a hundred, whatever has decayed meanwhile.
        (_BY_COUNT, math.floor(steady_reads(reads, at) + 0.5), rule.count),
    ):
        if threshold > 0 and value >= threshold * (_COOLED if reads.hot & bit else 1.0):
            hot |= bit
    return reads if hot == reads.hot else reads._replace(hot=hot)


def is_hot(reads: Reads, rule: HotRule, now: float) -> bool:
    """Whether a rule made it hot, and it has not cooled down since."""
    return bool(reads.hot) and bool(judged(reads, rule, now).hot)


def steady_reads(reads: Reads, now: float) -> float:
    """Reads of which each counts for half after a week."""
    return reads.steady * _left(now - reads.last, STEADY_HALF_LIFE)


def standing(reads: Reads) -> float:
    """Orders segments by `steady_reads`, at any time: all of them decay alike. It only grows with further reads."""
    return math.log2(reads.steady) + reads.last / STEADY_HALF_LIFE if reads.steady else -math.inf


def rate(reads: Reads, now: float) -> float:
    """Reads an hour: the average of the last hours, or of the last weeks if that is more."""
    recent = reads.recent * _left(now - reads.last, RECENT_HALF_LIFE) * _RECENT_HOURLY
    return max(recent, steady_reads(reads, now) * _STEADY_HOURLY)


def sure_rate(reads: Reads, now: float) -> float:
    """The same for comparisons: what a few reads within an hour can be by chance is left out.

    Reads that come at random have a variance like their number; of the average of the last hours two standard
    deviations are taken off. The average of weeks needs no such care.
    """
    recent = reads.recent * _left(now - reads.last, RECENT_HALF_LIFE) * _RECENT_HOURLY
    by_chance = 2.0 * math.sqrt(recent * _RECENT_HOURLY / 2.0)
    return max(recent - by_chance, steady_reads(reads, now) * _STEADY_HOURLY)


def average_rate(reads: Reads, now: float) -> float:
    """Reads an hour since the first one, of which an hour is the least that is reckoned."""
    return reads.total / max(1.0, (now - reads.first) / HOUR)


def not_after(reads: Reads, now: float) -> Reads:
    """After a clock was set back: what was noted at a later time was noted now."""
    if reads.last <= now and reads.demoted <= now and reads.first <= now:
        return reads
    first, last, demoted = min(reads.first, now), min(reads.last, now), min(reads.demoted, now)
    return reads._replace(first=first, last=last, demoted=demoted)
