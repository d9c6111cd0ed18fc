"""Which offsets of a partition are where: ranges, the holes between them, and overlaps. Pure.

A range is (first, last), both included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The ranges of one log. ``holes`` are missing between known offsets; ``overlaps`` are in more than one segment.

    All are in order; adjacent ranges are joined.
    """

    local: tuple[Range, ...] = ()
    archived: tuple[Range, ...] = ()
    holes: tuple[Range, ...] = ()
    overlaps: tuple[Range, ...] = ()


def coverage(local: Iterable[Range], archived: Iterable[Range], segments: Iterable[Range]) -> Coverage:
    """``segments`` has each segment once: a local copy of an archived segment is not an overlap."""
    ranges = list(segments)
    return Coverage(joined(local), joined(archived), holes(ranges), overlaps(ranges))


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """In order, with adjacent and overlapping ranges joined."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return tuple(found)


def holes(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The missing ranges between the first offset and the last."""
    whole = joined(ranges)
    return tuple((one[1] + 1, other[0] - 1) for one, other in pairwise(whole))


def overlaps(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The offsets that are in more than one of the ranges."""
    found: list[Range] = []
    end = -1
    for first, last in sorted(ranges):
        if first <= end:
            found.append((first, min(last, end)))
        end = max(end, last)
    return joined(found)


def written(ranges: Iterable[Range]) -> str:
    """For people: ``0-99, 200-299``; a dash if there is none."""
    return ", ".join(f"{first}-{last}" for first, last in ranges) or "-"
