"""Consumer groups, in virtual time: each timeout is as long as in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import pytest

from takhin_tiered.kafka.coordinator import Coordinator
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.membership import GroupLimits, Join, Joined, Leaving, Protocol, State, Sync, Synced
from tests.virtual_time import run

SESSION, REBALANCE = 10.0, 60.0


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def in_virtual_time(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


def request(name: str = "consumer", **changes: Any) -> Join:
    asked = Join(
        "readers", "", None, name, "/127.0.0.1", SESSION, REBALANCE, "consumer", (Protocol("range", b"orders"),)
    )
    return replace(asked, **changes)


@dataclass
class Consumer:
    """A client: as a leader it gives each member a part that names the generation and the member."""

    coordinator: Coordinator
    name: str = "consumer"
    instance: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    joined: Joined = field(default_factory=lambda: Joined(ErrorCode.NONE))

    async def join(self, **changes: Any) -> Joined:
        known = {"member": self.joined.member, "instance": self.instance}
        asked = request(self.name, **{**known, **self.changes, **changes})
        self.joined = await self.coordinator.join(asked)
        return self.joined

    async def sync(self, **changes: Any) -> Synced:
        joined = self.joined
        parts = {each.member: f"{joined.generation} {each.member}".encode() for each in joined.members}
        asked = Sync("readers", joined.generation, joined.member, self.instance, parts)
        return await self.coordinator.sync(replace(asked, **changes))

    async def enter(self) -> bytes:
        """Join, as often as told to, and sync."""
        while True:
            answer = await self.join()
            if answer.error is ErrorCode.UNKNOWN_MEMBER_ID:
                self.joined = Joined(ErrorCode.NONE)
            if answer.error in {
                ErrorCode.UNKNOWN_MEMBER_ID,
                ErrorCode.MEMBER_ID_REQUIRED,
                ErrorCode.REBALANCE_IN_PROGRESS,
            }:
                continue
            assert answer.error is ErrorCode.NONE
            synced = await self.sync()
            if synced.error is ErrorCode.NONE:
                return synced.assignment
            assert synced.error is ErrorCode.REBALANCE_IN_PROGRESS

    def heartbeat(self) -> ErrorCode:
        joined = self.joined
        return self.coordinator.heartbeat("readers", joined.generation, joined.member, self.instance)

    async def stay(self) -> None:
        """Heartbeats until the group rebalances."""
        while self.heartbeat() is ErrorCode.NONE:
            await asyncio.sleep(SESSION / 3)

    def leave(self) -> ErrorCode:
        return self.coordinator.leave("readers", [Leaving(self.joined.member, self.instance)])[0]

    def part(self) -> bytes:
        return f"{self.joined.generation} {self.joined.member}".encode()


async def all_in(*entering: Awaitable[bytes]) -> list[bytes]:
    return list(await asyncio.gather(*entering))


async def together(coordinator: Coordinator, count: int = 2, **changes: Any) -> list[Consumer]:
    """Members of one stable generation, the leader first."""
    consumers = [Consumer(coordinator, f"consumer-{number}", changes=changes) for number in range(count)]
    parts = await asyncio.gather(*(each.enter() for each in consumers))
    assert parts == [each.part() for each in consumers]
    assert len({each.joined.generation for each in consumers}) == 1
    consumers.sort(key=lambda each: each.joined.leader != each.joined.member)
    return consumers


@virtual
async def test_a_member_alone_joins_syncs_and_leaves() -> None:
    coordinator = Coordinator()
    consumer = Consumer(coordinator)
    joined = await consumer.join()
    assert joined.member == joined.leader
    assert joined.member.startswith("consumer-")
    assert (joined.generation, joined.protocol) == (1, "range")
    assert [(each.member, each.metadata) for each in joined.members] == [(joined.member, b"orders")]
    assert now() == pytest.approx(GroupLimits().initial_delay)
    assert coordinator.describe("readers").state is State.COMPLETING_REBALANCE
    assert (await consumer.sync()).assignment == consumer.part()
    assert consumer.heartbeat() is ErrorCode.NONE
    view = coordinator.describe("readers")
    assert (view.state, view.protocol_type, view.protocol) == (State.STABLE, "consumer", "range")
    assert [(each.client_host, each.metadata, each.assignment) for each in view.members] == [
        ("/127.0.0.1", b"orders", consumer.part())
    ]
    assert consumer.leave() is ErrorCode.NONE
    assert consumer.leave() is ErrorCode.UNKNOWN_MEMBER_ID
    assert coordinator.describe("readers").state is State.DEAD
    assert coordinator.protocol_types() == {}
    assert coordinator._budget.used == 0


@virtual
async def test_a_new_member_is_told_its_id_first() -> None:
    coordinator = Coordinator()
    consumer = Consumer(coordinator, changes={"needs_member_id": True})
    told = await consumer.join()
    assert (told.error, told.generation) == (ErrorCode.MEMBER_ID_REQUIRED, -1)
    assert (await consumer.join()).member == told.member
    # One that never comes back is forgotten, and nobody waits for it for longer than its session.
    lost = await Consumer(coordinator, changes={"needs_member_id": True}).join()
    rejoining = asyncio.create_task(consumer.join(protocols=(Protocol("range", b"more"),)))
    began = now()
    await rejoining
    assert SESSION - 1 <= now() - began <= SESSION
    assert (await Consumer(coordinator, joined=lost).join()).error is ErrorCode.UNKNOWN_MEMBER_ID


@virtual
async def test_those_who_come_while_the_first_rebalance_waits_are_of_one_generation() -> None:
    coordinator = Coordinator()

    async def late(seconds: float) -> int:
        await asyncio.sleep(seconds)
        consumer = Consumer(coordinator)
        await consumer.enter()
        return consumer.joined.generation

    assert await asyncio.gather(*map(late, (0, 0.3, 0.6, 1.1))) == [1, 1, 1, 1]


@virtual
async def test_one_dies_and_the_other_takes_over() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    began = now()
    # The leader sends no heartbeat any more.
    await other.stay()
    assert SESSION <= now() - began <= 2 * SESSION
    assert other.heartbeat() is ErrorCode.REBALANCE_IN_PROGRESS
    assert await other.enter() == other.part()
    assert (other.joined.leader, other.joined.generation) == (other.joined.member, 2)
    assert [each.member for each in other.joined.members] == [other.joined.member]
    assert leader.heartbeat() is ErrorCode.UNKNOWN_MEMBER_ID


@virtual
async def test_a_third_one_makes_the_others_join_again() -> None:
    coordinator = Coordinator()
    first, second = await together(coordinator)
    third = Consumer(coordinator)

    async def again(consumer: Consumer) -> bytes:
        await consumer.stay()
        return await consumer.enter()

    parts = await all_in(again(first), again(second), third.enter())
    assert parts == [first.part(), second.part(), third.part()]
    assert {each.joined.generation for each in (first, second, third)} == {2}
    # The leader stays the leader.
    assert third.joined.leader == first.joined.member


@virtual
async def test_the_slow_one_is_removed_when_the_rebalance_times_out() -> None:
    coordinator = Coordinator()
    leader, slow = await together(coordinator)
    rejoining = asyncio.create_task(leader.enter())
    began = now()
    # It is alive, but does not join again.
    while slow.heartbeat() is ErrorCode.REBALANCE_IN_PROGRESS or not rejoining.done():
        await asyncio.sleep(SESSION / 3)
    assert REBALANCE <= now() - began <= REBALANCE + SESSION
    assert await rejoining == leader.part()
    assert slow.heartbeat() is ErrorCode.UNKNOWN_MEMBER_ID


@virtual
async def test_a_new_leader_when_the_leader_leaves() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    assert leader.leave() is ErrorCode.NONE
    await other.stay()
    await other.enter()
    assert other.joined.leader == other.joined.member


@virtual
async def test_those_who_wait_for_a_leader_that_died_join_again() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    joining = asyncio.gather(leader.join(), other.join())
    await joining
    # The leader does not sync, and sends no heartbeat.
    assert (await other.sync()).error is ErrorCode.REBALANCE_IN_PROGRESS
    assert leader.heartbeat() is ErrorCode.UNKNOWN_MEMBER_ID
    assert await other.enter() == other.part()


@virtual
async def test_a_member_that_never_asks_for_its_assignment_is_removed() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    await asyncio.gather(leader.join(), other.join())
    assert (await leader.sync()).error is ErrorCode.NONE
    generation, began = leader.joined.generation, now()
    while other.heartbeat() is ErrorCode.NONE:
        leader.heartbeat()
        await asyncio.sleep(1)
    assert REBALANCE <= now() - began <= REBALANCE + 2
    assert other.heartbeat() is ErrorCode.UNKNOWN_MEMBER_ID
    assert await leader.enter() == leader.part()
    assert leader.joined.generation == generation + 1


@virtual
async def test_a_static_member_returns_within_its_session_without_a_rebalance() -> None:
    coordinator = Coordinator()
    consumers = [Consumer(coordinator, instance=f"instance-{number}") for number in range(2)]
    await asyncio.gather(*(each.enter() for each in consumers))
    leader, other = sorted(consumers, key=lambda each: each.joined.leader != each.joined.member)
    for old in (other, leader):
        new = Consumer(coordinator, instance=old.instance)
        began = now()
        joined = await new.join()
        assert now() == began
        assert joined.member != old.joined.member
        assert (joined.generation, joined.members) == (1, ())
        # Also the leader is not told to assign.
        assert joined.leader == leader.joined.member
        assert (await new.sync()).assignment == old.part()
        assert new.heartbeat() is ErrorCode.NONE
        assert old.heartbeat() is ErrorCode.FENCED_INSTANCE_ID
        assert (await old.sync()).error is ErrorCode.FENCED_INSTANCE_ID
        assert (await old.join()).error is ErrorCode.FENCED_INSTANCE_ID
        assert coordinator.may_commit("readers", 1, old.joined.member, old.instance) is ErrorCode.FENCED_INSTANCE_ID
        assert old.leave() is ErrorCode.FENCED_INSTANCE_ID
    assert coordinator.describe("readers").state is State.STABLE


@virtual
async def test_a_static_member_that_stays_away_loses_its_place() -> None:
    coordinator = Coordinator()
    gone = Consumer(coordinator, instance="gone")
    other = Consumer(coordinator)
    await asyncio.gather(gone.enter(), other.enter())
    await other.stay()
    assert await other.enter() == other.part()
    assert [each.instance for each in coordinator.describe("readers").members] == [None]
    # An administrator removes by instance alone; there is none any more.
    assert coordinator.leave("readers", [Leaving("", "gone")]) == [ErrorCode.UNKNOWN_MEMBER_ID]
    back = Consumer(coordinator, instance="gone")
    entering = asyncio.create_task(back.enter())
    await other.stay()
    await asyncio.gather(entering, other.enter())
    assert coordinator.leave("readers", [Leaving("", "gone"), Leaving("unknown")]) == [
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
    ]


@virtual
async def test_a_static_member_that_is_away_keeps_its_place_through_a_rebalance() -> None:
    coordinator = Coordinator()
    away = Consumer(coordinator, instance="away", changes={"session_timeout": 1000.0})
    other = Consumer(coordinator)
    await asyncio.gather(away.enter(), other.enter())
    # It does not join again, and the rebalance waits for it as long as for any.
    other.changes["protocols"] = (Protocol("range", b"more"),)
    assert await other.enter() == other.part()
    assert {each.instance for each in other.joined.members} == {"away", None}
    back = Consumer(coordinator, instance="away")
    joined = await back.join()
    assert joined.generation == other.joined.generation == 2
    # What was assigned to its old ID.
    assert (await back.sync()).assignment == f"2 {away.joined.member}".encode()


@virtual
async def test_a_static_member_that_returns_before_the_assignment_makes_all_join_again() -> None:
    coordinator = Coordinator()
    static = Consumer(coordinator, instance="static")
    other = Consumer(coordinator)
    await asyncio.gather(static.join(), other.join())
    back = Consumer(coordinator, instance="static")
    entering = asyncio.create_task(back.enter())
    await asyncio.sleep(0)
    syncing = [each for each in (other,) if each.heartbeat() is ErrorCode.REBALANCE_IN_PROGRESS]
    assert syncing == [other]
    assert await all_in(entering, other.enter()) == [back.part(), other.part()]


@virtual
async def test_a_static_member_takes_over_from_one_that_still_waits() -> None:
    coordinator = Coordinator()
    first = asyncio.create_task(Consumer(coordinator, instance="same").join())
    await asyncio.sleep(0)
    second = Consumer(coordinator, instance="same")
    assert await second.enter() == second.part()
    assert (await first).error is ErrorCode.FENCED_INSTANCE_ID


@virtual
async def test_the_strategy_that_most_prefer_of_those_that_all_support() -> None:
    coordinator = Coordinator()
    range_, sticky, own = (Protocol(name, name.encode()) for name in ("range", "sticky", "own"))
    consumers = [
        Consumer(coordinator, changes={"protocols": protocols})
        for protocols in ((own, range_, sticky), (sticky, range_), (sticky, range_), (range_, sticky))
    ]
    await asyncio.gather(*(each.join() for each in consumers))
    # "own" is supported by one only: its next choice counts.
    assert {each.joined.protocol for each in consumers} <= {"range", "sticky"}
    leader = next(each for each in consumers if each.joined.members)
    assert {each.metadata for each in leader.joined.members} == {leader.joined.protocol.encode()}
    for changes in ({"protocols": (own,)}, {"protocol_type": "connect"}, {"protocols": ()}, {"protocol_type": ""}):
        assert (await Consumer(coordinator, changes=changes).join()).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    other = {"group": "others", "protocols": ()}
    assert (await Consumer(coordinator, changes=other).join()).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert "others" not in coordinator.protocol_types()


@virtual
async def test_the_majority_decides() -> None:
    coordinator = Coordinator()
    range_, sticky = Protocol("range", b""), Protocol("sticky", b"")
    consumers = await together(coordinator, 3, protocols=(sticky, range_))
    assert {each.joined.protocol for each in consumers} == {"sticky"}
    for each in consumers[:2]:
        each.changes["protocols"] = (range_, sticky)
    await asyncio.gather(*(each.enter() for each in consumers))
    assert {each.joined.protocol for each in consumers} == {"range"}


@virtual
async def test_requests_that_fit_no_group() -> None:
    coordinator = Coordinator()
    for session in (0.9, 1801.0, -1.0):
        assert (await Consumer(coordinator).join(session_timeout=session)).error is ErrorCode.INVALID_SESSION_TIMEOUT
    for group in ("", "x" * 2000):
        assert (await Consumer(coordinator).join(group=group)).error is ErrorCode.INVALID_GROUP_ID
    assert (await Consumer(coordinator).join(member="consumer-1")).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert (await coordinator.sync(Sync("", 1, "x", None))).error is ErrorCode.INVALID_GROUP_ID
    assert (await coordinator.sync(Sync("readers", 1, "x", None))).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert coordinator.heartbeat("", 1, "x") is ErrorCode.INVALID_GROUP_ID
    assert coordinator.leave("", [Leaving("x")]) == [ErrorCode.INVALID_GROUP_ID]
    consumer = Consumer(coordinator)
    await consumer.enter()
    for generation in (0, 2, -1):
        assert coordinator.heartbeat("readers", generation, consumer.joined.member) is ErrorCode.ILLEGAL_GENERATION
        assert (await consumer.sync(generation=generation)).error is ErrorCode.ILLEGAL_GENERATION
    assert (
        coordinator.heartbeat("readers", 1, consumer.joined.member, "unknown instance") is ErrorCode.UNKNOWN_MEMBER_ID
    )
    assert (await Consumer(coordinator).join(member="unknown")).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert (await consumer.join(instance="unknown")).error is ErrorCode.UNKNOWN_MEMBER_ID


@virtual
async def test_who_may_commit() -> None:
    coordinator = Coordinator()
    # A consumer that uses no group management.
    assert coordinator.may_commit("readers", -1, "") is ErrorCode.NONE
    assert coordinator.may_commit("readers", 1, "consumer-1") is ErrorCode.ILLEGAL_GENERATION
    leader, other = await together(coordinator)
    member = leader.joined.member
    assert coordinator.may_commit("readers", -1, "") is ErrorCode.UNKNOWN_MEMBER_ID
    assert coordinator.may_commit("readers", 1, member) is ErrorCode.NONE
    assert coordinator.may_commit("readers", 2, member) is ErrorCode.ILLEGAL_GENERATION
    joining = [asyncio.create_task(leader.join())]
    await asyncio.sleep(0)
    assert coordinator.describe("readers").state is State.PREPARING_REBALANCE
    assert coordinator.may_commit("readers", 1, other.joined.member) is ErrorCode.NONE
    await asyncio.gather(*joining, other.join())
    assert coordinator.may_commit("readers", 2, member) is ErrorCode.REBALANCE_IN_PROGRESS
    coordinator.close()
    assert coordinator.may_commit("readers", -1, "") is ErrorCode.NOT_COORDINATOR


@virtual
async def test_an_answer_that_was_lost_is_given_again() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    await asyncio.gather(leader.join(), other.join())
    for each in (leader, other):
        before = each.joined
        assert await each.join() == before
    await asyncio.gather(leader.sync(), other.sync())
    assert (await other.sync()).assignment == other.part()
    # A follower of a stable group too; but a leader wants to assign anew.
    assert (await other.join()).generation == 2
    assert coordinator.describe("readers").state is State.STABLE
    again = asyncio.create_task(leader.enter())
    await other.stay()
    assert await all_in(again, other.enter()) == [leader.part(), other.part()]
    assert leader.joined.generation == 3


@virtual
async def test_of_two_requests_of_one_member_the_later_one_is_answered() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    earlier = asyncio.create_task(coordinator.join(request(member=leader.joined.member)))
    await asyncio.sleep(0)
    later = asyncio.create_task(leader.join())
    assert (await earlier).error is ErrorCode.REBALANCE_IN_PROGRESS
    await asyncio.gather(later, other.join())
    syncing = [asyncio.create_task(other.sync()) for _ in range(2)]
    await asyncio.sleep(0)
    await leader.sync()
    first, second = await asyncio.gather(*syncing)
    assert (first.error, second.assignment) == (ErrorCode.REBALANCE_IN_PROGRESS, other.part())


@virtual
async def test_a_connection_that_closes_leaves_no_waiting_request() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    gone = Consumer(coordinator)
    joining = asyncio.create_task(gone.join())
    rejoining = asyncio.create_task(other.enter())
    await asyncio.sleep(1)
    joining.cancel()
    began = now()
    assert await all_in(leader.enter(), rejoining) == [leader.part(), other.part()]
    # Its session ends as that of any other.
    assert now() - began <= 2 * SESSION
    assert len(coordinator.describe("readers").members) == 2


@virtual
async def test_a_new_member_whose_client_is_gone_unnoticed_is_given_up() -> None:
    coordinator = Coordinator()
    consumer = Consumer(coordinator, changes={"rebalance_timeout": 10_000.0})
    await consumer.enter()
    joining = asyncio.create_task(Consumer(coordinator).join())
    while not joining.done():
        consumer.heartbeat()
        await asyncio.sleep(1)
    assert (await joining).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert now() == pytest.approx(GroupLimits().new_member_timeout, abs=2 * SESSION)


@virtual
async def test_groups_members_and_bytes_are_bounded() -> None:
    coordinator = Coordinator(GroupLimits(groups=2, members=3, bytes=100_000))
    consumers = await together(coordinator, 3)
    assert (await Consumer(coordinator).join()).error is ErrorCode.GROUP_MAX_SIZE_REACHED
    second = Consumer(coordinator, changes={"group": "second"})
    assert (await second.join()).error is ErrorCode.NONE
    assert (await Consumer(coordinator).join(group="third")).error is ErrorCode.GROUP_MAX_SIZE_REACHED
    large = (Protocol("range", bytes(100_000)),)
    refused = await Consumer(coordinator).join(group="second", protocols=large)
    assert refused.error is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert (await second.join(protocols=large)).error is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert (await second.join(protocols=(Protocol("range", b""),) * 101)).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    # An assignment that does not fit: all are told, and the group goes on.
    await asyncio.gather(*(each.join() for each in consumers))
    leader, other, third = consumers
    syncing = [asyncio.create_task(each.sync()) for each in (other, third)]
    await asyncio.sleep(0)
    answer = await leader.sync(assignments={leader.joined.member: bytes(100_000)})
    assert {each.error for each in (answer, *await asyncio.gather(*syncing))} == {ErrorCode.GROUP_MAX_SIZE_REACHED}
    await asyncio.gather(*(each.enter() for each in consumers))
    # Assignments to strangers are not kept.
    used = coordinator._budget.used
    await asyncio.gather(*(each.join() for each in consumers))
    syncing = [asyncio.create_task(each.sync()) for each in (other, third)]
    await leader.sync(assignments={"stranger": bytes(1_000_000)})
    await asyncio.gather(*syncing)
    assert coordinator._budget.used < used
    for each in consumers:
        each.leave()
    assert coordinator.leave("second", [Leaving(second.joined.member)]) == [ErrorCode.NONE]
    assert coordinator._budget.used == 0


@virtual
async def test_ids_that_nobody_joins_with_are_bounded() -> None:
    coordinator = Coordinator(GroupLimits(members=3))
    errors = [(await Consumer(coordinator).join(needs_member_id=True)).error for _ in range(4)]
    assert errors == [ErrorCode.MEMBER_ID_REQUIRED] * 3 + [ErrorCode.GROUP_MAX_SIZE_REACHED]
    assert coordinator._budget.used > 0
    await asyncio.sleep(SESSION)
    assert coordinator.protocol_types() == {}
    assert coordinator._budget.used == 0
    tight = Coordinator(GroupLimits(bytes=100))
    assert (await Consumer(tight).join(needs_member_id=True)).error is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert tight.protocol_types() == {}


@virtual
async def test_closing_answers_all_who_wait() -> None:
    coordinator = Coordinator()
    leader, other = await together(coordinator)
    await asyncio.gather(leader.join(), other.join())
    syncing = asyncio.create_task(other.sync())
    joining = asyncio.create_task(Consumer(coordinator, changes={"group": "others"}).join())
    pending = await Consumer(coordinator, changes={"group": "pending"}).join(needs_member_id=True)
    assert pending.error is ErrorCode.MEMBER_ID_REQUIRED
    await asyncio.sleep(0)
    coordinator.close()
    assert (await syncing).error is ErrorCode.NOT_COORDINATOR
    assert (await joining).error is ErrorCode.NOT_COORDINATOR
    assert leader.heartbeat() is ErrorCode.NOT_COORDINATOR
    assert (await Consumer(coordinator).join()).error is ErrorCode.NOT_COORDINATOR
    assert coordinator._budget.used == 0
