"""Find the segment that holds an offset, and how far a log can be read, from the catalog and the ends of local logs.

No request goes to the store. Source of the bounds: Apache Kafka serves consumers up to the high watermark.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.outlook import high_watermark, is_compacted, read_directories
from takhin_tiered.engine.placing import end_on_disk
from takhin_tiered.engine.situation import Situation
from takhin_tiered.segments.model import FileStat, Segment
from takhin_tiered.segments.names import MAX_OFFSET, Partition, SegmentId

_MOST_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """The offsets of a log that can be read: from ``start`` to before ``end``. There may be holes in between.

    ``log_end``: behind the last record that stands there, which no consumer may see yet.
    """

    start: int
    end: int
    log_end: int


@dataclass(frozen=True, slots=True)
class Found:
    """A segment, with the offsets that it holds: from its base to before ``end``.

    ``following`` is the base offset of the next segment, None for the last one. ``is_end_known``: else ``end`` is that,
    and only its records tell where it ends. ``records_end`` is one more than the last offset that its file, or the
    manifest, is known to have; None if unknown.
    """

    segment: Segment
    end: int
    following: int | None
    is_end_known: bool = True
    records_end: int | None = None

    @property
    def is_followed_by_hole(self) -> bool:
        return self.following is not None and self.end < self.following


@dataclass(frozen=True, slots=True)
class Finder:
    """Of one data directory's catalog. Its methods block."""

    catalog: Catalog
    data_dir: DataDirs
    situation: Situation
    # The end of a local log, as its file stood then.
    _ends: dict[SegmentId, tuple[FileStat, int]] = field(default_factory=dict)

    def bounds(self, partition: Partition, label: str | None = None) -> Bounds | None:
        """Of the log of an incarnation (default: the current one); None if nothing is known of it."""
        first = self.catalog.above(partition, -1, label)
        last = self.catalog.at_or_below(partition, MAX_OFFSET, label)
        if first is None or last is None:
            return None
        end, mark = self._end_of(last) or last.id.base_offset, None
        if self.situation.policy.kafka and last.local.log is not None:
            read_directories(self.situation.view, self.data_dir)
            mark = high_watermark(self.situation.view, partition)
        if last.is_proven:
            # It was archived below the high watermark, whoever writes behind it now.
            mark = None
        elif last.active:
            # Without a high watermark nothing tells which of its records may be read.
            mark = last.id.base_offset if mark is None else mark
        start = first.id.base_offset
        return Bounds(start, max(start, end if mark is None else min(end, mark)), max(start, end))

    def find(self, partition: Partition, offset: int, label: str | None = None) -> Found | None:
        """The segment that holds the offset, or would hold it; None below the first one."""
        segment = self.catalog.at_or_below(partition, offset, label)
        if segment is not None and segment.is_others:
            # Others may remove it at any time: where segments overlap, what this replica relies on counts.
            below = self.catalog.at_or_below(partition, segment.id.base_offset - 1, label)
            is_mine = below is not None and not below.is_others and below.id.label == segment.id.label
            if below is not None and is_mine and (self._end_of(below) or 0) > offset:
                segment = below
        return None if segment is None else self._found(segment, label)

    def next(self, found: Found, label: str | None = None) -> Found | None:
        """The segment behind this one."""
        segment = self._above(found.segment, label)
        return None if segment is None else self._found(segment, label)

    def _above(self, segment: Segment, label: str | None) -> Segment | None:
        """The segment behind this one, without those of others that have the same offsets."""
        partition, end = segment.id.place.partition, 0 if segment.is_others else self._end_of(segment) or 0
        above = self.catalog.above(partition, segment.id.base_offset, label)
        while (
            above is not None and above.is_others and above.id.label == segment.id.label and above.id.base_offset < end
        ):
            above = self.catalog.above(partition, above.id.base_offset, label)
        return above

    def _found(self, segment: Segment, label: str | None) -> Found:
        partition = segment.id.place.partition
        above = self._above(segment, label)
        following = None if above is None else above.id.base_offset
        end = self._end_of(segment)
        if following is None:
            return Found(segment, end or segment.id.base_offset, None, end is not None, end)
        is_whole = is_compacted(self.situation.view, self.catalog, partition)
        if end is None or end > following or is_whole:
            # What compaction removed is no hole; and where segments overlap, the later one counts.
            return Found(segment, following, following, end is not None or is_whole, end)
        return Found(segment, end, following, records_end=end)

    def _end_of(self, segment: Segment) -> int | None:
        """One more than the last offset; None if neither the file nor the manifest tells it, or it has no record."""
        if segment.local.log is not None and not segment.is_proven:
            end = self._end_on_disk(segment)
        else:
            end = segment.archive.last_offset + 1 if segment.archive is not None else 0
        return end if end > segment.id.base_offset else None

    def _end_on_disk(self, segment: Segment) -> int:
        stat = segment.local.log
        known = self._ends.get(segment.id)
        if known is not None and known[0] == stat and not segment.active:
            return known[1]
        end = 0
        with suppress(OSError), self.data_dir.partition(segment.id.directory) as partition:
            last = end_on_disk(partition, segment.id)
            end = 0 if last is None else last + 1
        if stat is not None and not segment.active:
            if len(self._ends) > _MOST_KEPT:
                self._ends.clear()
            self._ends[segment.id] = stat, end
        return end
