"""What is known of the Kafka beside us: by its own files, and by the broker's word where one is configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from takhin_tiered.disk.kafka import LogDirectory
from takhin_tiered.segments.broker import PartitionOffsets, TopicSettings
from takhin_tiered.segments.names import Partition, SegmentId


@dataclass(slots=True)
class BrokerView:
    """What the broker told last, and what it could not be asked for; and of each log directory what stands in it."""

    topics: Mapping[str, TopicSettings] = field(default_factory=dict)
    offsets: Mapping[Partition, PartitionOffsets] = field(default_factory=dict)
    check_seconds: float = 300.0
    problem: str = ""
    # Pause between two cycles: as configured, and as shortened so that the broker deletes nothing before it is
    # archived.
    interval_seconds: float = 3600.0
    cycle_seconds: float = 3600.0
    directories: tuple[LogDirectory, ...] = ()
    # Largest record timestamps by segment and stamp of its time index: each is read once.
    timestamps: dict[SegmentId, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[Partition, int] = field(default_factory=dict)
    # Topics of which the log has said that they may lose their tail when they fall idle: once each.
    told_idle: set[str] = field(default_factory=set)

    def set_interval(self, seconds: float) -> None:
        """The next look at the broker may shorten it again."""
        self.interval_seconds = self.cycle_seconds = seconds

    @property
    def node_ids(self) -> frozenset[int]:
        return frozenset(found.node_id for found in self.directories if found.node_id is not None)
