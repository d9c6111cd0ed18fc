"""The outlook of a data directory: from Kafka's own files in it, and, where one is configured, from the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs, PartitionDir
from takhin_tiered.disk.kafka import read_log_directory
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.situation import Situation
from takhin_tiered.engine.view import BrokerView
from takhin_tiered.formats.kafka import TIMEINDEX_ENTRY_SIZE, last_timestamp
from takhin_tiered.segments.broker import TopicSettings
from takhin_tiered.segments.model import Segment, State
from takhin_tiered.segments.names import FileKind, Partition, SegmentId
from takhin_tiered.segments.outlook import LocalLog, Outlook, due_before_retention

_CYCLES_BEFORE = 2


@dataclass(frozen=True, slots=True)
class OutlookReader:
    """Reads the outlook of the data directories."""

    catalog: Catalog
    data_dir: DataDirs
    clock: Clock
    situation: Situation

    def look_ahead(self) -> Outlook:
        """After a scan; blocking. Empty where the directories are not Kafka's."""
        if not self.situation.policy.kafka:
            return Outlook()
        view = self.situation.view
        read_directories(self.situation.view, self.data_dir)
        compacted: dict[Partition, str] = {}
        due: dict[SegmentId, str] = {}
        unsafe: dict[SegmentId, str] = {}
        for partition, logs in self._local_partitions():
            settings = view.topics.get(partition[0])
            if (
                how := _compacted(self.catalog, view, partition, settings)
            ) and not self.situation.policy.takes_compacted:
                compacted[partition] = how
                continue
            unsafe |= _above_high_watermark(view, partition, logs)
            if (
                settings is not None
                and self.situation.policy.before_retention
                and self.situation.policy.covers(partition[0])
            ):
                due |= self._due(view, partition, logs, settings)
        return Outlook(compacted, due, unsafe)

    def _local_partitions(self) -> Iterator[tuple[Partition, list[Segment]]]:
        for partition in sorted(self.catalog.local_partitions()):
            if logs := [segment for segment in self.catalog.log_of(partition) if segment.local.log is not None]:
                yield partition, logs

    def _due(
        self,
        view: BrokerView,
        partition: Partition,
        logs: list[Segment],
        settings: TopicSettings,
    ) -> dict[SegmentId, str]:
        if settings.retention_ms is None and settings.retention_bytes is None:
            return {}
        whole = sum(segment.local.size for segment in logs)
        growth = max(0, whole - view.sizes.get(partition, whole)) * _CYCLES_BEFORE
        view.sizes[partition] = whole
        # The broker checks for old segments, and rolls, at its own intervals.
        margin = view.cycle_seconds * _CYCLES_BEFORE + min(view.check_seconds, (settings.retention_ms or 0) / 2000)
        with suppress(OSError), self.data_dir.partition(logs[0].id.directory) as directory:
            found = [LocalLog(s.id.base_offset, s.local.size, _timestamp(view, directory, s)) for s in logs]
            # One segment more may close at any time.
            growth += max(segment.local.size for segment in logs)
            reasons = due_before_retention(found, settings, self.clock.now(), margin, growth)
            return {s.id: reasons[s.id.base_offset] for s in logs if s.id.base_offset in reasons and _is_missing(s)}
        return {}


def read_directories(view: BrokerView, data_dir: DataDirs) -> None:
    """What stands in Kafka's checkpoints now; blocking."""
    roots = [read_log_directory(root.fd) for root in data_dir.roots]
    view.directories = tuple(found for found in roots if found is not None)


def high_watermark(view: BrokerView, partition: Partition) -> int | None:
    """As the broker reports it, or its checkpoint; None where neither does."""
    told = view.offsets.get(partition)
    found = [d.high_watermarks[partition] for d in view.directories if partition in d.high_watermarks]
    return max(found, default=None) if told is None else max([told.high_watermark, *found])


def is_compacted(view: BrokerView, catalog: Catalog, partition: Partition) -> bool:
    """Whether compaction leaves out offsets of this partition, by all that is known of it."""
    return bool(_compacted(catalog, view, partition, view.topics.get(partition[0])))


def _compacted(catalog: Catalog, view: BrokerView, partition: Partition, settings: TopicSettings | None) -> str:
    if settings is not None:
        return "by its cleanup.policy" if "compact" in settings.cleanup_policy else ""
    if any(partition in found.cleaned for found in view.directories):
        return "as Kafka's cleaner-offset-checkpoint tells"
    return "as its offsets have gaps" if partition in catalog.gapped else ""


def _above_high_watermark(view: BrokerView, partition: Partition, logs: list[Segment]) -> dict[SegmentId, str]:
    mark = high_watermark(view, partition)
    found: dict[SegmentId, str] = {}
    if mark is None:
        return found
    end: int | None = None
    for segment in reversed(logs):
        if end is not None and end <= mark:
            break
        if end is not None:
            found[segment.id] = f"not wholly below the high watermark {mark}: Kafka may yet truncate it"
        end = segment.id.base_offset
    return found


def _is_missing(segment: Segment) -> bool:
    return segment.state is State.LOCAL and not segment.active


def _timestamp(view: BrokerView, directory: PartitionDir, segment: Segment) -> int:
    """As Kafka ages a segment: the last timestamp in its time index, or its modification time where there is none."""
    log, stat = segment.local.log, segment.local.time_index
    modified = (log.mtime_ns if log is not None else 0) // 1_000_000
    if segment.state is not State.LOCAL:
        view.timestamps.pop(segment.id, None)
        return modified
    if stat is None or stat.size < TIMEINDEX_ENTRY_SIZE:
        return modified
    known = view.timestamps.get(segment.id)
    if known is not None and known[0] == stat.stamp:
        return known[1]
    with suppress(OSError), directory.open(segment.id.file(FileKind.TIMEINDEX)) as file:
        found = _last_of(file.read, file.found.size)
        if found > 0:
            view.timestamps[segment.id] = stat.stamp, found
            return found
    return modified


def _last_of(read: Callable[[int, int], bytes], size: int) -> int:
    whole = size // TIMEINDEX_ENTRY_SIZE * TIMEINDEX_ENTRY_SIZE
    return last_timestamp(read(whole - TIMEINDEX_ENTRY_SIZE, TIMEINDEX_ENTRY_SIZE))
