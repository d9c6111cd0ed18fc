"""Metadata and DescribeConfigs.

Source: Kafka, MetadataRequest.json, MetadataResponse.json, DescribeConfigsRequest.json, DescribeConfigsResponse.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import (
    array,
    boolean,
    int8,
    int16,
    int32,
    int32s,
    nullable_array,
    nullable_string,
    nullable_strings,
    string,
)

OPERATIONS_UNKNOWN = -(1 << 31)
"""Authorized operations that nobody asked for."""


@dataclass(slots=True)
class MetadataRequestTopic:
    name: str = string()


@dataclass(slots=True)
class MetadataRequest:
    topics: list[MetadataRequestTopic] | None = nullable_array(MetadataRequestTopic)
    """None asks for all; so does an empty list in version 0."""
    allow_auto_topic_creation: bool = boolean(True, since=4)
    include_cluster_authorized_operations: bool = boolean(since=8)
    include_topic_authorized_operations: bool = boolean(since=8)


@dataclass(slots=True)
class MetadataResponseBroker:
    node_id: int = int32()
    host: str = string()
    port: int = int32()
    rack: str | None = nullable_string(since=1)


@dataclass(slots=True)
class MetadataResponsePartition:
    error_code: int = int16()
    partition_index: int = int32()
    leader_id: int = int32()
    leader_epoch: int = int32(-1, since=7)
    replica_nodes: list[int] = int32s()
    isr_nodes: list[int] = int32s()
    offline_replicas: list[int] = int32s(since=5)


@dataclass(slots=True)
class MetadataResponseTopic:
    error_code: int = int16()
    name: str = string()
    is_internal: bool = boolean(since=1)
    partitions: list[MetadataResponsePartition] = array(MetadataResponsePartition)
    topic_authorized_operations: int = int32(OPERATIONS_UNKNOWN, since=8)


@dataclass(slots=True)
class MetadataResponse:
    throttle_time_ms: int = int32(since=3)
    brokers: list[MetadataResponseBroker] = array(MetadataResponseBroker)
    cluster_id: str | None = nullable_string(since=2)
    controller_id: int = int32(-1, since=1)
    topics: list[MetadataResponseTopic] = array(MetadataResponseTopic)
    cluster_authorized_operations: int = int32(OPERATIONS_UNKNOWN, since=8)


@dataclass(slots=True)
class DescribeConfigsResource:
    resource_type: int = int8()
    resource_name: str = string()
    configuration_keys: list[str] | None = nullable_strings()
    """None asks for all."""


@dataclass(slots=True)
class DescribeConfigsRequest:
    resources: list[DescribeConfigsResource] = array(DescribeConfigsResource)
    include_synonyms: bool = boolean(since=1)


@dataclass(slots=True)
class DescribeConfigsSynonym:
    name: str = string()
    value: str | None = nullable_string()
    source: int = int8()


@dataclass(slots=True)
class DescribeConfigsResourceResult:
    name: str = string()
    value: str | None = nullable_string()
    read_only: bool = boolean()
    config_source: int = int8(-1, since=1)
    is_sensitive: bool = boolean()
    synonyms: list[DescribeConfigsSynonym] = array(DescribeConfigsSynonym, since=1)


@dataclass(slots=True)
class DescribeConfigsResult:
    error_code: int = int16()
    error_message: str | None = nullable_string()
    resource_type: int = int8()
    resource_name: str = string()
    configs: list[DescribeConfigsResourceResult] = array(DescribeConfigsResourceResult)


@dataclass(slots=True)
class DescribeConfigsResponse:
    throttle_time_ms: int = int32()
    results: list[DescribeConfigsResult] = array(DescribeConfigsResult)
