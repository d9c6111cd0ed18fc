"""Consumer groups: the same conversation with a real broker and with the endpoint's coordinator, word for word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import uvloop
from confluent_kafka.admin import AdminClient, NewTopic

from takhin_tiered.engine.clock import Clock
from takhin_tiered.kafka.commits import open_commits
from takhin_tiered.kafka.coordinator import Coordinator
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.groups import group_handlers
from takhin_tiered.kafka.membership import GroupLimits
from takhin_tiered.kafka.messages import commits as offsets
from takhin_tiered.kafka.messages import groups as messages
from takhin_tiered.kafka.node import Address
from tests.kafka.broker import Kafka
from tests.kafka_wire import WireClient, connected, served

TOPIC, GROUP = "orders", "readers"
_NOT_YET = {
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_COORDINATOR,
}

_heard: ContextVar[list[str]] = ContextVar("heard")
"""Where a request that waits for others has its answer noted: when others are answered too, the order is chance."""


def subscription(words: str) -> bytes:
    """A consumer's metadata: a broker reads which topics it names. The words are the assignor's own."""
    name, data = TOPIC.encode(), words.encode()
    return b"\0\0\0\0\0\1" + len(name).to_bytes(2, "big") + name + len(data).to_bytes(4, "big") + data


class Talk:
    """All that was said, with a name in place of each member ID."""

    def __init__(self, port: int, stack: AsyncExitStack) -> None:
        self._port, self._stack = port, stack
        self.lines: list[str] = []
        self._names: dict[str, str] = {}

    async def enter(self, name: str, instance: str | None = None) -> Person:
        client = await self._stack.enter_async_context(connected(self._port))
        return Person(self, name, client, instance)

    def note(self, *words: object) -> None:
        _heard.get(self.lines).append(" ".join(map(str, words)))

    def call(self, member: str, name: str) -> None:
        if member and member not in self._names:
            number = sum(known.startswith(name) for known in self._names.values())
            self._names[member] = f"{name}{number or ''}"

    def name(self, member: str) -> str:
        # A static member may be told of before its own answer is there.
        return "static" if member.startswith("static-") else self._names.get(member, member)


class Person:
    """A member by its own connection; what it does is noted when the answer is there."""

    def __init__(self, talk: Talk, name: str, client: WireClient, instance: str | None) -> None:
        self.talk, self.name, self.client, self.instance = talk, name, client, instance
        self.member, self.generation = "", -1
        self.known: list[str] = []

    def note(self, *words: object) -> None:
        self.talk.note(self.name, *words)

    async def join(self, *protocols: tuple[str, str], **changes: Any) -> None:
        supported = [
            messages.JoinGroupRequestProtocol(name, subscription(words))
            for name, words in protocols or (("range", "of all"),)
        ]
        asked = messages.JoinGroupRequest(GROUP, 30_000, 60_000, self.member, self.instance, "consumer", supported)
        for name, value in changes.items():
            setattr(asked, name, value)
        answer = await self.client.ask(asked, 5)
        self.talk.call(answer.member_id, self.name)
        self.known = [each.member_id for each in answer.members]
        if answer.error_code == ErrorCode.NONE:
            self.member, self.generation = answer.member_id, answer.generation_id
        if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member = answer.member_id
        members = sorted((self.talk.name(each.member_id), each.metadata) for each in answer.members)
        leader, member = self.talk.name(answer.leader), self.talk.name(answer.member_id)
        self.note("joined", answer.error_code, answer.generation_id, answer.protocol_name, leader, member, members)

    async def sync(self, generation: int | None = None) -> None:
        given = [
            messages.SyncGroupRequestAssignment(member, f"for {self.talk.name(member)}".encode())
            for member in self.known
        ]
        current = self.generation if generation is None else generation
        answer = await self.client.ask(messages.SyncGroupRequest(GROUP, current, self.member, self.instance, given), 3)
        self.note("synced", answer.error_code, answer.assignment)

    async def beat(self, generation: int | None = None, **changes: Any) -> None:
        current = self.generation if generation is None else generation
        asked = messages.HeartbeatRequest(GROUP, current, self.member, self.instance)
        for name, value in changes.items():
            setattr(asked, name, value)
        self.note("beats", (await self.client.ask(asked, 3)).error_code)

    async def leave(self, *members: tuple[str, str | None], group: str = GROUP) -> None:
        leaving = [messages.MemberIdentity(*each) for each in members or ((self.member, self.instance),)]
        answer = await self.client.ask(messages.LeaveGroupRequest(group, members=leaving), 3)
        self.note("left", answer.error_code, [each.error_code for each in answer.members])

    async def commit(self, offset: int, **changes: Any) -> None:
        partitions = [
            offsets.OffsetCommitRequestPartition(0, offset, -1, "note"),
            offsets.OffsetCommitRequestPartition(1, offset, -1, None),
        ]
        topics = [offsets.OffsetCommitRequestTopic(TOPIC, partitions)]
        asked = offsets.OffsetCommitRequest(GROUP, self.generation, self.member, self.instance, -1, topics)
        for name, value in changes.items():
            setattr(asked, name, value)
        answer = await self.client.ask(asked, 7)
        self.note("committed", [each.error_code for topic in answer.topics for each in topic.partitions])

    async def fetch(self, *topics: tuple[str, list[int]]) -> None:
        wanted = [offsets.OffsetFetchRequestTopic(*each) for each in topics] if topics else None
        answer = await self.client.ask(offsets.OffsetFetchRequest(GROUP, wanted), 5)
        found = sorted(
            (topic.name, each.partition_index, each.committed_offset, each.metadata, each.error_code)
            for topic in answer.topics
            for each in topic.partitions
        )
        self.note("fetched", answer.error_code, found)

    async def describe(self, *groups: str) -> None:
        answer = await self.client.ask(messages.DescribeGroupsRequest(list(groups)), 4)
        for each in answer.groups:
            members = sorted(
                (self.talk.name(member.member_id), member.group_instance_id, member.client_id, member.client_host,
                 member.member_metadata, member.member_assignment if each.group_state == "Stable" else b"")
                for member in each.members
            )  # fmt: skip
            # A broker keeps the type of a group that is empty now, and 4.1 what was assigned before.
            kind = each.protocol_type if members else ""
            self.note("described", each.error_code, each.group_id, each.group_state, kind, each.protocol_data, members)

    async def begin(self, what: Coroutine[Any, Any, None]) -> Callable[[], Coroutine[Any, Any, None]]:
        """A request that has to wait for others. Its answer is noted where the result is awaited."""
        noted: list[str] = []

        async def ask() -> None:
            _heard.set(noted)
            await what

        task = asyncio.create_task(ask())
        await asyncio.sleep(0)

        async def answer() -> None:
            await task
            self.talk.lines += noted

        return answer


async def until_rebalancing(person: Person) -> None:
    """What somebody else began has arrived. The last of the answers is noted."""
    async with asyncio.timeout(30):
        while True:
            await person.beat()
            if person.talk.lines[-1] == f"{person.name} beats {int(ErrorCode.REBALANCE_IN_PROGRESS)}":
                return
            person.talk.lines.pop()
            await asyncio.sleep(0.02)


async def conversation(port: int) -> list[str]:
    async with AsyncExitStack() as stack:
        talk = Talk(port, stack)
        anna, bert, carl = [await talk.enter(name) for name in ("anna", "bert", "carl")]
        async with asyncio.timeout(60):
            while (await anna.client.ask(messages.FindCoordinatorRequest(GROUP), 1)).error_code in _NOT_YET:
                await asyncio.sleep(0.1)
            while True:
                await anna.join(member_id="")
                if anna.member:
                    break
                talk.lines.clear()
                await asyncio.sleep(0.1)
        # Alone.
        await anna.join()
        await anna.beat()
        await anna.commit(1)
        await anna.sync()
        await anna.beat()
        await anna.commit(2)
        await anna.commit(3, generation_id_or_member_epoch=7)
        await anna.commit(3, generation_id_or_member_epoch=-1, member_id="")
        await anna.commit(3, member_id="nobody")
        await anna.beat(0)
        await anna.beat(member_id="nobody")
        await anna.beat(group_id="")
        await anna.beat(group_id="unknown")
        await anna.beat(group_instance_id="unknown")
        await anna.sync(9)
        await anna.describe(GROUP, "unknown")
        # What no group takes.
        await bert.join(protocol_type="other")
        await bert.join(("unknown", ""))
        await bert.join(session_timeout_ms=1 << 30)
        await bert.join(group_id="")
        await bert.join(member_id="nobody")
        await bert.join(member_id="nobody", group_id="unknown")
        # A second member.
        await bert.join()
        bert_joins = await bert.begin(bert.join(("range", "b"), ("sticky", "bs")))
        await until_rebalancing(anna)
        await anna.commit(4)
        await anna.sync()
        await anna.join()
        await bert_joins()
        await anna.beat()
        await bert.commit(5)
        await bert.describe(GROUP)
        bert_syncs = await bert.begin(bert.sync())
        await anna.sync()
        await bert_syncs()
        await bert.beat()
        await bert.describe(GROUP)
        await bert.commit(6)
        # Joining again: a follower, whose answer may have been lost, and the leader.
        await bert.join(("range", "b"), ("sticky", "bs"))
        await bert.sync()
        anna_joins = await anna.begin(anna.join())
        await until_rebalancing(bert)
        await bert.join(("range", "b"), ("sticky", "bs"))
        await anna_joins()
        await anna.join()
        await bert.join(("range", "b"), ("sticky", "bs"))
        # A follower with other metadata, while an assignment is waited for.
        anna.known, known = [], anna.known
        bert_joins = await bert.begin(bert.join(("range", "other")))
        await until_rebalancing(anna)
        await anna.sync()
        await anna.join()
        await bert_joins()
        assert len(anna.known) == len(known) == 2
        await anna.sync()
        await bert.sync()
        # Static members.
        carl.instance = "static"
        carl_joins = await carl.begin(carl.join())
        await until_rebalancing(anna)
        anna_joins = await anna.begin(anna.join())
        await bert.join(("range", "other"))
        await anna_joins()
        await carl_joins()
        await anna.sync()
        await bert.sync()
        await carl.sync()
        again = await talk.enter("again", "static")
        await again.join()
        await again.sync()
        await again.beat()
        await carl.beat()
        await carl.sync()
        await carl.commit(7)
        await carl.join()
        await carl.leave()
        await again.commit(8)
        await again.describe(GROUP)
        # Leaving.
        await again.leave(("", "static"), ("", "unknown"), ("nobody", None))
        await again.beat()
        await until_rebalancing(anna)
        await bert.leave()
        await bert.beat()
        await anna.join()
        await anna.sync()
        await anna.leave(group="")
        await anna.leave()
        await anna.leave()
        await anna.describe(GROUP)
        # Committed offsets.
        await anna.fetch()
        await anna.fetch((TOPIC, [1, 0, 9]), ("unknown", [0]))
        await anna.commit(9, generation_id_or_member_epoch=-1, member_id="")
        await anna.commit(10, generation_id_or_member_epoch=-1, member_id="", group_id="")
        await anna.commit(11, generation_id_or_member_epoch=3, group_id="never seen")
        await anna.fetch((TOPIC, [0, 1]))
        listed = await anna.client.ask(messages.ListGroupsRequest(), 2)
        talk.note(sorted(each.group_id for each in listed.groups))
        return talk.lines


@asynccontextmanager
async def endpoint(state_dir: Path) -> AsyncIterator[int]:
    async def incarnation_of(topic: str, partition: int) -> tuple[str, ...]:
        return ("~0",) if topic == TOPIC and 0 <= partition < 2 else ()

    coordinator = Coordinator(GroupLimits(initial_delay=0.0))
    async with open_commits(state_dir, incarnation_of, Clock()) as commits:
        handlers = group_handlers(coordinator, commits, lambda client: Address(*client.local))
        async with served(handlers) as here:
            yield here.port
        coordinator.close()


async def conversation_with_endpoint(state_dir: Path) -> list[str]:
    async with endpoint(state_dir) as port:
        return await conversation(port)


def test_groups_like_a_broker(kafka: Kafka, tmp_path: Path) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(30)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        theirs = runner.run(conversation(int(kafka.bootstrap.rpartition(":")[2])))
        ours = runner.run(conversation_with_endpoint(tmp_path / "state"))
    assert ours == theirs
    assert len(ours) > 80
