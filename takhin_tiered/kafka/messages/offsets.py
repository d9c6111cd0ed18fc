"""ListOffsets. Source: Kafka, ListOffsetsRequest.json, ListOffsetsResponse.json."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import array, int8, int16, int32, int64, string

LATEST, EARLIEST, MAX_TIMESTAMP = -1, -2, -3
"""Timestamps of a request that stand for a place. The last one since version 7 (KIP-734)."""


@dataclass(slots=True)
class ListOffsetsPartition:
    partition_index: int = int32()
    current_leader_epoch: int = int32(-1, since=4)
    timestamp: int = int64()


@dataclass(slots=True)
class ListOffsetsTopic:
    name: str = string()
    partitions: list[ListOffsetsPartition] = array(ListOffsetsPartition)


@dataclass(slots=True)
class ListOffsetsRequest:
    replica_id: int = int32(-1)
    isolation_level: int = int8(since=2)
    topics: list[ListOffsetsTopic] = array(ListOffsetsTopic)


@dataclass(slots=True)
class ListOffsetsPartitionResponse:
    partition_index: int = int32()
    error_code: int = int16()
    timestamp: int = int64(-1, since=1)
    offset: int = int64(-1, since=1)
    leader_epoch: int = int32(-1, since=4)


@dataclass(slots=True)
class ListOffsetsTopicResponse:
    name: str = string()
    partitions: list[ListOffsetsPartitionResponse] = array(ListOffsetsPartitionResponse)


@dataclass(slots=True)
class ListOffsetsResponse:
    throttle_time_ms: int = int32(since=2)
    topics: list[ListOffsetsTopicResponse] = array(ListOffsetsTopicResponse)
