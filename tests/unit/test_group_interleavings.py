"""Consumer groups under random joins, syncs, leaves, closed connections and passing time: what always holds."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from takhin_tiered.kafka.coordinator import Coordinator
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.group import Group
from takhin_tiered.kafka.membership import GroupLimits, Join, Joined, Leaving, Protocol, State, Sync, Synced
from tests.virtual_time import run

_CLIENTS = 5
_LONGEST = 2000.0
_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["join", "sync", "heartbeat", "leave", "close connection", "restart", "wait", "settle"]),
        st.integers(0, _CLIENTS - 1),
        st.sampled_from([0.1, 1.0, 7.0, 70.0]),
    ),
    max_size=60,
)
Leaders = dict[tuple[int, frozenset[str]], set[str]]
"""By generation and its members: a group that is forgotten counts its generations anew."""


class Client:
    """The last two are static members. The first two are told their IDs before they join."""

    def __init__(self, number: int, coordinator: Coordinator) -> None:
        self.number, self.coordinator = number, coordinator
        self.instance = f"instance-{number}" if number >= _CLIENTS - 2 else None
        self.joined, self.assignment = Joined(ErrorCode.NONE), b""
        self.versions = 0

    async def join(self, led: Leaders) -> None:
        self.versions += 1
        metadata = f"{self.versions // 3}".encode()
        protocols = (Protocol("range", metadata), Protocol("sticky", metadata))[:: 1 if self.number % 2 else -1]
        member, is_told = self.joined.member, self.number < 2
        asked = Join("g", member, self.instance, "c", "h", 10.0, 30.0, "consumer", protocols, needs_member_id=is_told)
        answer = await self.coordinator.join(asked)
        if answer.error is ErrorCode.NONE:
            if answer.members:
                assert answer.leader == answer.member
                generation = (answer.generation, frozenset(each.member for each in answer.members))
                led.setdefault(generation, set()).add(answer.member)
            self.joined = answer
        elif answer.error is ErrorCode.MEMBER_ID_REQUIRED:
            self.joined = answer
        elif answer.error in {ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID}:
            self.joined = Joined(ErrorCode.NONE)

    async def settle(self, led: Leaders) -> None:
        for _ in range(3):
            await self.join(led)
            await self.sync()

    async def sync(self) -> None:
        joined = self.joined
        given = {each.member: f"{joined.generation} {each.member}".encode() for each in joined.members}
        answer = await self.coordinator.sync(Sync("g", joined.generation, joined.member, self.instance, given))
        assert isinstance(answer, Synced)
        if answer.error is ErrorCode.NONE and self.instance is None:
            assert answer.assignment == f"{joined.generation} {joined.member}".encode()


def check(coordinator: Coordinator, before: tuple[Group | None, int]) -> tuple[Group | None, int]:
    group = coordinator._groups.get("g")
    if group is None:
        assert coordinator._budget.used == 0
        return None, 0
    if group is before[0]:
        assert group.generation >= before[1]
    members = group.members
    assert group.state is not State.DEAD
    assert (group.state is State.EMPTY) == (not members) or group._pending
    costs = sum(each.cost + len(each.assignment) for each in members.values()) + 1024 * len(group._pending)
    assert coordinator._budget.used == costs
    assert group._static == {each.instance: each.id for each in members.values() if each.instance is not None}
    assert all(each.id == name for name, each in members.items())
    assert group.leader in members or not members
    if group.state is State.STABLE:
        assert all(each.assignment for each in members.values())
        assert not any(each.is_waiting for each in members.values())
        assert group.protocol in {"range", "sticky"}
    if group.state is State.COMPLETING_REBALANCE:
        assert not any(each.is_joining for each in members.values())
        # The assignments are there as soon as the leader has sent them.
        assert group.leader in group._unsynced
    if group.state is State.PREPARING_REBALANCE:
        assert group._timer is not None
        assert all(each.syncing is None or each.syncing.done() for each in members.values())
    return group, group.generation


async def scenario(actions: list[tuple[str, int, float]]) -> None:
    coordinator = Coordinator(GroupLimits(new_member_timeout=60.0))
    clients = [Client(number, coordinator) for number in range(_CLIENTS)]
    led: Leaders = {}
    running: list[tuple[int, asyncio.Task[Any]]] = []
    known: tuple[Group | None, int] = (None, 0)
    for action, number, seconds in actions:
        client = clients[number]
        joined = client.joined
        match action:
            case "join":
                running.append((number, asyncio.create_task(client.join(led))))
            case "sync":
                running.append((number, asyncio.create_task(client.sync())))
            case "heartbeat":
                coordinator.heartbeat("g", joined.generation, joined.member, client.instance)
            case "leave":
                coordinator.leave("g", [Leaving(joined.member, client.instance)])
            case "close connection":
                for owner, task in running:
                    if owner == number:
                        task.cancel()
            case "restart":
                client.joined = Joined(ErrorCode.NONE)
            case "settle":
                # All that are alive do as they should, as far as it goes at once.
                for owner, each in enumerate(clients[: number + 1]):
                    running.append((owner, asyncio.create_task(each.settle(led))))
            case "wait":
                await asyncio.sleep(seconds)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        known = check(coordinator, known)
    # Nobody sends anything any more: all are answered, and all sessions end.
    await asyncio.sleep(_LONGEST)
    results = await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    assert [each for each in results if isinstance(each, Exception)] == []
    assert coordinator.protocol_types() == {}
    assert coordinator._budget.used == 0
    assert all(len(leaders) == 1 for leaders in led.values())


@settings(max_examples=150, deadline=None)
@given(_ACTIONS)
def test_whatever_members_do_nobody_waits_for_ever(actions: list[tuple[str, int, float]]) -> None:
    run(scenario(actions))
