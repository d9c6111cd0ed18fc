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
from prometheus_client.exposition import choose_encoder

import takhin_tiered

# Each counter's time of birth would be a second gauge for each of them, and no dashboard asks.
_disable_created_metrics: Callable[[], None] = disable_created_metrics  # the library gives this one no types
_disable_created_metrics()

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ANSWER_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
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
        self.adopted, self.adopted_bytes = (
            counter("tiered_storage_adopted_segments_total", "Segments that another replica had archived before."),
            counter("tiered_storage_adopted_bytes_total", "Bytes of such segments, which were not uploaded again."),
        )
        self.restores = counter("tiered_storage_restore_operations_total", "Segments restored, by result.", "result")
        self.evictions = counter("tiered_storage_evict_operations_total", "Local copies unlinked, by result.", "result")
        self.uploaded, self.downloaded = (
            counter("tiered_storage_s3_bytes_uploaded_total", "Bytes sent to the object store."),
            counter("tiered_storage_s3_bytes_downloaded_total", "Bytes received from the object store."),
        )
        self.store_errors = counter(
            "tiered_storage_store_errors_total", "Errors of the store by code; an outage is one.", "code"
        )
        self.archive_seconds = seconds("tiered_storage_archive_duration_seconds", "Time to archive one segment.")
        self.restore_seconds = seconds("tiered_storage_restore_duration_seconds", "Time to restore one segment.")
        self.cycle_seconds = seconds("tiered_storage_cycle_duration_seconds", "Time of one whole cycle.")
        self.cycles = counter("tiered_storage_cycles_total", "Cycles run, by result.", "result")
        self.last_cycle, self.last_cycle_blocked, self.last_cycle_failures = (
            gauge("tiered_storage_last_cycle_timestamp_seconds", "When the last cycle ended."),
            gauge("tiered_storage_last_cycle_blocked", "1 where the last cycle could do nothing at all."),
            gauge("tiered_storage_last_cycle_failed_segments", "Segments for which the last cycle failed."),
        )
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
        self.trims, self.class_changes = (
            counter("tiered_storage_trim_operations_total", "Partitions trimmed, by result.", "result"),
            counter("tiered_storage_class_changes_total", "Segments moved to another storage class.", "result"),
        )
        self.intents, self.retrievals = (
            gauge("tiered_storage_unsettled_objects", "Objects of uploads that broke off, yet to be settled."),
            gauge("tiered_storage_retrievals_pending", "Segments that are retrieved from an archive class."),
        )
        self.scrubbed = counter("tiered_storage_scrubbed_bytes_total", "Archived bytes read back and compared.")
        self.headroom = gauge("tiered_storage_disk_headroom_seconds", "Until a disk is full at the present growth.")
        self.store_down_since = gauge("tiered_storage_store_down_since_timestamp_seconds", "0 while the store answers.")
        self.local_bytes = gauge("tiered_storage_local_bytes", "Bytes of segments in the data directories.")
        self.archived_bytes = gauge("tiered_storage_archived_bytes", "Bytes of segments in the object store.")
        self.disk_free_bytes, self.reserve_missing_bytes = (
            gauge(
                "tiered_storage_disk_free_bytes",
                "Bytes free on the disks of all data directories; those of an unlinked file once the broker closes it.",
            ),
            gauge(
                "tiered_storage_disk_reserve_missing_bytes",
                "Bytes that miss to the reserve of the disks once the plan has been carried out.",
            ),
        )
        self.data_dir_free_bytes = gauge(
            "tiered_storage_data_dir_free_bytes", "Bytes free on the disk of each data directory.", "data_dir"
        )
        self.queued = gauge("tiered_storage_queue_segments", "Segments that the running cycle has yet to begin.")
        self.in_flight = gauge("tiered_storage_in_flight_segments", "Segments being moved now.")
        self.kafka_holes = counter(
            "tiered_storage_kafka_holes_total", "Holes that consumers came to, by partition.", "topic", "partition"
        )
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
        self.promotions, self.demotions = (
            counter("tiered_storage_promotions_total", "Segments brought back to the local disk."),
            counter("tiered_storage_demotions_total", "Segments taken off the local disk."),
        )
        self.tracked = gauge("tiered_storage_tracked_segments", "Segments whose reads are known.")
        self.store_up = gauge("tiered_storage_store_up", "1 if the object store answered last time, else 0.")
        self.kafka, self.fleet, self.hybrid, self.costs = (
            KafkaMetrics(registry),
            FleetMetrics(registry),
            HybridMetrics(registry),
            CostMetrics(registry),
        )
        self.ready = gauge("tiered_storage_ready", "1 if every readiness check passes, else 0.")
        for result in ("success", "failure"):
            for labelled in (self.archives, self.restores, self.evictions, self.cycles):
                labelled.labels(result)

    def bytes_moved(self) -> int:
        """Bytes sent to the store and received from it, by whatever verb."""
        return sum(value_of(each) for each in (self.uploaded, self.downloaded, self.scrubbed))

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def render_for(self, accept: str) -> tuple[bytes, str]:
        """In the form that a scraper's ``Accept`` asks for, and its content type.

        Only OpenMetrics has exemplars: the correlation ID of the operation that a sample is of.
        """
        if "application/openmetrics-text" not in accept:
            return self.render(), CONTENT_TYPE
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class KafkaMetrics:
    """What the Kafka endpoint counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tiered_storage_kafka_requests_total",
            "Requests of Kafka clients by API, and by the first error of the answer.",
            ["api", "error"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tiered_storage_kafka_request_duration_seconds",
            "Time from a request of a Kafka client to its answer, which a client may ask to be delayed.",
            ["api"],
            buckets=_ANSWER_SECONDS,
            registry=registry,
        )
        self.sent = Counter("tiered_storage_kafka_sent_bytes_total", "Bytes sent to Kafka clients.", registry=registry)
        self.connections = Gauge("tiered_storage_kafka_connections", "Kafka clients connected now.", registry=registry)
        self.dropped = Counter(
            "tiered_storage_kafka_dropped_connections_total",
            "Connections of Kafka clients that this side ended, by reason.",
            ["reason"],
            registry=registry,
        )


class CostMetrics:
    """What the store was asked, as it is billed, and what it costs in US dollars, by the configured prices."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tiered_storage_store_requests_total",
            "Requests that the store answered, by kind as they are billed.",
            ["kind"],
            registry=registry,
        )
        self.monthly = Gauge(
            "tiered_storage_monthly_cost_dollars",
            "What storage costs a month: hot is on the disk, cold in the store.",
            ["tier"],
            registry=registry,
        )
        self.saved = Gauge(
            "tiered_storage_monthly_saved_dollars",
            "What storage would cost more a month if all of it were on the disk.",
            registry=registry,
        )
        self.restore_spent = Gauge(
            "tiered_storage_restore_spent_dollars",
            "Cost of restores and reads of archived segments in this calendar month (UTC).",
            registry=registry,
        )
        self.restore_budget = Gauge(
            "tiered_storage_restore_budget_dollars",
            "What they may cost in a month; 0: there is no limit.",
            registry=registry,
        )
        self.restore_budget_used_up = Gauge(
            "tiered_storage_restore_budget_used_up",
            "1 while what is left of it does not pay for a restore of average size.",
            registry=registry,
        )


