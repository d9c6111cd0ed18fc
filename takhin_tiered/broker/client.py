"""A client of the Kafka broker: topic settings, offsets, committed offsets, DeleteRecords.

The only module that uses aiokafka's client. Every wait is bounded. Failures are `BrokerError`: `BrokerUnavailable` if a
retry may succeed, `BrokerDenied` if an ACL forbids it, `TrimRefused` if the broker keeps the records. aiokafka's admin
client reports one error for many partitions and ignores errors of single groups; the lowest committed offset would then
be too high. So the requests are sent from here. Source: Kafka protocol guide.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from typing import Any

from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.admin import DeleteRecordsRequest, DescribeConfigsRequest, ListGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from takhin_tiered.batches import in_batches
from takhin_tiered.broker.assignments import AT_ONCE, Assignment, by_leader, by_topic
from takhin_tiered.broker.responses import (
    DENIED,
    INVALID_TOPIC,
    NO_GROUP,
    NO_RESPONSE,
    NO_TOPIC,
    bounded,
    raise_for,
    trim_error,
    trim_result,
)
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import BrokerError, BrokerUnavailable, ConfigError
from takhin_tiered.segments.broker import TOPIC_SETTINGS, PartitionOffsets, TopicSettings, topic_settings
from takhin_tiered.segments.names import Partition

_REQUEST_MS = 10_000
_CLOSE_SECONDS = 5.0
_DELETE_MS = 5_000
"""How long the leader waits for its replicas: less than our own timeout, so that its response still arrives."""
_GROUPS_AT_ONCE = 16
_TOPIC, _BROKER = 2, 4
_EARLIEST, _LATEST = -2, -1
_READ_UNCOMMITTED = 0
_TLS = ("cafile", "certfile", "keyfile")
_OFFSETS_TOPIC = "__consumer_offsets"


@asynccontextmanager
async def open_broker(bootstrap: str, options: Mapping[str, object]) -> AsyncIterator[BrokerClient]:
    """A client of the cluster at ``bootstrap`` (``host:port``, several with commas); closed at the end.

    ``options`` are those of `aiokafka.AIOKafkaClient`, and ``cafile``, ``certfile``, ``keyfile`` for TLS. `ConfigError`
    if they are invalid, `BrokerUnavailable` if no broker answers or the login fails: the library does not distinguish.
    """
    try:
        client = AIOKafkaClient(bootstrap_servers=bootstrap, **_client_options(options))
        _ = client.hosts
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"storage.tiered.broker.client or .bootstrap is invalid: {error}") from error
    try:
        async with bounded(f"Kafka at {bootstrap} cannot be reached"):
            await client.bootstrap()
        yield BrokerClient(client)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await client.close()


class BrokerClient:
    """Requests to a cluster; see `open_broker`. Each operation takes a minute at most."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def topic_settings(self, topics: Iterable[str]) -> dict[str, TopicSettings]:
        """The settings of these topics; topics that do not exist are omitted.

        `BrokerDenied` names a topic whose configuration this client may not describe.
        """
        found: dict[str, TopicSettings] = {}
        async with bounded("cannot read topic settings from Kafka"):
            for names in in_batches(sorted(set(topics)), AT_ONCE):
                request = DescribeConfigsRequest([(_TOPIC, name, list(TOPIC_SETTINGS)) for name in names])
                for code, _, _, name, entries in (await self._send_to_any(request)).resources:
                    if code in {NO_TOPIC, INVALID_TOPIC}:
                        continue
                    raise_for(code, f"the settings of topic {name}")
                    found[name] = topic_settings({key: value for key, value, *_ in entries})
        return found

    async def check_interval_ms(self, node_id: int) -> int:
        """The interval of this broker's retention checks: ``log.retention.check.interval.ms``."""
        wanted = "log.retention.check.interval.ms"
        async with bounded(f"cannot read the settings of broker {node_id}"):
            request = DescribeConfigsRequest([(_BROKER, str(node_id), [wanted])])
            for code, _, _, _, entries in (await self._send(node_id, request)).resources:
                raise_for(code, f"the settings of broker {node_id}")
                for key, value, *_ in entries:
                    if key == wanted:
                        return int(value)
        raise BrokerError(f"broker {node_id} has no setting {wanted}")

    async def offsets(self, partitions: Iterable[Partition]) -> dict[Partition, PartitionOffsets]:
        """Log start and high watermark of these partitions, from their leaders.

        Partitions that do not exist, or whose leader does not answer now, are omitted.
        """
        async with bounded("cannot read partition offsets from Kafka"):
            assignments = await self._assignments(partitions)
            # The start first: it only grows, so it is not above a high watermark that is read later.
            starts = await self._list_offsets(assignments, _EARLIEST)
            ends = await self._list_offsets({partition: assignments[partition] for partition in starts}, _LATEST)
        return {
            partition: PartitionOffsets(starts[partition], end, *assignments[partition])
            for partition, end in ends.items()
        }

    async def committed(
        self, partitions: Iterable[Partition], ignore: Sequence[str]
    ) -> dict[Partition, tuple[str, int]]:
        """For each partition the lowest offset that any consumer group has committed, with the group's name.

        Partitions without a commit are omitted, and groups that match a glob of ``ignore``. A group that cannot be read
        is an error, because the floor would be too high without it. Groups hidden by ACLs are unknown: this client
        needs DESCRIBE on the cluster and on ``__consumer_offsets``. Share groups keep their offsets elsewhere.
        """
        floors: dict[Partition, tuple[str, int]] = {}
        async with bounded("cannot read committed offsets from Kafka"):
            # A broker silently omits topics that this client may not see; this raises an error for them.
            wanted = set(await self._assignments(partitions))
            for groups in in_batches(await self._groups(ignore), _GROUPS_AT_ONCE):
                for group, offsets in await all_of(self._group_offsets(node, group) for node, group in groups):
                    for partition, offset in offsets:
                        lowest = floors.get(partition)
                        if partition in wanted and (lowest is None or offset < lowest[1]):
                            floors[partition] = group, offset
        return floors

    async def delete_records(self, targets: Mapping[Partition, int]) -> dict[Partition, int | BrokerError]:
        """Delete the records before an offset, for each partition. Returns the new log start, or the error.

        The log start is read whatever the response was: a leader that waited too long for a replica reports a timeout,
        although it has advanced its own log start. Kafka treats -1 as the whole log, so a negative offset raises
        `ValueError`.
        """
        if any(offset < 0 for offset in targets.values()):
            raise ValueError("the offset before which records are deleted must not be negative")
        answers: dict[Partition, int | BrokerError] = {}
        async with bounded("cannot delete records in Kafka"):
            assignments = await self._assignments(targets)
            for leader, pieces in by_leader(assignments):
                answers |= await self._delete_at(leader, {partition: targets[partition] for partition in pieces})
        try:
            async with bounded("cannot read log start offsets from Kafka"):
                starts = await self._list_offsets(await self._assignments(targets), _EARLIEST)
        except BrokerError:
            starts = {}
        return {
            partition: trim_result(answers.get(partition, _no_leader(partition)), starts.get(partition), target)
            for partition, target in targets.items()
        }

    async def _delete_at(self, leader: int, targets: Mapping[Partition, int]) -> dict[Partition, int | BrokerError]:
        request = DeleteRecordsRequest(
            by_topic((partition, offset) for partition, offset in targets.items()), _DELETE_MS
        )
        try:
            response = await self._send(leader, request)
        except NO_RESPONSE as error:
            return dict.fromkeys(targets, BrokerUnavailable(f"broker {leader} does not delete records: {error}"))
        return {
            (topic, partition): trim_error(code, f"deleting records of {topic}-{partition}") or low_watermark
            for topic, partitions, *_ in response.topics
            for partition, low_watermark, code, *_ in partitions
        }

    async def _assignments(self, partitions: Iterable[Partition]) -> dict[Partition, Assignment]:
        """The assignments of these partitions; those that do not exist are omitted."""
        wanted = set(partitions)
        found = await self._topic_assignments({topic for topic, _ in wanted})
        return {partition: assignment for partition, assignment in found.items() if partition in wanted}

    async def _topic_assignments(self, topics: Iterable[str]) -> dict[Partition, Assignment]:
        """The assignments of all partitions of these topics. `BrokerDenied` if this client may not see one."""
        assignments: dict[Partition, Assignment] = {}
        for names in in_batches(sorted(topics), AT_ONCE):
            # The request must not create a topic, however the cluster is configured.
            response = await self._send_to_any(MetadataRequest(names, allow_auto_topic_creation=False))
            for code, topic, _, found in response.topics:
                if code in DENIED:
                    raise_for(code, f"where topic {topic} is")
                for _, partition, leader, replicas, *_ in found:
                    assignments[topic, partition] = Assignment(leader, tuple(replicas))
        return assignments

    async def _list_offsets(self, assignments: Mapping[Partition, Assignment], which: int) -> dict[Partition, int]:
        """The offsets of the partitions whose leaders answer; an error only if none does."""
        offsets: dict[Partition, int] = {}
        last_error: KafkaError | None = None
        for leader, partitions in by_leader(assignments):
            topics = by_topic((partition, which) for partition in partitions)
            try:
                response = await self._send(leader, OffsetRequest(-1, _READ_UNCOMMITTED, topics))
            except NO_RESPONSE as error:
                last_error = error
                continue
            for topic, found in response.topics:
                for partition, code, _, offset, *_ in found:
                    if code in DENIED:
                        raise_for(code, f"the offsets of topic {topic}")
                    if not code and offset >= 0:
                        offsets[topic, partition] = offset
        if last_error is not None and not offsets:
            raise last_error
        return offsets

    async def _groups(self, ignore: Sequence[str]) -> list[tuple[int, str]]:
        """Every group, with its coordinator: the broker that lists it.

        A broker lists the groups of the ``__consumer_offsets`` partitions that it leads. If such a partition has no
        leader, or moves meanwhile, some groups would not be listed: that is an error.
        """
        assignments = await self._topic_assignments([_OFFSETS_TOPIC])
        groups = []
        for node in sorted({assignment.leader for assignment in assignments.values()}):
            if node < 0:
                raise BrokerUnavailable(
                    f"a partition of {_OFFSETS_TOPIC} has no leader now, so some consumer groups are unknown"
                )
            response = await self._send(node, ListGroupsRequest())
            raise_for(response.error_code, f"the consumer groups of broker {node}")
            groups += [(node, group) for group, *_ in response.groups]
        if await self._topic_assignments([_OFFSETS_TOPIC]) != assignments:
            raise BrokerUnavailable(f"leaders of {_OFFSETS_TOPIC} changed while consumer groups were listed")
        return [(node, group) for node, group in groups if not any(fnmatchcase(group, glob) for glob in ignore)]

    async def _group_offsets(self, node: int, group: str) -> tuple[str, list[tuple[Partition, int]]]:
        response = await self._send(node, OffsetFetchRequest(group, None))
        if response.error_code == NO_GROUP:
            return group, []
        raise_for(response.error_code, f"the offsets of consumer group {group}")
        offsets = []
        for topic, partitions in response.topics:
            for partition, offset, _, code in partitions:
                raise_for(code, f"the offset of consumer group {group} in {topic}-{partition}")
                if offset >= 0:
                    offsets.append(((topic, partition), offset))
        return group, offsets

    async def _send_to_any(self, request: Any) -> Any:
        """Send to one broker after the other until one answers: some brokers of a cluster may be down."""
        nodes = [broker.nodeId for broker in self._client.cluster.brokers()]
        random.shuffle(nodes)
        last_error: KafkaError = NodeNotReadyError("no broker of the cluster is known")
        for node in nodes:
            try:
                return await self._send(node, request)
            except NO_RESPONSE as error:
                last_error = error
        raise last_error

    async def _send(self, node: int, request: Any) -> Any:
        if self._client.cluster.broker_metadata(node) is None:
            await self._client.force_metadata_update()
        try:
            return await self._client.send(node, request)
        except KeyError:
            # Two requests timed out on one connection: the library closes it twice, and fails the second time.
            raise RequestTimedOutError(f"broker {node} did not answer") from None


def _client_options(options: Mapping[str, object]) -> dict[str, Any]:
    """The options in aiokafka's form. `ValueError` or `OSError` if they are incomplete."""
    given: dict[str, Any] = {"request_timeout_ms": _REQUEST_MS, **options}
    files = {name: given.pop(name) for name in _TLS if name in given}
    protocol = str(given.get("security_protocol", "PLAINTEXT"))
    if files or (protocol.endswith("SSL") and "ssl_context" not in given):
        given["ssl_context"] = create_ssl_context(**files)
    login = [given.get("sasl_plain_username"), given.get("sasl_plain_password")]
    mechanism = str(given.get("sasl_mechanism", "PLAIN"))
    if protocol.startswith("SASL") and mechanism.startswith(("PLAIN", "SCRAM")) and None in login:
        raise ValueError(f"sasl_plain_username and sasl_plain_password are needed for {mechanism}")
    return given


def _no_leader(partition: Partition) -> BrokerError:
    return BrokerUnavailable(f"{partition[0]}-{partition[1]} does not exist, or has no leader now")
