"""A Kafka broker, asked as a client: settings, offsets, what consumers have read; and requests to delete records.

The only module that knows aiokafka's client. Every wait is bounded. What fails is a `BrokerError`: `BrokerUnavailable`
where the next time may be better, `BrokerDenied` where an ACL says no, `TrimRefused` where records stay.
aiokafka's own admin client gives one error for many partitions, and takes no notice of a group's: a floor that lacks
a group would be too high. So its requests are sent from here. Source: Kafka protocol guide.
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

from takhin_tiered.broker.assignments import AT_ONCE, Assignment, by_leader, by_topic, in_pieces
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
"""What the leader waits for its replicas: less than we wait for the leader, so that its answer is heard."""
_GROUPS_AT_ONCE = 16
_TOPIC, _BROKER = 2, 4
_EARLIEST, _LATEST = -2, -1
_READ_UNCOMMITTED = 0
_TLS = ("cafile", "certfile", "keyfile")
_OFFSETS_TOPIC = "__consumer_offsets"


@asynccontextmanager
async def open_broker(bootstrap: str, options: Mapping[str, object]) -> AsyncIterator[BrokerClient]:
    """A client of the cluster that ``bootstrap`` (``host:port``, several with commas) belongs to; closed at the end.

    ``options`` are `aiokafka.AIOKafkaClient`'s, and ``cafile``, ``certfile``, ``keyfile`` for TLS. `ConfigError` where
    they make no sense, `BrokerUnavailable` where nobody answers, or the login fails: the library does not tell which.
    """
    try:
        client = AIOKafkaClient(bootstrap_servers=bootstrap, **_client_options(options))
        _ = client.hosts
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"the options of the connection to Kafka make no sense: {error}") from error
    try:
        async with bounded(f"Kafka at {bootstrap} cannot be reached"):
            await client.bootstrap()
        yield BrokerClient(client)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await client.close()


class BrokerClient:
    """What is asked of a cluster; see `open_broker`. Each question takes a minute at most."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def topic_settings(self, topics: Iterable[str]) -> dict[str, TopicSettings]:
        """The settings of these topics; those that do not exist are left out.

        `BrokerDenied` names a topic whose configuration may not be described.
        """
        found: dict[str, TopicSettings] = {}
        async with bounded("Kafka does not tell the settings of topics"):
            for names in in_pieces(sorted(set(topics)), AT_ONCE):
                request = DescribeConfigsRequest([(_TOPIC, name, list(TOPIC_SETTINGS)) for name in names])
                for code, _, _, name, entries in (await self._send_to_any(request)).resources:
                    if code in {NO_TOPIC, INVALID_TOPIC}:
                        continue
                    raise_for(code, f"the settings of topic {name}")
                    found[name] = topic_settings({key: value for key, value, *_ in entries})
        return found

    async def check_interval_ms(self, node_id: int) -> int:
        """The time from one look of this broker for old segments to the next: ``log.retention.check.interval.ms``."""
        wanted = "log.retention.check.interval.ms"
        async with bounded(f"broker {node_id} does not tell its settings"):
            request = DescribeConfigsRequest([(_BROKER, str(node_id), [wanted])])
            for code, _, _, _, entries in (await self._send(node_id, request)).resources:
                raise_for(code, f"the settings of broker {node_id}")
                for key, value, *_ in entries:
                    if key == wanted:
                        return int(value)
        raise BrokerError(f"broker {node_id} has no setting {wanted}")

    async def offsets(self, partitions: Iterable[Partition]) -> dict[Partition, PartitionOffsets]:
        """Start and high watermark of these partitions, by their leaders' word.

        Partitions that do not exist, or whose leader does not answer now, are left out.
        """
        async with bounded("Kafka does not tell the offsets of partitions"):
            assignments = await self._assignments(partitions)
            # The start first: it only grows, so it is not above a high watermark that is asked for later.
            starts = await self._list_offsets(assignments, _EARLIEST)
            ends = await self._list_offsets({partition: assignments[partition] for partition in starts}, _LATEST)
        return {
            partition: PartitionOffsets(starts[partition], end, *assignments[partition])
            for partition, end in ends.items()
        }

    async def committed(
        self, partitions: Iterable[Partition], ignore: Sequence[str]
    ) -> dict[Partition, tuple[str, int]]:
        """The lowest offset that any consumer group has committed, and that group's name, for each partition.

        A partition without a commit is left out, and so are groups that match a glob of ``ignore``. A group that cannot
        be asked is an error, not a group less. Groups that the ACLs hide are not known of: this client needs DESCRIBE
        on the cluster and on ``__consumer_offsets``. Share groups keep their offsets elsewhere, and are not seen.
        """
        floors: dict[Partition, tuple[str, int]] = {}
        async with bounded("Kafka does not tell what consumers have committed"):
            # A broker passes over topics that this client may not see; this says so.
            wanted = set(await self._assignments(partitions))
            for groups in in_pieces(await self._groups(ignore), _GROUPS_AT_ONCE):
                for group, offsets in await all_of(self._group_offsets(node, group) for node, group in groups):
                    for partition, offset in offsets:
                        lowest = floors.get(partition)
                        if partition in wanted and (lowest is None or offset < lowest[1]):
                            floors[partition] = group, offset
        return floors

    async def delete_records(self, targets: Mapping[Partition, int]) -> dict[Partition, int | BrokerError]:
        """Delete what is before an offset, for each partition: the log start that its leader reports then, or why not.

        The log start is asked for whatever the answer was: a leader that waited too long for a replica says that it
        timed out although it has moved its own. Kafka takes -1 for the whole log, so a negative offset raises
        `ValueError`.
        """
        if any(offset < 0 for offset in targets.values()):
            raise ValueError("records are deleted before an offset, which is not negative")
        answers: dict[Partition, int | BrokerError] = {}
        async with bounded("Kafka does not delete records"):
            assignments = await self._assignments(targets)
            for leader, pieces in by_leader(assignments):
                answers |= await self._delete_at(leader, {partition: targets[partition] for partition in pieces})
        try:
            async with bounded("Kafka does not tell where its logs start"):
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
        """Where these partitions are; those that do not exist are left out."""
        wanted = set(partitions)
        found = await self._topic_assignments({topic for topic, _ in wanted})
        return {partition: assignment for partition, assignment in found.items() if partition in wanted}

    async def _topic_assignments(self, topics: Iterable[str]) -> dict[Partition, Assignment]:
        """Where all partitions of these topics are. `BrokerDenied` for a topic that this client may not see."""
        assignments: dict[Partition, Assignment] = {}
        for names in in_pieces(sorted(topics), AT_ONCE):
            # A topic is not created by asking for it, however the cluster is configured.
            response = await self._send_to_any(MetadataRequest(names, allow_auto_topic_creation=False))
            for code, topic, _, found in response.topics:
                if code in DENIED:
                    raise_for(code, f"where topic {topic} is")
                for _, partition, leader, replicas, *_ in found:
                    assignments[topic, partition] = Assignment(leader, tuple(replicas))
        return assignments

    async def _list_offsets(self, assignments: Mapping[Partition, Assignment], which: int) -> dict[Partition, int]:
        """Of the partitions whose leaders answer; an error only if none does."""
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
        """Every group, with the broker that keeps its offsets: the one that lists it.

        A broker lists the groups of the partitions of ``__consumer_offsets`` that it leads, so a partition without a
        leader, or one that moves meanwhile, would be groups that nobody lists.
        """
        assignments = await self._topic_assignments([_OFFSETS_TOPIC])
        groups = []
        for node in sorted({assignment.leader for assignment in assignments.values()}):
            if node < 0:
                raise BrokerUnavailable(
                    f"a partition of {_OFFSETS_TOPIC} has no leader now, so some groups are not known"
                )
            response = await self._send(node, ListGroupsRequest())
            raise_for(response.error_code, f"the consumer groups of broker {node}")
            groups += [(node, group) for group, *_ in response.groups]
        if await self._topic_assignments([_OFFSETS_TOPIC]) != assignments:
            raise BrokerUnavailable(f"{_OFFSETS_TOPIC} moved while its groups were listed")
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
        """Ask one broker after the other until one answers: a cluster lives with brokers that do not."""
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
            # Two requests timed out on one connection: the library gives it up twice.
            raise RequestTimedOutError(f"broker {node} did not answer") from None


def _client_options(options: Mapping[str, object]) -> dict[str, Any]:
    """As aiokafka takes them. `ValueError` or `OSError` where they are not complete."""
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
