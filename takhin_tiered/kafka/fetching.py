"""Fetch: record batches from wherever they are, unchanged.

Source: Apache Kafka, ``ReplicaManager.fetchMessages``, ``ReplicaManager.readFromLog``; KIP-74 for the limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from takhin_tiered.bulk import FileRange
from takhin_tiered.errors import OffsetInHole, OffsetOutOfRange, PartitionNotFound, TakhinError
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.list_offsets import isolation_of
from takhin_tiered.kafka.messages.fetch import (
    AbortedTransaction,
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    PartitionData,
)
from takhin_tiered.kafka.open_streams import OpenStreams, StreamName
from takhin_tiered.kafka.refusals import Holes, Refusals
from takhin_tiered.reader.query import Isolation
from takhin_tiered.reader.runs import Limit
from takhin_tiered.reader.serving import LogBounds, ServedLogs
from takhin_tiered.reader.streams import Taken

_MOST_BYTES = 50 << 20
_MOST_IN_MEMORY = 4 << 20
"""Bytes of one answer that do not come straight from a file: many clients may take theirs slowly."""
_LOOK_SECONDS = 0.5
"""So often a partition without new records is looked at again, while a client waits for some."""
_MOST_WAIT_SECONDS = 30.0
_PATIENCE_SECONDS, _HASTE_SECONDS = 0.3, 0.02
"""For one partition of several, and for each of the others once one has taken longer."""


@dataclass(slots=True)
class _Answer:
    """What one partition gets."""

    topic: str
    wanted: FetchPartition
    data: PartitionData
    is_empty: bool = True


@dataclass(slots=True)
class _Room:
    """How many bytes an answer may still have: in all, and of those that stand in memory."""

    total: int
    memory: int = _MOST_IN_MEMORY
    is_empty: bool = True
    patience: float = _PATIENCE_SECONDS
    """How long one partition may take before the others are looked at."""
    is_crowded: bool = False
    """All streams that may be open are needed for answers: this one has waited for that once."""

    def take(self, taken: Taken) -> None:
        self.total -= taken.size
        self.memory -= sum(len(piece) for piece in taken.data if not isinstance(piece, FileRange))
        self.is_empty = self.is_empty and not taken.size


@dataclass(slots=True)
class Fetching:
    logs: ServedLogs
    streams: OpenStreams
    refusals: Refusals
    holes: Holes

    async def __call__(self, request: FetchRequest, client: Client) -> FetchResponse:
        if request.session_id:
            # There are no sessions here. The client goes on without.
            return FetchResponse(error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(max(0, request.max_wait_ms) / 1000, _MOST_WAIT_SECONDS)
        isolation = isolation_of(request.isolation_level)
        answers = [
            _Answer(topic.topic, wanted, PartitionData(wanted.partition, high_watermark=-1))
            for topic in request.topics
            for wanted in topic.partitions
        ]
        # Each once: what it gives is sent from its stream, which cannot be at two places.
        once = {(each.topic, each.wanted.partition): each for each in reversed(answers)}
        room = _Room(min(max(0, request.max_bytes), _MOST_BYTES))
        wanted = min(request.min_bytes, room.total)
        begun = room.total
        while True:
            room.is_crowded = False
            room.patience = _PATIENCE_SECONDS if len(answers) > 1 else max(_PATIENCE_SECONDS, until - loop.time())
            for answer in answers:
                if answer is not once[answer.topic, answer.wanted.partition]:
                    answer.data.error_code = ErrorCode.INVALID_REQUEST
                elif answer.is_empty:
                    await self._look(answer, client, isolation, room)
            left = until - loop.time()
            has_error = _has_error(answers)
            has_enough = begun - room.total >= wanted and (not room.is_empty or (wanted <= 0 and not has_error))
            if has_enough or left <= 0 or (not room.is_empty and has_error):
                return FetchResponse(responses=list(_by_topic(answers)))
            # An error is answered late too: clients ask again at once.
            await self.streams.pause(client, min(left, _LOOK_SECONDS))

    async def _look(self, answer: _Answer, client: Client, isolation: Isolation, room: _Room) -> None:
        topic, wanted, data = answer.topic, answer.wanted, answer.data
        data.error_code = ErrorCode.NONE
        try:
            bounds = await self._bounds(topic, wanted, isolation)
            _tell(bounds, data)
            if not _is_within(bounds, wanted):
                data.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
            elif wanted.fetch_offset < bounds.stable_end and (room.is_empty or min(room.total, room.memory) > 0):
                await self._take(answer, client, isolation, room)
        except TakhinError as error:
            data.error_code = self.refusals.code_of(topic, wanted.partition, error)

    async def _bounds(self, topic: str, wanted: FetchPartition, isolation: Isolation) -> LogBounds:
        """What they are, to be sure, where the offset is outside: a consumer that is told so jumps."""
        try:
            bounds = await self.logs.bounds(topic, wanted.partition, isolation)
            if _is_within(bounds, wanted):
                return bounds
        except PartitionNotFound:
            pass
        return await self._bounds_now(topic, wanted, isolation)

    async def _bounds_now(self, topic: str, wanted: FetchPartition, isolation: Isolation) -> LogBounds:
        await self.logs.know_all()
        return await self.logs.bounds(topic, wanted.partition, isolation, fresh=True)

    async def _take(self, answer: _Answer, client: Client, isolation: Isolation, room: _Room) -> None:
        wanted, data = answer.wanted, answer.data
        name = StreamName(answer.topic, wanted.partition, isolation)
        offset = wanted.fetch_offset
        while True:
            if not await self.streams.at(client, name, offset, patient=room.is_empty and not room.is_crowded):
                # The client asks again.
                room.is_crowded = True
                return
            try:
                most = min(wanted.partition_max_bytes, room.total)
                limit = Limit(most, room.memory, at_least_one=room.is_empty)
                taken = await self.streams.take(client, name, limit, room.patience)
                if taken is None:
                    # Whatever is at hand of the others takes no longer than that.
                    room.patience = _HASTE_SECONDS
                    return
                break
            except OffsetInHole as hole:
                await self.streams.drop(client, name)
                if not self.holes.are_skipped or hole.next_offset is None or hole.next_offset <= offset:
                    raise
                self.refusals.skipped(answer.topic, wanted.partition, hole)
                offset = hole.next_offset
            except OffsetOutOfRange:
                await self.streams.drop(client, name)
                # The high watermark may have gone back since the bounds were looked at: then there is nothing yet.
                bounds = await self._bounds_now(answer.topic, wanted, isolation)
                _tell(bounds, data)
                if offset == wanted.fetch_offset and not _is_within(bounds, wanted):
                    raise
                return
            except BaseException:
                await self.streams.drop(client, name)
                raise
        self.streams.took(client, name, taken)
        if taken.size:
            room.take(taken)
            answer.is_empty = False
            data.records = taken.data
            if isolation is Isolation.READ_COMMITTED:
                data.aborted_transactions = [
                    AbortedTransaction(each.producer_id, each.first_offset) for each in taken.aborted
                ]


def _tell(bounds: LogBounds, data: PartitionData) -> None:
    data.high_watermark, data.log_start_offset, data.last_stable_offset = bounds.end, bounds.start, bounds.stable_end


def _is_within(bounds: LogBounds, wanted: FetchPartition) -> bool:
    """Up to the last record that stands there: the high watermark may be behind it, and behind the consumer."""
    return bounds.start <= wanted.fetch_offset <= bounds.log_end


def _has_error(answers: list[_Answer]) -> bool:
    return any(answer.data.error_code for answer in answers)


def _by_topic(answers: list[_Answer]) -> Iterator[FetchableTopicResponse]:
    topics: dict[str, list[PartitionData]] = {}
    for answer in answers:
        topics.setdefault(answer.topic, []).append(answer.data)
    for topic, partitions in topics.items():
        yield FetchableTopicResponse(topic, partitions)
