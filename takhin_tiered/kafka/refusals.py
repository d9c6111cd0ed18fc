"""Which of the protocol's errors a reader's failure is, and what is noted of it.

Clients differ in what they do with an error: most they retry at once, without end and without a word to their user.
`TOPIC_AUTHORIZATION_FAILED` is the one that each of them tells its user: it stands for all that no retry helps.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered import logs
from takhin_tiered.errors import (
    Damaged,
    InGlacier,
    NoKey,
    OffsetInHole,
    OffsetOutOfRange,
    PartitionNotFound,
    SegmentRefused,
    TakhinError,
    WrongKey,
)
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.metrics import Metrics

_FOR_GOOD = (OffsetInHole, Damaged, InGlacier, NoKey, WrongKey, SegmentRefused)
_MOST_NOTED = 10_000


@dataclass(slots=True)
class Holes:
    """What is done where records are missing: else the consumer gets an error."""

    are_skipped: bool = False


class Refusals:
    """Each failure is counted, and logged once for each place."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._noted: dict[tuple[str, int, str], None] = {}

    def code_of(self, topic: str, partition: int, error: TakhinError) -> ErrorCode:
        if isinstance(error, OffsetOutOfRange) and not isinstance(error, OffsetInHole):
            return ErrorCode.OFFSET_OUT_OF_RANGE
        if isinstance(error, PartitionNotFound):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        self._note(topic, partition, error)
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED if isinstance(error, _FOR_GOOD) else ErrorCode.KAFKA_STORAGE_ERROR

    def skipped(self, topic: str, partition: int, hole: OffsetInHole) -> None:
        self._note(topic, partition, hole)

    def _note(self, topic: str, partition: int, error: TakhinError) -> None:
        place = topic, partition, str(error)
        if place in self._noted:
            return
        if len(self._noted) >= _MOST_NOTED:
            del self._noted[next(iter(self._noted))]
        self._noted[place] = None
        if isinstance(error, OffsetInHole):
            self._metrics.kafka_holes.labels(topic, str(partition)).inc()
        logs.logger().error(
            "a consumer cannot be given records",
            topic=topic,
            partition=partition,
            code=error.code,
            error=str(error),
        )
