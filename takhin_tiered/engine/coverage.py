"""Which offsets of each partition are on the disk, in the archive, in both, or nowhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.outlook import is_compacted
from takhin_tiered.engine.placing import end_on_disk
from takhin_tiered.engine.situation import Situation
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.coverage import Coverage, Range, coverage, holes
from takhin_tiered.segments.lineage import Incarnation, Lineage
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import Partition, Place
from takhin_tiered.segments.results import Hole


@dataclass(frozen=True, slots=True)
class PartitionCoverage:
    """One incarnation's log. ``is_current``: it is on the disk, or stood there last."""

    partition: Partition
    incarnation: Incarnation
    is_current: bool
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class CoverageReader:
    """Reads which offsets a log has; its methods block."""

    catalog: Catalog
    data_dir: DataDirs
    situation: Situation

    def cover_all(self) -> Iterator[PartitionCoverage]:
        """Every incarnation of every partition; blocking."""
        for partition in self.catalog.partitions():
            yield from self.cover(partition)

    def cover(self, partition: Partition) -> Iterator[PartitionCoverage]:
        lineage = self.catalog.lineage(partition)
        for incarnation in lineage.incarnations:
            is_current = incarnation.label == lineage.current
            log = without_others(self.catalog.log_of(partition, incarnation.label))
            if not is_current:
                log = [segment for segment in log if segment.archive is not None]
            if log:
                yield PartitionCoverage(partition, incarnation, is_current, self._coverage(log))

    def spans(self, log: list[Segment]) -> list[Range]:
        """The offsets of each segment of a log, in order.

        A segment that is not archived ends where the next one begins, and the last one at its last record. So does a
        segment behind which compaction has left a gap.
        """
        has_gaps = bool(log) and self.is_compacted(log[0].id.place.partition)
        found: list[Range] = []
        for number, segment in enumerate(log):
            base = segment.id.base_offset
            following = log[number + 1].id.base_offset - 1 if number + 1 < len(log) else None
            end = segment.archive.last_offset if segment.archive is not None else -1
            if segment.local.log is not None and not segment.is_proven:
                # The log itself need not be read where the archived end agrees with the next segment.
                is_sure = following is not None and end in {-1, following}
                end = following if is_sure and following is not None else self._end_of(segment)
            elif end < 0:
                end = base - 1 if following is None else following
            elif has_gaps and following is not None:
                end = max(end, following)
            if following is not None and log[number + 1].id.label != segment.id.label:
                # From there on it is another incarnation's log, whatever this segment has beyond.
                end = min(end, following)
            if end >= base:
                found.append((base, end))
            else:
                # It holds no record, or none of a known format.
                found.append((base, base - 1 if following is None else max(base - 1, following)))
        return found

    def is_compacted(self, partition: Partition) -> bool:
        return is_compacted(self.situation.view, self.catalog, partition)

    def _coverage(self, log: list[Segment]) -> Coverage:
        every = [(segment, span) for segment, span in zip(log, self.spans(log), strict=True) if span[1] >= span[0]]
        return coverage(
            (span for segment, span in every if segment.local.log is not None and segment.local.log.size),
            (span for segment, span in every if segment.in_archive),
            (span for _, span in every),
        )

    def _end_of(self, segment: Segment) -> int:
        """The last offset in a local log; before its base where it has none."""
        if segment.local.log is not None:
            with suppress(OSError), self.data_dir.partition(segment.id.directory) as partition:
                if (end := end_on_disk(partition, segment.id)) is not None:
                    return end
        return segment.id.base_offset - 1


