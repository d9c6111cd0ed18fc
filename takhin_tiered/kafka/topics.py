"""Metadata and DescribeConfigs: what there is to read, and at which address.

Source: Kafka, "Protocol Guide", Metadata. This endpoint is a cluster of one node, which leads what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from takhin_tiered.errors import TakhinError
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.messages.metadata import (
    DescribeConfigsRequest,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from takhin_tiered.kafka.node import NOBODY, NODE_ID, Address
from takhin_tiered.reader.serving import ServedLogs

_CLUSTER_ID = "takhin-tiered"
_MOST_LISTED = 100_000
_TOPIC, _BROKER = 2, 4
"""Types of resources that have configurations."""


class Topics:
    """``address``: where a client finds this node."""

    def __init__(self, logs: ServedLogs, address: Callable[[Client], Address]) -> None:
        self._logs, self._address = logs, address

    async def metadata(self, request: MetadataRequest, client: Client) -> MetadataResponse:
        known, missing = await self._known(request)
        is_for_all = request.topics is None or (not request.topics and client.version == 0)
        names = sorted(known) if is_for_all else [topic.name for topic in request.topics or ()]
        host, port = self._address(client)
        return MetadataResponse(
            brokers=[MetadataResponseBroker(NODE_ID, host, port)],
            cluster_id=_CLUSTER_ID,
            controller_id=NODE_ID,
            topics=[_described(name, known.get(name), missing) for name in names],
        )

    async def _known(self, request: MetadataRequest) -> tuple[dict[str, set[int]], ErrorCode]:
        """The topics, and what is answered for one that is not among them."""
        known = await self._logs.topics()
        if not request.topics or any(topic.name not in known for topic in request.topics):
            try:
                await self._logs.know_all()
            except TakhinError:
                # It may be there: the client asks again.
                return known, ErrorCode.LEADER_NOT_AVAILABLE
            known = await self._logs.topics(fresh=True)
        # For one that is merely unknown some clients ask again and again, at once.
        return known, ErrorCode.TOPIC_AUTHORIZATION_FAILED

    async def configs(self, request: DescribeConfigsRequest, _: Client) -> DescribeConfigsResponse:
        """None of them: what a topic was configured to is the broker's. The resources are known, that is enough."""
        known = await self._logs.topics()
        return DescribeConfigsResponse(
            results=[
                DescribeConfigsResult(
                    _error_of(resource.resource_type, resource.resource_name, known),
                    None,
                    resource.resource_type,
                    resource.resource_name,
                    [],
                )
                for resource in request.resources
            ]
        )


def _error_of(kind: int, name: str, topics: Container[str]) -> ErrorCode:
    if kind == _TOPIC:
        return ErrorCode.NONE if name in topics else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.NONE if kind == _BROKER and name == str(NODE_ID) else ErrorCode.INVALID_REQUEST


def _described(name: str, partitions: set[int] | None, missing: ErrorCode) -> MetadataResponseTopic:
    if partitions is None:
        return MetadataResponseTopic(missing, name, is_internal=False, partitions=[])
    return MetadataResponseTopic(
        ErrorCode.NONE,
        name,
        is_internal=name.startswith("__"),
        partitions=[_partition(number, is_here=number in partitions) for number in _listed(partitions)],
    )


def _listed(partitions: set[int]) -> Iterable[int]:
    """All up to the highest, as clients count on it; of a number that no topic has, as of a stray directory, that."""
    count = max(partitions) + 1
    return range(count) if count <= _MOST_LISTED else sorted(partitions)


def _partition(number: int, *, is_here: bool) -> MetadataResponsePartition:
    """One that is not here has no leader: another broker's archive may have it."""
    nodes = [NODE_ID] if is_here else []
    error, leader = (ErrorCode.NONE, NODE_ID) if is_here else (ErrorCode.LEADER_NOT_AVAILABLE, NOBODY)
    return MetadataResponsePartition(error, number, leader, -1, nodes, nodes, [])
