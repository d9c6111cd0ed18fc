"""All that writes is refused at once, with errors after which a client gives up and shows why.

A producer repeats a request on most errors until its timeout, silently; on these it does not.
"""

from __future__ import annotations

from takhin_tiered.kafka import apis
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.messages import refused as messages

WHY = "this endpoint is read-only: write to the broker"
_DENIED, _TOPIC_DENIED = ErrorCode.CLUSTER_AUTHORIZATION_FAILED, ErrorCode.TOPIC_AUTHORIZATION_FAILED


async def produce(request: messages.ProduceRequest, client: Client) -> messages.ProduceResponse | None:
    if request.acks == 0:
        # The producer does not want to know, and reads no answer.
        return None
    return messages.ProduceResponse(
        [
            messages.TopicProduceResponse(
                topic.name,
                [
                    messages.PartitionProduceResponse(
                        each.index, ErrorCode.POLICY_VIOLATION, base_offset=-1, error_message=WHY
                    )
                    for each in topic.partition_data
                ],
            )
            for topic in request.topic_data
        ]
    )


async def init_producer_id(request: messages.InitProducerIdRequest, client: Client) -> messages.InitProducerIdResponse:
    return messages.InitProducerIdResponse(error_code=_DENIED, producer_epoch=-1)


async def create_topics(request: messages.CreateTopicsRequest, client: Client) -> messages.CreateTopicsResponse:
    return messages.CreateTopicsResponse(
        topics=[messages.CreatableTopicResult(topic.name, _DENIED, WHY) for topic in request.topics]
    )


async def delete_topics(request: messages.DeleteTopicsRequest, client: Client) -> messages.DeleteTopicsResponse:
    return messages.DeleteTopicsResponse(
        responses=[messages.DeletableTopicResult(name, _TOPIC_DENIED) for name in request.topic_names]
    )


async def delete_records(request: messages.DeleteRecordsRequest, client: Client) -> messages.DeleteRecordsResponse:
    return messages.DeleteRecordsResponse(
        topics=[
            messages.DeleteRecordsTopicResult(
                topic.name,
                [
                    messages.DeleteRecordsPartitionResult(each.partition_index, -1, _TOPIC_DENIED)
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


async def create_partitions(
    request: messages.CreatePartitionsRequest, client: Client
) -> messages.CreatePartitionsResponse:
    return messages.CreatePartitionsResponse(
        results=[messages.CreatePartitionsTopicResult(topic.name, _TOPIC_DENIED, WHY) for topic in request.topics]
    )


async def alter_configs(request: messages.AlterConfigsRequest, client: Client) -> messages.AlterConfigsResponse:
    return messages.AlterConfigsResponse(
        responses=[
            messages.AlterConfigsResourceResponse(_DENIED, WHY, each.resource_type, each.resource_name)
            for each in request.resources
        ]
    )


async def incremental_alter_configs(
    request: messages.IncrementalAlterConfigsRequest, client: Client
) -> messages.IncrementalAlterConfigsResponse:
    return messages.IncrementalAlterConfigsResponse(
        responses=[
            messages.AlterConfigsResourceResponse(_DENIED, WHY, each.resource_type, each.resource_name)
            for each in request.resources
        ]
    )


HANDLERS: dict[int, Handler] = {
    apis.PRODUCE: produce,
    apis.INIT_PRODUCER_ID: init_producer_id,
    apis.CREATE_TOPICS: create_topics,
    apis.DELETE_TOPICS: delete_topics,
    apis.DELETE_RECORDS: delete_records,
    apis.CREATE_PARTITIONS: create_partitions,
    apis.ALTER_CONFIGS: alter_configs,
    apis.INCREMENTAL_ALTER_CONFIGS: incremental_alter_configs,
}
