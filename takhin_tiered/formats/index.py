"""Lookups in offset and time indexes, of Kafka's format and of Takhin's.

Sources: Apache Kafka, ``OffsetIndex``, ``TimeIndex``, ``LogSegment.append``. At an append that is due an entry, the
offset index gets the largest offset appended and the position at which the append begins, and the time index the
largest timestamp so far and its offset. One append may be several batches. So of an entry (offset, position):

- the batch at that position begins at or below that offset, and all records before it are below that offset;
- all records up to that offset stand before the position of the entry that follows.

An index only helps. Entries that contradict the others, or the size of the log, are left out; what is left has to be
checked against the batch that is found there. An empty, truncated or preallocated index is one with fewer entries.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from operator import lt
from typing import NamedTuple

from takhin_tiered.formats.batch import Bytes

KAFKA, TAKHIN = "kafka", "takhin"
_MOST_OF_TAKHIN = 1 << 16


class Span(NamedTuple):
    """Where to look: from ``start``, an entry's position, up to ``likely_end``, and not past ``end``.

    ``end`` is None if no entry tells. ``likely_end`` is the position of the last batch that may be the one.
    """

    start: int
    likely_end: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class OffsetIndex:
    """Entries of an offset index that are consistent: offsets and positions both grow."""

    offsets: Sequence[int]
    positions: Sequence[int]

    def span(self, offset: int) -> Span:
        """Where the batch stands that has ``offset``, or the next one."""
        at = bisect_right(self.offsets, offset)
        start = self.positions[at - 1] if at else 0
        return Span(start, self._position(at), self._position(at + 1))

    def before(self, position: int) -> OffsetIndex:
        """Without the entries from ``position`` on, for when the one there turns out to be wrong."""
        return self._first(bisect_left(self.positions, position))

    def first_half(self) -> OffsetIndex:
        return self._first(len(self) // 2)

    def __len__(self) -> int:
        return len(self.offsets)

    def _first(self, count: int) -> OffsetIndex:
        return OffsetIndex(self.offsets[:count], self.positions[:count])

    def _position(self, at: int) -> int | None:
        return self.positions[at] if at < len(self.positions) else None


@dataclass(frozen=True, slots=True)
class TimeEntry:
    timestamp: int
    offset: int


@dataclass(frozen=True, slots=True)
class TimeIndex:
    """Entries of a time index that are consistent. ``newest`` has the largest timestamp up to each entry."""

    timestamps: Sequence[int]
    newest: Sequence[int]
    offsets: Sequence[int]

    def around(self, timestamp: int) -> tuple[TimeEntry | None, TimeEntry | None]:
        """The last entry up to which all records are older than ``timestamp``, and the one after it."""
        at = bisect_left(self.newest, timestamp)
        return (self._entry(at - 1) if at else None), (self._entry(at) if at < len(self.offsets) else None)

    def before(self, offset: int) -> TimeIndex:
        """Without the entries from ``offset`` on, for when the one there turns out to be wrong."""
        return self._first(bisect_left(self.offsets, offset))

    def first_half(self) -> TimeIndex:
        return self._first(len(self) // 2)

    def __len__(self) -> int:
        return len(self.offsets)

    def _first(self, count: int) -> TimeIndex:
        return TimeIndex(self.timestamps[:count], self.newest[:count], self.offsets[:count])

    def _entry(self, at: int) -> TimeEntry:
        return TimeEntry(self.timestamps[at], self.offsets[at])


def parse_offset_index(data: Bytes, log_format: str, base_offset: int, log_size: int) -> OffsetIndex:
    """The consistent entries of an ``.index`` file."""
    if log_format == TAKHIN:
        pairs = _numbers("q", data, 16)
        thinned = slice(None, None, _thinning(len(pairs) // 2))
        offsets, positions = pairs[0::2][thinned], pairs[1::2][thinned]
    else:
        pairs = _numbers("i", data, 8)
        offsets, positions = _absolute(pairs[0::2], base_offset), pairs[1::2]
    if not (_ascends(offsets) and _ascends(positions)) or (len(positions) and positions[-1] >= log_size):
        keep = _consistent(list(zip(offsets, positions, strict=True)), (base_offset, 0), (sys.maxsize, log_size))
        offsets, positions = _only(offsets, keep), _only(positions, keep)
    sane = max(bisect_left(offsets, base_offset), bisect_left(positions, 0))
    return OffsetIndex(offsets[sane:], positions[sane:])


def parse_time_index(data: Bytes, log_format: str, base_offset: int) -> TimeIndex:
    """The consistent entries of a ``.timeindex`` file."""
    if log_format == TAKHIN:
        pairs = _numbers("q", data, 16)
        times, offsets = pairs[0::2], pairs[1::2]
        return _takhin_time_index(times, offsets, base_offset)
    # An entry is three int32: the halves of the timestamp, and the relative offset.
    numbers = _numbers("i", data, 12)
    times = array("q", map(_join, numbers[0::3], numbers[1::3]))
    offsets = _absolute(numbers[2::3], base_offset)
    if not (_ascends(times) and _ascends(offsets)):
        keep = _consistent(list(zip(times, offsets, strict=True)), (0, base_offset), (sys.maxsize, sys.maxsize))
        times, offsets = _only(times, keep), _only(offsets, keep)
    sane = max(bisect_left(times, 0), bisect_left(offsets, base_offset))
    return TimeIndex(times[sane:], times[sane:], offsets[sane:])


def _takhin_time_index(times: array[int], offsets: array[int], base_offset: int) -> TimeIndex:
    """Takhin's has the timestamp of each record, whether or not it is the largest so far.

    Up to where an entry is missing nothing is older than it says; from there on only while timestamps grow.
    """
    end, previous = 0, base_offset - 1
    is_whole, newest = True, -1
    for time, offset in zip(times, offsets, strict=True):
        is_whole = is_whole and offset == previous + 1
        if offset <= previous or time < 0 or not (is_whole or time >= newest):
            break
        newest, previous, end = max(newest, time), offset, end + 1
    newest_so_far, step = array("q", accumulate(times[:end], max)), _thinning(end)
    return TimeIndex(times[:end:step], newest_so_far[::step], offsets[:end:step])


def _thinning(entries: int) -> int:
    """Takhin's indexes have every record: one entry of so many is enough, and keeps them small in memory."""
    return max(1, entries // _MOST_OF_TAKHIN)


def _numbers(code: str, data: Bytes, entry: int) -> array[int]:
    """Big-endian numbers, of whole entries, without the entries of zeros at the end."""
    end = len(data) // entry * entry
    stripped = len(bytes(data[:end]).rstrip(b"\0"))
    found = array(code, bytes(data[: min(end, -(-stripped // entry) * entry)]))
    if sys.byteorder == "little":
        found.byteswap()
    return found


def _absolute(relative: array[int], base: int) -> array[int]:
    return array("q", [base + each for each in relative])


def _join(high: int, low: int) -> int:
    return (high << 32) | (low & 0xFFFF_FFFF)


def _ascends(numbers: array[int]) -> bool:
    return all(map(lt, numbers, numbers[1:]))


def _only(numbers: array[int], keep: Sequence[bool]) -> array[int]:
    return array(numbers.typecode, compress(numbers, keep))


def _consistent(entries: list[tuple[int, int]], least: tuple[int, int], most: tuple[int, int]) -> list[bool]:
    """Which entries to keep so that both numbers grow: one too high or too low between others is left out."""
    kept: list[int] = []
    for at, entry in enumerate(entries):
        if not (_up_to(least, entry) and _below(entry, most)):
            continue
        if kept and not _below(entries[kept[-1]], entry):
            # Either the one before is too high, or this one is too low: it is too low if it does not fit below either.
            if len(kept) > 1 and not _below(entries[kept[-2]], entry):
                continue
            kept.pop()
        kept.append(at)
    chosen = set(kept)
    return [at in chosen for at in range(len(entries))]


def _up_to(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1]


def _below(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[0] and one[1] < other[1]
