"""OffsetCommit and OffsetFetch.

Source: Kafka, OffsetCommitRequest.json, OffsetCommitResponse.json, OffsetFetchRequest.json, OffsetFetchResponse.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import (
    array,
    int16,
    int32,
    int32s,
    int64,
    nullable_array,
    nullable_string,
    string,
)


@dataclass(slots=True)
class OffsetCommitRequestPartition:
    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(-1, since=6)
    committed_metadata: str | None = nullable_string()


@dataclass(slots=True)
class OffsetCommitRequestTopic:
    name: str = string()
    partitions: list[OffsetCommitRequestPartition] = array(OffsetCommitRequestPartition)


@dataclass(slots=True)
class OffsetCommitRequest:
    group_id: str = string()
    generation_id_or_member_epoch: int = int32(-1, since=1)
    member_id: str = string(since=1)
    group_instance_id: str | None = nullable_string(since=7)
    retention_time_ms: int = int64(-1, since=2, until=4)
    topics: list[OffsetCommitRequestTopic] = array(OffsetCommitRequestTopic)


@dataclass(slots=True)
class OffsetCommitResponsePartition:
    partition_index: int = int32()
    error_code: int = int16()


@dataclass(slots=True)
class OffsetCommitResponseTopic:
    name: str = string()
    partitions: list[OffsetCommitResponsePartition] = array(OffsetCommitResponsePartition)


@dataclass(slots=True)
class OffsetCommitResponse:
    throttle_time_ms: int = int32(since=3)
    topics: list[OffsetCommitResponseTopic] = array(OffsetCommitResponseTopic)


@dataclass(slots=True)
class OffsetFetchRequestTopic:
    name: str = string()
    partition_indexes: list[int] = int32s()


@dataclass(slots=True)
class OffsetFetchRequest:
    group_id: str = string()
    topics: list[OffsetFetchRequestTopic] | None = nullable_array(OffsetFetchRequestTopic)
    """None, since version 2, asks for all that the group has committed."""


@dataclass(slots=True)
class OffsetFetchResponsePartition:
    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(-1, since=5)
    metadata: str | None = nullable_string()
    error_code: int = int16()


@dataclass(slots=True)
class OffsetFetchResponseTopic:
    name: str = string()
    partitions: list[OffsetFetchResponsePartition] = array(OffsetFetchResponsePartition)


@dataclass(slots=True)
class OffsetFetchResponse:
    throttle_time_ms: int = int32(since=3)
    topics: list[OffsetFetchResponseTopic] = array(OffsetFetchResponseTopic)
    error_code: int = int16(since=2)
