"""Counts and sums over all segments, updated with each change, so that a query costs nothing.

Tiers change with time alone. The modification times are kept in a sorted list, and two thresholds in it give the
numbers of warm and cold segments. Topics with ages of their own have lists of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sortedcontainers import SortedList

from takhin_tiered.catalog.survey import survey
from takhin_tiered.segments.model import Segment, State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.policy import Ages, Policy, classify

AgesOf = Callable[[str], Ages]


@dataclass(frozen=True, slots=True)
class Stats:
    """Over all segments. ``archived_segments`` are those only in the archive.

    ``total_size_bytes`` counts each segment once. ``local_size_bytes`` is what is on disk and
    ``archived_size_bytes`` what is in the store: a segment in both counts in both.
    """

    total_segments: int
    hot_segments: int
    warm_segments: int
    cold_segments: int
    archived_segments: int
    total_size_bytes: int
    local_size_bytes: int
    archived_size_bytes: int


@dataclass(slots=True)
class _Times:
    """Modification times. Those in ``new`` are not inserted yet: one sort is cheaper than many insertions."""

    sorted: SortedList[float] = field(default_factory=SortedList)
    new: list[float] = field(default_factory=list)

    def sort(self) -> SortedList[float]:
        if self.new:
            self.sorted.update(self.new)
            self.new = []
        return self.sorted


def as_all(_: str) -> Ages:
    """No topic has ages of its own."""
    return None, None


class Tallies:
    """``ages_of``: the ages that a topic has of its own."""

    def __init__(self, ages_of: AgesOf = as_all) -> None:
        self.ages_of = ages_of
        self._total = self._archived = 0
        self.quarantined = self.damaged = 0
        # Segments that have an archived copy, whether anything is local or not.
        self.copies = 0
        self._total_bytes = self._local_bytes = self._archived_bytes = 0
        self._times: dict[Ages, _Times] = {}
        # Hot during their lease, whatever their age. Active ones are always hot and in no list.
        self._restored: dict[SegmentId, Segment] = {}

    def add(self, rows: Sequence[bytes], ages: Ages) -> None:
        """Add many segments of topics with these ages, none of which is special."""
        found = survey(rows)
        self._total += found.total
        self._archived += found.archived
        self.quarantined += found.quarantined
        self.damaged += found.damaged
        self.copies += found.copies
        self._total_bytes += found.total_bytes
        self._local_bytes += found.local_bytes
        self._archived_bytes += found.archived_bytes
        self._times_of(ages).new += found.mtimes

    def replace(self, old: Segment | None, new: Segment | None) -> None:
        if old is not None and self._count(old, -1):
            if new is not None and not self._is_special(new) and new.mtime == old.mtime:
                self._count(new, 1)
                return
            self._times_of(self.ages_of(old.id.topic)).sort().remove(old.mtime)
        if new is not None and self._count(new, 1):
            self._times_of(self.ages_of(new.id.topic)).new.append(new.mtime)

    def group(self, ages_of: AgesOf, places: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        """Sort the times anew, by other ages. ``places`` are the rows of each topic, without special ones."""
        self.ages_of = ages_of
        self._times = {}
        for topic, rows in places:
            self._times_of(ages_of(topic)).new += survey(rows).mtimes
        self.sort()

    def stats(self, policy: Policy, now: float, hot: Iterable[Segment] = (), *, sure: float) -> Stats:
        """``hot`` are segments that are hot whatever their age; ``sure`` is as in `Segment.lease_left`."""
        cold = warm = 0
        for (own_warm_age, own_cold_age), each in self._times.items():
            times = each.sort()
            of_these = times.bisect_right(now - (policy.cold_age if own_cold_age is None else own_cold_age))
            cold += of_these
            to_warm = times.bisect_right(now - (policy.warm_age if own_warm_age is None else own_warm_age))
            warm += max(0, to_warm - of_these)
        restored = [classify(segment, policy, now, sure=sure) for segment in self._restored.values()]
        cold += restored.count(Tier.COLD)
        warm += restored.count(Tier.WARM)
        by_age = [classify(segment, policy, now, sure=sure) for segment in hot]
        cold -= by_age.count(Tier.COLD)
        warm -= by_age.count(Tier.WARM)
        return Stats(
            total_segments=self._total,
            hot_segments=self._total - warm - cold,
            warm_segments=warm,
            cold_segments=cold,
            archived_segments=self._archived,
            total_size_bytes=self._total_bytes,
            local_size_bytes=self._local_bytes,
            archived_size_bytes=self._archived_bytes,
        )

    def later_than(self, moment: float) -> int:
        """How many segments have a later modification time."""
        lists = [each.sort() for each in self._times.values()]
        return sum(len(times) - times.bisect_right(moment) for times in lists)

    def restored(self) -> list[Segment]:
        """The restored segments that are still on disk."""
        return list(self._restored.values())

    def sort(self) -> None:
        """Insert what was added since; otherwise the next query does it."""
        for each in self._times.values():
            each.sort()

    def _times_of(self, ages: Ages) -> _Times:
        return self._times.setdefault(ages, _Times())

    def _count(self, segment: Segment, sign: int) -> bool:
        """Add or subtract a segment; True if its time belongs in the sorted list."""
        self._total += sign
        self._archived += sign if segment.state is State.ARCHIVED else 0
        self.quarantined += sign if segment.quarantine else 0
        self.damaged += sign if segment.damage else 0
        self.copies += sign if segment.archive else 0
        self._total_bytes += sign * segment.size
        self._local_bytes += sign * segment.local.size
        self._archived_bytes += sign * (segment.archive.stored_size if segment.archive else 0)
        if not self._is_special(segment):
            return True
        if segment.restored and sign > 0:
            self._restored[segment.id] = segment
        elif segment.restored:
            del self._restored[segment.id]
        return False

    @staticmethod
    def _is_special(segment: Segment) -> bool:
        return segment.active or segment.restored
