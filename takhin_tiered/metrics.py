"""What Prometheus scrapes. One registry for each `Metrics`, so that a process may hold several storages.

Source: Prometheus, "Metric and label naming". The two gauges that end in ``_total`` keep the names that
dashboards of the original use.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

import takhin_tiered

# Each counter's time of birth would be a second gauge for each of them, and no dashboard asks.
_disable_created_metrics: Callable[[], None] = disable_created_metrics  # the library gives this one no types
_disable_created_metrics()

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Counters and gauges, by the name that the code uses; the exported names are in the constructor."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        # Memory, processor time, descriptors and collections of this process, by the names that all clients use.
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=_SECONDS, registry=registry)

        gauge(
            "tiered_storage_build_info", "1; the version that runs, and the Python it runs on.", "version", "python"
        ).labels(takhin_tiered.__version__, platform.python_version()).set(1)
        self.segments = gauge("tiered_storage_segments_total", "Segments known, by tier.", "policy")
        self.clock_in_doubt = gauge("tiered_storage_clock_in_doubt", "1 where the clocks do not agree.")
        self.archived_segments = gauge("tiered_storage_archived_segments_total", "Segments only in the archive.")
        self.archives = counter("tiered_storage_archive_operations_total", "Segments archived, by result.", "result")
        self.restores = counter("tiered_storage_restore_operations_total", "Segments restored, by result.", "result")
        self.evictions = counter("tiered_storage_evict_operations_total", "Local copies unlinked, by result.", "result")
        self.uploaded = counter("tiered_storage_s3_bytes_uploaded_total", "Bytes sent to the object store.")
        self.downloaded = counter("tiered_storage_s3_bytes_downloaded_total", "Bytes received from the object store.")
        self.store_errors = counter(
            "tiered_storage_store_errors_total", "Errors of the store by code; an outage is one.", "code"
        )
        self.archive_seconds = seconds("tiered_storage_archive_duration_seconds", "Time to archive one segment.")
        self.restore_seconds = seconds("tiered_storage_restore_duration_seconds", "Time to restore one segment.")
        self.cycle_seconds = seconds("tiered_storage_cycle_duration_seconds", "Time of one whole cycle.")
        self.cycles = counter("tiered_storage_cycles_total", "Cycles run, by result.", "result")
        self.last_cycle = gauge("tiered_storage_last_cycle_timestamp_seconds", "When the last cycle ended.")
        self.quarantined = gauge(
            "tiered_storage_quarantined_segments", "Segments whose archived copy is missing or bad."
        )
        self.damaged = gauge("tiered_storage_damaged_segments", "Segments in the bytes of whose log damage was found.")
        self.superseded = gauge(
            "tiered_storage_superseded_generations", "Archived generations that a later one took the place of."
        )
        self.lost = counter(
            "tiered_storage_lost_segments_total", "Segments that left the disk before they were archived."
        )
        self.partitions_with_holes = gauge(
            "tiered_storage_partitions_with_holes", "Partitions with offsets that are neither local nor archived."
        )
        self.partitions_with_overlaps = gauge(
            "tiered_storage_partitions_with_overlaps", "Partitions with offsets that stand in two segments."
        )
        self.trims = counter("tiered_storage_trim_operations_total", "Partitions trimmed, by result.", "result")
        self.intents = gauge(
            "tiered_storage_unsettled_objects", "Objects of uploads that broke off, yet to be settled."
        )
        self.scrubbed = counter("tiered_storage_scrubbed_bytes_total", "Archived bytes read back and compared.")
        self.headroom = gauge("tiered_storage_disk_headroom_seconds", "Until a disk is full at the present growth.")
        self.store_down_since = gauge("tiered_storage_store_down_since_timestamp_seconds", "0 while the store answers.")
        self.local_bytes = gauge("tiered_storage_local_bytes", "Bytes of segments in the data directories.")
        self.archived_bytes = gauge("tiered_storage_archived_bytes", "Bytes of segments in the object store.")
        self.disk_free_bytes = gauge(
            "tiered_storage_disk_free_bytes",
            "Bytes free on the disks of all data directories; those of an unlinked file once the broker closes it.",
        )
        self.data_dir_free_bytes = gauge(
            "tiered_storage_data_dir_free_bytes", "Bytes free on the disk of each data directory.", "data_dir"
        )
        self.queued = gauge("tiered_storage_queue_segments", "Segments that the running cycle has yet to begin.")
        self.in_flight = gauge("tiered_storage_in_flight_segments", "Segments being moved now.")
        self.cache_hits = counter("tiered_storage_cache_hits_total", "Chunks and restores that needed no download.")
        self.cache_misses = counter(
            "tiered_storage_cache_misses_total", "Chunks and restores that had to be downloaded."
        )
        self.cache_bytes = gauge("tiered_storage_cache_bytes", "Bytes of chunks in the disk cache.")
        self.cache_skipped = counter(
            "tiered_storage_cache_skipped_total", "Chunks that the disk cache did not take: no time, or no room."
        )
        self.restored_bytes = gauge(
            "tiered_storage_restored_bytes", "Bytes of restored segments on disk whose lease has ended."
        )
        self.promotions = counter("tiered_storage_promotions_total", "Segments brought back to the local disk.")
        self.demotions = counter("tiered_storage_demotions_total", "Segments taken off the local disk.")
        self.store_up = gauge("tiered_storage_store_up", "1 if the object store answered last time, else 0.")
        self.ready = gauge("tiered_storage_ready", "1 if every readiness check passes, else 0.")
        for result in ("success", "failure"):
            for labelled in (self.archives, self.restores, self.evictions, self.cycles):
                labelled.labels(result)

    def bytes_moved(self) -> int:
        """Bytes sent to the store and received from it, by whatever verb."""
        return sum(value_of(each) for each in (self.uploaded, self.downloaded, self.scrubbed))

    def render(self) -> bytes:
        return generate_latest(self.registry)


def value_of(counter: Counter) -> int:
    """Of one without labels."""
    return int(next(iter(counter.collect())).samples[0].value)
