"""Consumer groups over the wire: every version of each API, and real clients."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from takhin_tiered.engine.clock import Clock
from takhin_tiered.kafka import apis
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.commits import Commits, open_commits
from takhin_tiered.kafka.coordinator import Coordinator
from takhin_tiered.kafka.credentials import load_users, scram_line
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.groups import group_handlers
from takhin_tiered.kafka.messages import commits as offsets
from takhin_tiered.kafka.messages import groups as messages
from takhin_tiered.kafka.messages.fetch import FetchableTopicResponse, FetchRequest, FetchResponse, PartitionData
from takhin_tiered.kafka.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from takhin_tiered.kafka.messages.offsets import (
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from takhin_tiered.kafka.node import Address
from takhin_tiered.kafka.sasl import Authenticator
from tests.kafka_wire import Served, WireClient, connected, on_uvloop, request_frame, served

TOPIC, PARTITIONS = "orders", 2


async def metadata(request: MetadataRequest, client: Client) -> MetadataResponse:
    partitions = [MetadataResponsePartition(0, number, 0, -1, [0], [0]) for number in range(PARTITIONS)]
    topics = [MetadataResponseTopic(0, TOPIC, partitions=partitions)]
    return MetadataResponse(0, [MetadataResponseBroker(0, *client.local)], "cluster", 0, topics)


async def list_offsets(request: ListOffsetsRequest, client: Client) -> ListOffsetsResponse:
    topics = [
        ListOffsetsTopicResponse(
            topic.name, [ListOffsetsPartitionResponse(each.partition_index, 0, -1, 0) for each in topic.partitions]
        )
        for topic in request.topics
    ]
    return ListOffsetsResponse(0, topics)


async def fetch(request: FetchRequest, client: Client) -> FetchResponse:
    """An empty log whose end any offset may be."""
    await asyncio.sleep(request.max_wait_ms / 1000)
    topics = [
        FetchableTopicResponse(
            topic.topic,
            [PartitionData(each.partition, 0, 1000, 1000, 0, records=(b"",)) for each in topic.partitions],
        )
        for topic in request.topics
    ]
    return FetchResponse(responses=topics)


@dataclass
class Here:
    served: Served
    coordinator: Coordinator
    commits: Commits

    @property
    def port(self) -> int:
        return self.served.port

    async def until(self, state: str, members: int) -> None:
        async with asyncio.timeout(60):
            while True:
                view = self.coordinator.describe("readers")
                if (view.state.value, len(view.members)) == (state, members):
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(state_dir: Path, authenticator: Authenticator | None = None) -> AsyncIterator[Here]:
    coordinator = Coordinator()

    async def incarnation_of(topic: str, partition: int) -> tuple[str, ...]:
        return ("",) if topic == TOPIC and 0 <= partition < PARTITIONS else ()

    async with open_commits(state_dir, incarnation_of, Clock()) as commits:
        own: dict[int, Handler] = {apis.METADATA: metadata, apis.LIST_OFFSETS: list_offsets, apis.FETCH: fetch}
        handlers = {**own, **group_handlers(coordinator, commits, lambda client: Address(*client.local))}
        async with served(handlers, authenticator=authenticator) as here:
            try:
                yield Here(here, coordinator, commits)
            finally:
                coordinator.close()


def join_request(member: str = "", instance: str | None = None) -> messages.JoinGroupRequest:
    protocols = [messages.JoinGroupRequestProtocol("range", b"orders")]
    return messages.JoinGroupRequest("readers", 10_000, 60_000, member, instance, "consumer", protocols)


async def join(client: WireClient, version: int, instance: str | None = None) -> messages.JoinGroupResponse:
    response: messages.JoinGroupResponse = await client.ask(join_request(instance=instance), version)
    if version >= 4 and instance is None:
        assert response.error_code == ErrorCode.MEMBER_ID_REQUIRED
        response = await client.ask(join_request(response.member_id), version)
    assert response.error_code == ErrorCode.NONE
    return response


def commit_request(
    joined: messages.JoinGroupResponse, offset: int, metadata_: str | None = "note"
) -> offsets.OffsetCommitRequest:
    partitions = [
        offsets.OffsetCommitRequestPartition(0, offset, 4, metadata_),
        offsets.OffsetCommitRequestPartition(9, offset, 4, metadata_),
    ]
    topics = [offsets.OffsetCommitRequestTopic(TOPIC, partitions)]
    return offsets.OffsetCommitRequest("readers", joined.generation_id, joined.member_id, topics=topics)


@pytest.mark.parametrize("version", range(6))
@on_uvloop
async def test_a_member_over_the_wire(version: int, tmp_path: Path) -> None:
    async with serving(tmp_path) as here, connected(here.port) as client:
        joined = await join(client, version)
        assert joined.leader == joined.member_id
        assert [(each.member_id, each.metadata) for each in joined.members] == [(joined.member_id, b"orders")]
        given = [messages.SyncGroupRequestAssignment(joined.member_id, b"all of it")]
        asked = messages.SyncGroupRequest("readers", joined.generation_id, joined.member_id, None, given)
        synced = await client.ask(asked, min(version, 3))
        assert (synced.error_code, synced.assignment) == (ErrorCode.NONE, b"all of it")
        beat = messages.HeartbeatRequest("readers", joined.generation_id, joined.member_id)
        assert (await client.ask(beat, min(version, 3))).error_code == ErrorCode.NONE

        committed = await client.ask(commit_request(joined, 7), version + 2)
        (topic,) = committed.topics
        assert [(each.partition_index, each.error_code) for each in topic.partitions] == [
            (0, ErrorCode.NONE),
            (9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]
        joined.generation_id += 1
        committed = await client.ask(commit_request(joined, 8), version + 2)
        assert {each.error_code for each in committed.topics[0].partitions} == {ErrorCode.ILLEGAL_GENERATION}

        described = await client.ask(messages.DescribeGroupsRequest(["readers", "readers", "others"]), min(version, 4))
        group, other = described.groups
        assert (group.group_state, group.protocol_type, group.protocol_data) == ("Stable", "consumer", "range")
        (member,) = group.members
        assert (member.client_id, member.client_host) == ("test", "/127.0.0.1")
        assert (member.member_metadata, member.member_assignment) == (b"orders", b"all of it")
        assert (other.error_code, other.group_state, other.members) == (ErrorCode.NONE, "Dead", [])

        if version < 3:
            left = await client.ask(messages.LeaveGroupRequest("readers", joined.member_id), version)
            assert left.error_code == ErrorCode.NONE
            left = await client.ask(messages.LeaveGroupRequest("readers", joined.member_id), version)
            assert left.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        else:
            leaving = [messages.MemberIdentity(joined.member_id, None), messages.MemberIdentity("x", "y")]
            left = await client.ask(messages.LeaveGroupRequest("readers", members=leaving), 3)
            assert left.error_code == ErrorCode.NONE
            assert [each.error_code for each in left.members] == [ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID]
            left = await client.ask(messages.LeaveGroupRequest("", members=leaving), 3)
            assert left.error_code == ErrorCode.INVALID_GROUP_ID


@pytest.mark.parametrize("version", range(1, 6))
@on_uvloop
async def test_commits_over_the_wire(version: int, tmp_path: Path) -> None:
    alone = messages.JoinGroupResponse(generation_id=-1)
    async with serving(tmp_path) as here, connected(here.port) as client:
        await client.ask(commit_request(alone, 7), 6)
        topics = [offsets.OffsetFetchRequestTopic(TOPIC, [1, 0]), offsets.OffsetFetchRequestTopic("unknown", [0])]
        fetched = await client.ask(offsets.OffsetFetchRequest("readers", topics), version)
        assert fetched.error_code == ErrorCode.NONE
        found = [
            (topic.name, each.partition_index, each.committed_offset, each.metadata, each.error_code)
            for topic in fetched.topics
            for each in topic.partitions
        ]
        assert found == [
            (TOPIC, 1, -1, "", ErrorCode.NONE),
            (TOPIC, 0, 7, "note", ErrorCode.NONE),
            ("unknown", 0, -1, "", ErrorCode.NONE),
        ]
        assert fetched.topics[0].partitions[1].committed_leader_epoch == (4 if version >= 5 else -1)
        if version >= 2:
            everything = await client.ask(offsets.OffsetFetchRequest("readers", None), version)
            (topic,) = everything.topics
            assert [(each.partition_index, each.committed_offset) for each in topic.partitions] == [(0, 7)]
        listed = await client.ask(messages.ListGroupsRequest(), min(version, 2))
        assert [(each.group_id, each.protocol_type) for each in listed.groups] == [("readers", "")]
        described = await client.ask(messages.DescribeGroupsRequest(["readers"]), min(version, 4))
        assert described.groups[0].group_state == "Empty"
        # Null is an empty text.
        await client.ask(commit_request(alone, 8, None), 2)
        fetched = await client.ask(offsets.OffsetFetchRequest("readers", topics), version)
        assert fetched.topics[0].partitions[1].metadata == ""


@pytest.mark.long
@on_uvloop
async def test_not_all_large_groups_are_described_in_one_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as here, connected(here.port) as client:
        names = [f"group-{number}" for number in range(4)]
        for name in names:
            large = join_request()
            large.group_id, large.protocols = name, [messages.JoinGroupRequestProtocol("range", bytes(1_500_000))]
            joined = await client.ask(large, 0)
            await client.ask(messages.SyncGroupRequest(name, joined.generation_id, joined.member_id), 0)
        asked, rounds = names, 0
        while asked:
            described = (await client.ask(messages.DescribeGroupsRequest(asked), 4)).groups
            assert [each.group_id for each in described] == asked
            assert all(each.error_code or each.group_state == "Stable" for each in described)
            asked = [each.group_id for each in described if each.error_code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
            rounds += 1
        assert rounds == 2


@on_uvloop
async def test_commits_that_cannot_be_read_are_an_error_and_not_none(tmp_path: Path) -> None:
    state_dir = tmp_path / "file"
    state_dir.write_text("")
    async with serving(state_dir) as here, connected(here.port) as client:
        topics = [offsets.OffsetFetchRequestTopic(TOPIC, [0])]
        for version in range(1, 6):
            fetched = await client.ask(offsets.OffsetFetchRequest("readers", topics), version)
            expected = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            assert fetched.topics[0].partitions[0].error_code == expected
            assert fetched.error_code == (expected if version >= 2 else ErrorCode.NONE)
        committed = await client.ask(commit_request(messages.JoinGroupResponse(generation_id=-1), 7), 2)
        assert committed.topics[0].partitions[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


@on_uvloop
async def test_the_coordinator_is_this_node_and_only_for_groups(tmp_path: Path) -> None:
    async with serving(tmp_path) as here, connected(here.port) as client:
        for version in range(3):
            found = await client.ask(messages.FindCoordinatorRequest("readers", 0), version)
            assert (found.error_code, found.node_id, found.host, found.port) == (0, 0, "127.0.0.1", here.port)
        for version in (1, 2):
            found = await client.ask(messages.FindCoordinatorRequest("id", messages.KEY_OF_TRANSACTION), version)
            assert found.error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
            assert "read-only" in found.error_message
            found = await client.ask(messages.FindCoordinatorRequest("id", 2), version)
            assert found.error_code == ErrorCode.INVALID_REQUEST


@on_uvloop
async def test_a_connection_that_closes_while_it_waits_holds_nobody_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as here, connected(here.port) as client:
        async with connected(here.port) as gone:
            await gone.ask(messages.ListGroupsRequest(), 0)
            joining = asyncio.create_task(gone.ask(join_request(), 0))
            await here.until("PreparingRebalance", 1)
        joined = await join(client, 5)
        # Who is gone was no more waiting when the first rebalance began its generation.
        assert [each.member_id for each in joined.members] == [joined.member_id]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await joining
        await here.served.until_connected(1)


class Assigned(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    def __init__(self) -> None:
        self.partitions: set[int] = set()

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.partitions = set()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.partitions = {each.partition for each in assigned}


@asynccontextmanager
async def reading(port: int, **changes: object) -> AsyncIterator[tuple[AIOKafkaConsumer, Assigned]]:
    assigned = Assigned()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{port}",
        group_id="readers",
        enable_auto_commit=False,
        session_timeout_ms=3000,
        heartbeat_interval_ms=300,
        rebalance_timeout_ms=20_000,
        fetch_max_wait_ms=50,
        **changes,
    )
    consumer.subscribe([TOPIC], listener=assigned)
    await consumer.start()
    try:
        yield consumer, assigned
    finally:
        await consumer.stop()


async def until_assigned(assigned: Assigned, count: int) -> None:
    async with asyncio.timeout(60):
        while len(assigned.partitions) != count:
            await asyncio.sleep(0.02)


_OTHER_CONSUMER = f"""
import sys
from kafka import KafkaConsumer
consumer = KafkaConsumer(
    "{TOPIC}", bootstrap_servers="127.0.0.1:" + sys.argv[1], group_id="readers", enable_auto_commit=False,
    session_timeout_ms=3000, heartbeat_interval_ms=300, max_poll_interval_ms=20_000, fetch_max_wait_ms=50,
)
while True:
    consumer.poll(timeout_ms=100)
    print(len(consumer.assignment()), flush=True)