class FleetMetrics:
    """What the shared catalog counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.syncs = Counter(
            "tiered_storage_fleet_syncs_total",
            "Times that the local catalog was written to the fleet's table, by result.",
            ["result"],
            registry=registry,
        )
        self.written = Counter(
            "tiered_storage_fleet_items_written_total", "Items put into the fleet's table.", registry=registry
        )
        self.deleted = Counter(
            "tiered_storage_fleet_items_deleted_total", "Items deleted from the fleet's table.", registry=registry
        )
        self.capacity = Counter(
            "tiered_storage_fleet_capacity_units_total",
            "Capacity units that DynamoDB counted, by operation.",
            ["operation"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tiered_storage_fleet_request_duration_seconds",
            "Time of one call of DynamoDB with all its attempts, by outcome.",
            ["outcome"],
            buckets=_ANSWER_SECONDS,
            registry=registry,
        )
        self.last_sync = Gauge(
            "tiered_storage_fleet_last_sync_timestamp_seconds",
            "When the fleet's table last agreed with this node's catalog.",
            registry=registry,
        )
        self.behind_since = Gauge(
            "tiered_storage_fleet_behind_since_timestamp_seconds",
            "Since when the fleet's table could not be written; 0 while it can, and without a fleet.",
            registry=registry,
        )


class HybridMetrics:
    """What the daemon's runs over the hybrid tables count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.archived = Counter(
            "tiered_storage_hybrid_items_archived_total",
            "Items of hybrid tables that moved to the object store.",
            registry=registry,
        )
        self.bytes = Counter(
            "tiered_storage_hybrid_bytes_archived_total",
            "Bytes of such items, about as DynamoDB counts them.",
            registry=registry,
        )
        self.skipped = Counter(
            "tiered_storage_hybrid_items_skipped_total",
            "Items that a run left in the table, by reason; each run counts them again.",
            ["reason"],
            registry=registry,
        )
        self.errors = Counter(
            "tiered_storage_hybrid_errors_total",
            "Items, tables and runs that failed; it is tried again.",
            registry=registry,
        )
        self.last_run = Gauge(
            "tiered_storage_hybrid_last_run_timestamp_seconds",
            "When the last run ended that looked at all hybrid tables to their end.",
            registry=registry,
        )


def value_of(counter: Counter) -> int:
    """Of one without labels."""
    return int(next(iter(counter.collect())).samples[0].value)
