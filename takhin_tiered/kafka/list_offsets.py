"""ListOffsets: the earliest and the latest offset, and the offset of a time.

Source: Apache Kafka, ``UnifiedLog.fetchOffsetByTimestamp``.
"""

from __future__ import annotations

import asyncio

from takhin_tiered.errors import OffsetInHole, TakhinError
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.messages.fetch import READ_COMMITTED
from takhin_tiered.kafka.messages.offsets import (
    EARLIEST,
    LATEST,
    MAX_TIMESTAMP,
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from takhin_tiered.kafka.refusals import Holes, Refusals
from takhin_tiered.reader.query import Isolation
from takhin_tiered.reader.serving import ServedLogs

_NONE = -1
_DELAY_SECONDS = 0.5
"""Before an error: clients ask again at once."""


class ListOffsets:
    def __init__(self, logs: ServedLogs, refusals: Refusals, holes: Holes) -> None:
        self._logs, self._refusals, self._holes = logs, refusals, holes

    async def __call__(self, request: ListOffsetsRequest, _: Client) -> ListOffsetsResponse:
        isolation = isolation_of(request.isolation_level)
        topics = [
            ListOffsetsTopicResponse(
                topic.name, [await self._answer(topic.name, partition, isolation) for partition in topic.partitions]
            )
            for topic in request.topics
        ]
        if any(each.error_code for topic in topics for each in topic.partitions):
            await asyncio.sleep(_DELAY_SECONDS)
        return ListOffsetsResponse(topics=topics)

    async def _answer(
        self, topic: str, wanted: ListOffsetsPartition, isolation: Isolation
    ) -> ListOffsetsPartitionResponse:
        answer = ListOffsetsPartitionResponse(wanted.partition_index)
        try:
            answer.offset, answer.timestamp = await self._look(topic, wanted, isolation)
        except TakhinError as error:
            answer.error_code = self._refusals.code_of(topic, wanted.partition_index, error)
        return answer

    async def _look(self, topic: str, wanted: ListOffsetsPartition, isolation: Isolation) -> tuple[int, int]:
        """The offset and its timestamp, -1 where there is none."""
        partition, timestamp = wanted.partition_index, wanted.timestamp
        await self._logs.know_all()
        if timestamp in {EARLIEST, LATEST}:
            bounds = await self._logs.bounds(topic, partition, isolation, fresh=True)
            return (bounds.start if timestamp == EARLIEST else bounds.stable_end), _NONE
        try:
            if timestamp == MAX_TIMESTAMP:
                found = await self._logs.newest(topic, partition, isolation)
            else:
                found = await self._logs.offset_at(topic, partition, timestamp, isolation)
        except OffsetInHole as hole:
            # The record may be one of those that are missing. Who fetches from there is told so.
            if self._holes.are_skipped and hole.next_offset is not None:
                self._refusals.skipped(topic, partition, hole)
                return hole.next_offset, _NONE
            if hole.missing_from is None:
                raise
            return hole.missing_from, _NONE
        return (_NONE, _NONE) if found is None else found


def isolation_of(level: int) -> Isolation:
    return Isolation.READ_COMMITTED if level == READ_COMMITTED else Isolation.READ_UNCOMMITTED