"""


@on_uvloop
async def test_two_clients_share_and_one_takes_over_when_the_other_is_killed(tmp_path: Path) -> None:
    async with serving(tmp_path) as here, reading(here.port) as (consumer, assigned):
        await until_assigned(assigned, PARTITIONS)
        with (tmp_path / "log").open("w") as log:
            other = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _OTHER_CONSUMER, str(here.port)], stdout=log
            )
            try:
                await until_assigned(assigned, 1)
                await here.until("Stable", 2)
            finally:
                other.kill()
                other.wait()
        await until_assigned(assigned, PARTITIONS)
        await here.until("Stable", 1)
        await consumer.commit({TopicPartition(TOPIC, 0): 123})
    # A graceful stop leaves the group.
    assert here.coordinator.protocol_types() == {}


@on_uvloop
async def test_what_a_client_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    for committed in (None, 10, 20):
        async with serving(tmp_path) as here, reading(here.port) as (consumer, assigned):
            await until_assigned(assigned, PARTITIONS)
            assert [await consumer.committed(place) for place in places] == [committed, committed]
            assert [await consumer.position(place) for place in places] == [committed or 0] * 2
            await consumer.commit(dict.fromkeys(places, (committed or 0) + 10))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@on_uvloop
async def test_a_client_that_authenticates(mechanism: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    line = "alice:secret" if mechanism == "PLAIN" else scram_line("alice", "secret", mechanism)
    path.write_text(line + "\n")
    path.chmod(0o600)
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism, "sasl_plain_username": "alice"}
    async with (
        serving(tmp_path / "state", Authenticator(load_users(path))) as here,
        reading(here.port, **login, sasl_plain_password="secret") as (_, assigned),
    ):
        await until_assigned(assigned, PARTITIONS)
        assert {client.user for client in here.served.server.clients} == {"alice"}


@on_uvloop
async def test_names_of_any_length_fit_an_answer(tmp_path: Path) -> None:
    longest = "\u00e9" * 16_383
    async with serving(tmp_path) as here, connected(here.port) as client:
        client.writer.write(request_frame(join_request(), 3, client_id=longest))
        joined = await client.answer(apis.APIS[apis.JOIN_GROUP], 3, 1)
        assert joined.error_code == ErrorCode.NONE
        assert joined.member_id.startswith("\u00e9" * 255 + "-")
        joined = await client.ask(join_request(instance=longest), 5)
        assert joined.error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.long
@on_uvloop
async def test_a_consumer_waits_for_commits_that_cannot_be_read_yet(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    async with serving(state_dir) as here, reading(here.port) as (consumer, assigned):
        await until_assigned(assigned, PARTITIONS)
        await consumer.commit({TopicPartition(TOPIC, 0): 10})
    away = tmp_path / "away"
    state_dir.rename(away)
    state_dir.write_text("")
    async with serving(state_dir) as here, reading(here.port) as (consumer, assigned):
        await until_assigned(assigned, PARTITIONS)
        asking = asyncio.create_task(consumer.committed(TopicPartition(TOPIC, 0)))
        assert (await asyncio.wait([asking], timeout=1.0))[1]
        state_dir.unlink()
        away.rename(state_dir)
        assert await asking == 10