def without_others(log: list[Segment]) -> list[Segment]:
    """A log without what other replicas archived of the same offsets.

    Replicas that begin at once, with segments rolled at other offsets, may both archive to the log that they share.
    """
    mine: dict[str, list[Segment]] = {}
    for segment in log:
        if not segment.is_others:
            mine.setdefault(segment.id.label, []).append(segment)
    if sum(map(len, mine.values())) == len(log):
        return log

    def is_apart(segment: Segment) -> bool:
        beside = mine.get(segment.id.label, [])
        at = bisect_right(beside, segment.id.base_offset, key=lambda each: each.id.base_offset)
        overlaps_below = at > 0 and _end_of(beside[at - 1]) >= segment.id.base_offset
        return not overlaps_below and not (at < len(beside) and _end_of(segment) >= beside[at].id.base_offset)

    return [segment for segment in log if not segment.is_others or is_apart(segment)]


def _end_of(segment: Segment) -> int:
    """As far as the archive knows; else its base."""
    end = segment.archive.last_offset if segment.archive is not None else -1
    return max(end, segment.id.base_offset)


class ArchivedSpans:
    """The offsets of archived segments as their manifests tell them, whatever the catalog says."""

    def __init__(self) -> None:
        self._lineages: dict[Partition, Lineage] = {}
        self._ends: dict[Place, dict[int, int]] = {}

    def note(self, manifest: Manifest) -> None:
        place = manifest.id.place
        self._lineages[place.partition] = self._lineages.get(place.partition, Lineage()).learned(manifest.incarnation)
        # Bytes behind the last valid batch, such as zeros, may have been records. That is damage of the segment, and
        # its end is not known.
        self._ends.setdefault(place, {})[manifest.id.base_offset] = -1 if manifest.problem else manifest.end

    def holes(self, coverage: CoverageReader) -> Iterator[Hole]:
        """The holes of each incarnation. Offsets of local files are no holes; blocking."""
        for partition, lineage in sorted(self._lineages.items()):
            if coverage.is_compacted(partition):
                continue
            current = coverage.catalog.lineage(partition).current
            for incarnation in lineage.incarnations:
                found = list(self._spans(partition, lineage, incarnation.label))
                last = max((base for base, _ in found), default=0)
                if incarnation.label == current:
                    log = coverage.catalog.log_of(partition)
                    local = zip(log, coverage.spans(log), strict=True)
                    found += [span for segment, span in local if segment.local.log and span[1] >= span[0]]
                # Only between manifests: above the last one, the archive has lost nothing.
                for hole in (hole for hole in holes(found) if hole[0] < last):
                    yield Hole(f"{partition[0]}-{partition[1]}", incarnation.name, hole)

    def _spans(self, partition: Partition, lineage: Lineage, label: str) -> Iterator[Range]:
        ends = {
            base: last
            for at, first, end in lineage.chain(label)
            for base, last in self._ends.get(Place(*partition, at), {}).items()
            if first <= base < end
        }
        following = dict(pairwise(sorted(ends)))
        for base, last in ends.items():
            # Where a format has no last offset, the segment ends where the next one begins.
            yield base, last if last >= base else max(base, following.get(base, base + 1) - 1)


@dataclass(frozen=True, slots=True)
class HoleCounter:
    """Counts the partitions that have holes or overlaps."""

    catalog: Catalog
    metrics: Metrics
    coverage: CoverageReader
    # Holes and overlaps in the logs of the partitions that have any.
    uncovered: dict[Partition, tuple[int, int]] = field(default_factory=dict)

    def count(self) -> None:
        """Bring the metrics of holes and overlaps up to date, for the partitions that changed; blocking."""
        for partition in self.catalog.take_touched():
            self.uncovered.pop(partition, None)
            if self.catalog.is_contiguous(partition):
                continue
            for found in self.coverage.cover(partition):
                if found.is_current and (found.coverage.holes or found.coverage.overlaps):
                    self.uncovered[partition] = len(found.coverage.holes), len(found.coverage.overlaps)
        self.metrics.partitions_with_holes.set(sum(holes > 0 for holes, _ in self.uncovered.values()))
        self.metrics.partitions_with_overlaps.set(sum(overlaps > 0 for _, overlaps in self.uncovered.values()))
