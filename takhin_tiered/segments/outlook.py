"""What the local Kafka broker is about to do, for the plan. Pure.

Kafka deletes a segment when its largest record timestamp is older than ``retention.ms``, or when what is newer fills
``retention.bytes``; it rewrites compacted topics; and what is above the high watermark may yet be truncated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from takhin_tiered.segments.broker import TopicSettings
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.segments.policy import Policy


@dataclass(frozen=True, slots=True)
class Outlook:
    """``compacted``: how each compacted partition was recognised. ``due``: why a segment has to be archived whatever
    its age. ``unsafe``: why it must not be archived yet. ``pressed``: why a segment leaves the disk before its age.
    ``opens_at``: when the next window to archive in opens; None while one is open. ``clock_ahead``: seconds by which
    the clock may be ahead; ages are reduced by it. ``reserve_missing``: bytes that are less free than the
    reserve of the disks asks for, once all has left that may; None where nobody has looked.
    """

    compacted: Mapping[Partition, str] = field(default_factory=dict)
    due: Mapping[SegmentId, str] = field(default_factory=dict)
    unsafe: Mapping[SegmentId, str] = field(default_factory=dict)
    pressed: Mapping[SegmentId, str] = field(default_factory=dict)
    opens_at: float | None = None
    clock_ahead: float = 0.0
    reserve_missing: int | None = None


@dataclass(frozen=True, slots=True)
class LocalLog:
    """A local log: bytes of its segment, and its largest record timestamp in milliseconds."""

    base_offset: int
    size: int
    timestamp: int


def due_before_retention(
    logs: Sequence[LocalLog], settings: TopicSettings, now: float, margin: float, growth: int
) -> dict[int, str]:
    """The logs that Kafka may delete within ``margin`` seconds, each with the reason to archive it now.

    ``logs`` are all of a partition, by base offset. ``growth`` is the bytes that it may grow by in that time.
    """
    found: dict[int, str] = {}
    newer = 0
    for log in reversed(logs):
        if settings.retention_bytes is not None and newer + growth >= settings.retention_bytes:
            limit = settings.retention_bytes
            found[log.base_offset] = f"newer segments soon reach Kafka's retention of {limit} bytes"
        if settings.retention_ms is not None and "delete" in settings.cleanup_policy:
            left = (log.timestamp + settings.retention_ms) / 1000 - now
            if left <= margin:
                when = f"in {left:.0f} s" if left > 0 else "now"
                found[log.base_offset] = f"Kafka's retention may delete it {when}"
        newer += log.size
    return found


def cycle_seconds(
    configured: float, topics: Mapping[str, TopicSettings], check_seconds: float, *, hurried: bool
) -> float:
    """The pause between two cycles: short enough to archive a segment before Kafka may delete it.

    ``hurried``: records arrive that are already past retention, so a segment is due as soon as it is closed, and
    Kafka's next retention check may delete it.
    """
    times = [s.retention_ms / 1000 for s in topics.values() if s.retention_ms is not None]
    pause = min([configured, *(retention / _CYCLES_PER_RETENTION for retention in times)])
    pause = min(pause, check_seconds / _CYCLES_PER_RETENTION) if hurried else pause
    return min(configured, max(_LEAST_SECONDS, pause))


def idle_tails(topics: Mapping[str, TopicSettings], policy: Policy) -> list[str]:
    """The topics, sorted, that would lose many records of the active segment if they fell idle.

    Kafka rolls a segment for ``segment.ms`` only when the next record arrives. Once all of an idle partition is past
    retention, it rolls and deletes the active segment in one pass, so it cannot be archived in between. The loss is
    the records of the last ``segment.ms``: few if that is well below ``retention.ms``.
    """
    return sorted(
        topic
        for topic, settings in topics.items()
        if policy.covers(topic)
        and "delete" in settings.cleanup_policy
        and (policy.takes_compacted or "compact" not in settings.cleanup_policy)
        and settings.retention_ms is not None
        and (settings.segment_ms is None or settings.segment_ms > settings.retention_ms / 2)
    )


_CYCLES_PER_RETENTION = 6
_LEAST_SECONDS = 0.5
