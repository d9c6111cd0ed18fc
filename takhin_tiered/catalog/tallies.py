"""Counts and sums over all segments, updated with each change, so that a query costs nothing.

Tiers change with time alone. The modification times are kept in one sorted list, and two thresholds in
it give the numbers of warm and cold segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sortedcontainers import SortedList

from takhin_tiered.catalog.survey import survey
from takhin_tiered.segments.model import Segment, State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.policy import Policy, classify


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


class Tallies:
    def __init__(self) -> None:
        self._total = self._archived = 0
        self.quarantined = self.damaged = 0
        self._total_bytes = self._local_bytes = self._archived_bytes = 0
        self._sorted: SortedList[float] = SortedList()
        # Not inserted yet: one sort is cheaper than many insertions.
        self._new: list[float] = []
        # Hot during their lease, whatever their age. Active ones are always hot and in no list.
        self._restored: dict[SegmentId, Segment] = {}

    def add(self, rows: Sequence[bytes]) -> None:
        """Add many segments, none of which is special."""
        found = survey(rows)
        self._total += found.total
        self._archived += found.archived
        self.quarantined += found.quarantined
        self.damaged += found.damaged
        self._total_bytes += found.total_bytes
        self._local_bytes += found.local_bytes
        self._archived_bytes += found.archived_bytes
        self._new += found.mtimes

    def replace(self, old: Segment | None, new: Segment | None) -> None:
        if old is not None and self._count(old, -1):
            if new is not None and not self._is_special(new) and new.mtime == old.mtime:
                self._count(new, 1)
                return
            self.sort()
            self._sorted.remove(old.mtime)
        if new is not None and self._count(new, 1):
            self._new.append(new.mtime)

    def stats(self, policy: Policy, now: float) -> Stats:
        self.sort()
        cold = self._sorted.bisect_right(now - policy.cold_age)
        warm = self._sorted.bisect_right(now - policy.warm_age) - cold
        restored = [classify(segment, policy, now) for segment in self._restored.values()]
        cold += restored.count(Tier.COLD)
        warm += restored.count(Tier.WARM)
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
        self.sort()
        return len(self._sorted) - self._sorted.bisect_right(moment)

    def restored(self) -> list[Segment]:
        """The restored segments that are still on disk."""
        return list(self._restored.values())

    def sort(self) -> None:
        """Insert what was added since; otherwise the next query does it."""
        if self._new:
            self._sorted.update(self._new)
            self._new = []

    def _count(self, segment: Segment, sign: int) -> bool:
        """Add or subtract a segment; True if its time belongs in the sorted list."""
        self._total += sign
        self._archived += sign if segment.state is State.ARCHIVED else 0
        self.quarantined += sign if segment.quarantine else 0
        self.damaged += sign if segment.damage else 0
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
