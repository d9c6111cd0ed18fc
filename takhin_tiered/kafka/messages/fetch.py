"""Fetch. Source: Kafka, FetchRequest.json, FetchResponse.json."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.codec import Records
from takhin_tiered.kafka.fields import (
    array,
    int8,
    int16,
    int32,
    int32s,
    int64,
    nullable_array,
    records,
    string,
)

READ_UNCOMMITTED, READ_COMMITTED = 0, 1


@dataclass(slots=True)
class FetchPartition:
    partition: int = int32()
    current_leader_epoch: int = int32(-1, since=9)
    fetch_offset: int = int64()
    log_start_offset: int = int64(-1, since=5)
    partition_max_bytes: int = int32()


@dataclass(slots=True)
class FetchTopic:
    topic: str = string()
    partitions: list[FetchPartition] = array(FetchPartition)


@dataclass(slots=True)
class ForgottenTopic:
    topic: str = string()
    partitions: list[int] = int32s()


@dataclass(slots=True)
class FetchRequest:
    replica_id: int = int32(-1)
    max_wait_ms: int = int32()
    min_bytes: int = int32()
    max_bytes: int = int32(0x7FFFFFFF, since=3)
    isolation_level: int = int8(since=4)
    session_id: int = int32(since=7)
    session_epoch: int = int32(-1, since=7)
    topics: list[FetchTopic] = array(FetchTopic)
    forgotten_topics_data: list[ForgottenTopic] = array(ForgottenTopic, since=7)
    rack_id: str = string(since=11)


@dataclass(slots=True)
class AbortedTransaction:
    producer_id: int = int64()
    first_offset: int = int64()


@dataclass(slots=True)
class PartitionData:
    partition_index: int = int32()
    error_code: int = int16()
    high_watermark: int = int64()
    last_stable_offset: int = int64(-1, since=4)
    log_start_offset: int = int64(-1, since=5)
    aborted_transactions: list[AbortedTransaction] | None = nullable_array(AbortedTransaction, since=4)
    preferred_read_replica: int = int32(-1, since=11)
    records: Records = records()


@dataclass(slots=True)
class FetchableTopicResponse:
    topic: str = string()
    partitions: list[PartitionData] = array(PartitionData)


@dataclass(slots=True)
class FetchResponse:
    throttle_time_ms: int = int32(since=1)
    error_code: int = int16(since=7)
    session_id: int = int32(since=7)
    responses: list[FetchableTopicResponse] = array(FetchableTopicResponse)
