"""All that writes: understood, so that it can be refused with the protocol's own error.

Source: Kafka, ProduceRequest.json, InitProducerIdRequest.json, CreateTopicsRequest.json, DeleteTopicsRequest.json,
DeleteRecordsRequest.json, CreatePartitionsRequest.json, AlterConfigsRequest.json, IncrementalAlterConfigsRequest.json,
and their responses.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.codec import Records
from takhin_tiered.kafka.fields import (
    array,
    boolean,
    int8,
    int16,
    int32,
    int32s,
    int64,
    nullable_array,
    nullable_string,
    records,
    string,
    strings,
)


@dataclass(slots=True)
class PartitionProduceData:
    index: int = int32()
    records: Records = records()


@dataclass(slots=True)
class TopicProduceData:
    name: str = string()
    partition_data: list[PartitionProduceData] = array(PartitionProduceData)


@dataclass(slots=True)
class ProduceRequest:
    transactional_id: str | None = nullable_string(since=3)
    acks: int = int16()
    timeout_ms: int = int32()
    topic_data: list[TopicProduceData] = array(TopicProduceData)


@dataclass(slots=True)
class BatchIndexAndErrorMessage:
    batch_index: int = int32()
    batch_index_error_message: str | None = nullable_string()


@dataclass(slots=True)
class PartitionProduceResponse:
    index: int = int32()
    error_code: int = int16()
    base_offset: int = int64()
    log_append_time_ms: int = int64(-1, since=2)
    log_start_offset: int = int64(-1, since=5)
    record_errors: list[BatchIndexAndErrorMessage] = array(BatchIndexAndErrorMessage, since=8)
    error_message: str | None = nullable_string(since=8)


@dataclass(slots=True)
class TopicProduceResponse:
    name: str = string()
    partition_responses: list[PartitionProduceResponse] = array(PartitionProduceResponse)


@dataclass(slots=True)
class ProduceResponse:
    responses: list[TopicProduceResponse] = array(TopicProduceResponse)
    throttle_time_ms: int = int32(since=1)


@dataclass(slots=True)
class InitProducerIdRequest:
    transactional_id: str | None = nullable_string()
    transaction_timeout_ms: int = int32()


@dataclass(slots=True)
class InitProducerIdResponse:
    throttle_time_ms: int = int32()
    error_code: int = int16()
    producer_id: int = int64(-1)
    producer_epoch: int = int16()


@dataclass(slots=True)
class CreatableReplicaAssignment:
    partition_index: int = int32()
    broker_ids: list[int] = int32s()


@dataclass(slots=True)
class CreatableTopicConfig:
    name: str = string()
    value: str | None = nullable_string()


@dataclass(slots=True)
class CreatableTopic:
    name: str = string()
    num_partitions: int = int32()
    replication_factor: int = int16()
    assignments: list[CreatableReplicaAssignment] = array(CreatableReplicaAssignment)
    configs: list[CreatableTopicConfig] = array(CreatableTopicConfig)


@dataclass(slots=True)
class CreateTopicsRequest:
    topics: list[CreatableTopic] = array(CreatableTopic)
    timeout_ms: int = int32(60000)
    validate_only: bool = boolean(since=1)


@dataclass(slots=True)
class CreatableTopicResult:
    name: str = string()
    error_code: int = int16()
    error_message: str | None = nullable_string(since=1)


@dataclass(slots=True)
class CreateTopicsResponse:
    throttle_time_ms: int = int32(since=2)
    topics: list[CreatableTopicResult] = array(CreatableTopicResult)


@dataclass(slots=True)
class DeleteTopicsRequest:
    topic_names: list[str] = strings()
    timeout_ms: int = int32()


@dataclass(slots=True)
class DeletableTopicResult:
    name: str = string()
    error_code: int = int16()


@dataclass(slots=True)
class DeleteTopicsResponse:
    throttle_time_ms: int = int32(since=1)
    responses: list[DeletableTopicResult] = array(DeletableTopicResult)


@dataclass(slots=True)
class DeleteRecordsPartition:
    partition_index: int = int32()
    offset: int = int64()


@dataclass(slots=True)
class DeleteRecordsTopic:
    name: str = string()
    partitions: list[DeleteRecordsPartition] = array(DeleteRecordsPartition)


@dataclass(slots=True)
class DeleteRecordsRequest:
    topics: list[DeleteRecordsTopic] = array(DeleteRecordsTopic)
    timeout_ms: int = int32()


@dataclass(slots=True)
class DeleteRecordsPartitionResult:
    partition_index: int = int32()
    low_watermark: int = int64()
    error_code: int = int16()


@dataclass(slots=True)
class DeleteRecordsTopicResult:
    name: str = string()
    partitions: list[DeleteRecordsPartitionResult] = array(DeleteRecordsPartitionResult)


@dataclass(slots=True)
class DeleteRecordsResponse:
    throttle_time_ms: int = int32()
    topics: list[DeleteRecordsTopicResult] = array(DeleteRecordsTopicResult)


@dataclass(slots=True)
class CreatePartitionsAssignment:
    broker_ids: list[int] = int32s()


@dataclass(slots=True)
class CreatePartitionsTopic:
    name: str = string()
    count: int = int32()
    assignments: list[CreatePartitionsAssignment] | None = nullable_array(CreatePartitionsAssignment)


@dataclass(slots=True)
class CreatePartitionsRequest:
    topics: list[CreatePartitionsTopic] = array(CreatePartitionsTopic)
    timeout_ms: int = int32()
    validate_only: bool = boolean()


@dataclass(slots=True)
class CreatePartitionsTopicResult:
    name: str = string()
    error_code: int = int16()
    error_message: str | None = nullable_string()


@dataclass(slots=True)
class CreatePartitionsResponse:
    throttle_time_ms: int = int32()
    results: list[CreatePartitionsTopicResult] = array(CreatePartitionsTopicResult)


@dataclass(slots=True)
class AlterableConfig:
    name: str = string()
    value: str | None = nullable_string()


@dataclass(slots=True)
class AlterConfigsResource:
    resource_type: int = int8()
    resource_name: str = string()
    configs: list[AlterableConfig] = array(AlterableConfig)


@dataclass(slots=True)
class AlterConfigsRequest:
    resources: list[AlterConfigsResource] = array(AlterConfigsResource)
    validate_only: bool = boolean()


@dataclass(slots=True)
class AlterConfigsResourceResponse:
    error_code: int = int16()
    error_message: str | None = nullable_string()
    resource_type: int = int8()
    resource_name: str = string()


@dataclass(slots=True)
class AlterConfigsResponse:
    throttle_time_ms: int = int32()
    responses: list[AlterConfigsResourceResponse] = array(AlterConfigsResourceResponse)


@dataclass(slots=True)
class IncrementallyAlterableConfig:
    name: str = string()
    config_operation: int = int8()
    value: str | None = nullable_string()


@dataclass(slots=True)
class IncrementalAlterConfigsResource:
    resource_type: int = int8()
    resource_name: str = string()
    configs: list[IncrementallyAlterableConfig] = array(IncrementallyAlterableConfig)


@dataclass(slots=True)
class IncrementalAlterConfigsRequest:
    resources: list[IncrementalAlterConfigsResource] = array(IncrementalAlterConfigsResource)
    validate_only: bool = boolean()


@dataclass(slots=True)
class IncrementalAlterConfigsResponse:
    throttle_time_ms: int = int32()
    responses: list[AlterConfigsResourceResponse] = array(AlterConfigsResourceResponse)
