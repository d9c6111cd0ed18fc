"""One classic consumer group: its members, generations and rebalances, as in Kafka's group coordinator.

No I/O and no awaiting: a request that has to wait for other members gets a future. Timers are the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

from takhin_tiered import logs
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.member import Member, cost_of
from takhin_tiered.kafka.membership import (
    Budget,
    GroupLimits,
    GroupView,
    Join,
    Joined,
    Leaving,
    State,
    Sync,
    Synced,
)
from takhin_tiered.kafka.strategies import Strategies

_PENDING_COST = 1024
_MOST_OF_NAME = 255
_STEADY = {State.EMPTY, State.COMPLETING_REBALANCE, State.STABLE}
"""States from which a rebalance can begin."""


class Group:
    """``forgotten`` is called once when the group has no members any more; it is dead from then on.

    A member whose connection closed stays until its session ends: it may come back by another one.
    """

    def __init__(self, name: str, limits: GroupLimits, budget: Budget, forgotten: Callable[[], object]) -> None:
        self.name, self.state, self.generation = name, State.EMPTY, 0
        self.protocol_type = self.protocol = self.leader = ""
        self.members: dict[str, Member] = {}
        # Those that were given an ID, and have yet to join with it.
        self._pending: dict[str, asyncio.TimerHandle] = {}
        # Member IDs of static members, by instance.
        self._static: dict[str, str] = {}
        self._strategies = Strategies()
        # Members of this generation that have yet to ask for their assignment.
        self._unsynced: set[str] = set()
        self._limits, self._budget, self._forgotten = limits, budget, forgotten
        self._loop = asyncio.get_running_loop()
        # Of the rebalance, and later of those that do not sync.
        self._timer: asyncio.TimerHandle | None = None
        # The first rebalance waits a little for more members, as long as any come, up to this time.
        self._waits_until: float | None = None
        self._has_more = False

    # --- requests ---

    def join(self, request: Join) -> asyncio.Future[Joined]:
        if not self._supports(request):
            return self._refused(request, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        return self._join_known(request) if request.member else self._join_new(request)

    def sync(self, request: Sync) -> asyncio.Future[Synced]:
        answer: asyncio.Future[Synced] = self._loop.create_future()
        error = self._stranger(request.member, request.instance, request.generation)
        if error is ErrorCode.NONE and self.state is State.PREPARING_REBALANCE:
            error = ErrorCode.REBALANCE_IN_PROGRESS
        if error is not ErrorCode.NONE:
            answer.set_result(Synced(error))
            return answer
        member = self.members[request.member]
        # An earlier request of the same member is not answered by this one: its connection may still be read.
        member.answer_sync(Synced(ErrorCode.REBALANCE_IN_PROGRESS))
        member.touch()
        self._unsynced.discard(member.id)
        if self.state is State.STABLE:
            answer.set_result(Synced(ErrorCode.NONE, member.assignment))
        else:
            member.syncing = answer
            if member.id == self.leader:
                self._assign(request)
        if self.state is State.STABLE and not self._unsynced:
            self._stop_timer()
        return answer

    def heartbeat(self, generation: int, member: str, instance: str | None) -> ErrorCode:
        error = self._stranger(member, instance, generation)
        if error is not ErrorCode.NONE:
            return error
        self.members[member].touch()
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state is State.PREPARING_REBALANCE else ErrorCode.NONE

    def may_commit(self, generation: int, member: str, instance: str | None) -> ErrorCode:
        """Whether offsets may be committed. A consumer that is no member may where there are none."""
        if self.state is State.EMPTY and generation < 0:
            return ErrorCode.NONE
        error = self._stranger(member, instance, generation)
        if error is not ErrorCode.NONE:
            return error
        if self.state is State.COMPLETING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        self.members[member].touch()
        return ErrorCode.NONE

    def leave(self, leaving: Leaving) -> ErrorCode:
        identity, instance = leaving.member, leaving.instance
        if instance is not None and instance in self._static:
            if identity and self._static[instance] != identity:
                return ErrorCode.FENCED_INSTANCE_ID
            identity = self._static[instance]
        if identity in self._pending:
            self._drop_pending(identity)
            return ErrorCode.NONE
        member = self.members.get(identity)
        if member is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        self._remove(member)
        return ErrorCode.NONE

    def view(self) -> GroupView:
        protocol = self.protocol if self.state is State.STABLE else ""
        members = tuple(member.view(protocol) for member in self.members.values())
        return GroupView(self.state, self.protocol_type, protocol, members)

    def forget_if_unused(self) -> None:
        if self.state is State.EMPTY and not self.members and not self._pending:
            self.state = State.DEAD
            self._forgotten()

    def close(self) -> None:
        """Let nobody wait: they look for the coordinator again, and join anew."""
        self._stop_timer()
        for identity in list(self._pending):
            self._unpend(identity)
        for member in list(self.members.values()):
            self._drop(member, ErrorCode.NOT_COORDINATOR)
        self.state = State.DEAD

    # --- who asks ---

    def _stranger(self, member: str, instance: str | None, generation: int) -> ErrorCode:
        """The error for a request that is not of a member in this generation."""
        if instance is not None and self._static.get(instance, member) != member:
            return ErrorCode.FENCED_INSTANCE_ID
        if member not in self.members or (instance is not None and instance not in self._static):
            return ErrorCode.UNKNOWN_MEMBER_ID
        return ErrorCode.NONE if generation == self.generation else ErrorCode.ILLEGAL_GENERATION

    def _supports(self, request: Join) -> bool:
        if not self.members:
            return bool(request.protocol_type and request.protocols)
        return request.protocol_type == self.protocol_type and self._strategies.are_shared(request.protocols)

    # --- joining ---

    def _join_new(self, request: Join) -> asyncio.Future[Joined]:
        instance = request.instance
        # A client may call itself what it likes, and the ID has to fit the protocol's 32767 bytes.
        identity = f"{instance if instance is not None else request.client_id[:_MOST_OF_NAME]}-{uuid4()}"
        if instance is not None and instance in self._static:
            return self._return(self.members[self._static[instance]], identity, request)
        if len(self.members) + len(self._pending) >= self._limits.members:
            return self._refused(request, ErrorCode.GROUP_MAX_SIZE_REACHED)
        if not request.needs_member_id or instance is not None:
            return self._add(identity, request)
        if not self._budget.change(_PENDING_COST):
            return self._refused(request, ErrorCode.GROUP_MAX_SIZE_REACHED)
        timer = self._loop.call_later(request.session_timeout, self._drop_pending, identity)
        self._pending[identity] = timer
        return self._refused(request, ErrorCode.MEMBER_ID_REQUIRED, identity)

    def _join_known(self, request: Join) -> asyncio.Future[Joined]:
        identity, instance = request.member, request.instance
        if instance is not None and self._static.get(instance, identity) != identity:
            return self._refused(request, ErrorCode.FENCED_INSTANCE_ID)
        if identity in self._pending and instance is None:
            return self._add(identity, request)
        member = self.members.get(identity)
        if member is None or (instance is not None and instance not in self._static):
            return self._refused(request, ErrorCode.UNKNOWN_MEMBER_ID)
        is_same, is_leader = member.protocols == request.protocols, identity == self.leader
        # The answer to its last request may have been lost. In a stable group, a leader that joins again wants a new
        # assignment: what is to be assigned may have changed.
        if is_same and (self.state is State.COMPLETING_REBALANCE or (self.state is State.STABLE and not is_leader)):
            member.touch()
            return self._answered(self._joined(member))
        if not self._update(member, request):
            return self._refused(request, ErrorCode.GROUP_MAX_SIZE_REACHED)
        return self._await_rebalance(member, "a member joined again")

    def _return(self, member: Member, identity: str, request: Join) -> asyncio.Future[Joined]:
        """A static member, started again, takes its own place under a new ID."""
        if not self._update(member, request):
            return self._refused(request, ErrorCode.GROUP_MAX_SIZE_REACHED)
        member.answer_join(Joined(ErrorCode.FENCED_INSTANCE_ID, member.id))
        member.answer_sync(Synced(ErrorCode.FENCED_INSTANCE_ID))
        leader, old = self.leader, member.id
        del self.members[old]
        member.id = self._static[request.instance or ""] = identity
        self.members[identity] = member
        if leader == old:
            self.leader = identity
        if old in self._unsynced:
            self._unsynced.remove(old)
            self._unsynced.add(identity)
        # In a stable group it gets its assignment back without a rebalance, and a leader must not assign: it is told
        # the ID that it had as the leader's. Before that, the assignment may name the old ID: so all join again.
        if (
            self.state is State.STABLE
            and self._strategies.chosen(member.protocols for member in self.members.values()) == self.protocol
        ):
            member.touch()
            return self._answered(Joined(ErrorCode.NONE, identity, self.generation, self.protocol, leader))
        return self._await_rebalance(member, "a static member returned")

    def _add(self, identity: str, request: Join) -> asyncio.Future[Joined]:
        if identity in self._pending:
            self._unpend(identity)
        member = Member(identity, request, self._limits.new_member_timeout, self._end_session)
        if not self._budget.change(member.cost):
            return self._refused(request, ErrorCode.GROUP_MAX_SIZE_REACHED)
        self.protocol_type = request.protocol_type
        self.leader = self.leader or identity
        self.members[identity] = member
        if member.instance is not None:
            self._static[member.instance] = identity
        self._strategies.add(member.protocols)
        self._has_more = True
        return self._await_rebalance(member, "a member joined")

    def _update(self, member: Member, request: Join) -> bool:
        if not self._budget.change(cost_of(request) - member.cost):
            return False
        self._strategies.remove(member.protocols)
        member.update(request)
        self._strategies.add(member.protocols)
        return True

    def _await_rebalance(self, member: Member, reason: str) -> asyncio.Future[Joined]:
        member.answer_join(Joined(ErrorCode.REBALANCE_IN_PROGRESS, member.id))
        answer = member.joining = self._loop.create_future()
        member.touch()
        if self.state in _STEADY:
            self._prepare(reason)
        else:
            self._try_to_complete()
        return answer

    def _answered(self, answer: Joined) -> asyncio.Future[Joined]:
        future: asyncio.Future[Joined] = self._loop.create_future()
        future.set_result(answer)
        return future

    def _refused(self, request: Join, error: ErrorCode, member: str = "") -> asyncio.Future[Joined]:
        return self._answered(Joined(error, member or request.member))

    def _joined(self, member: Member) -> Joined:
        members: tuple[Member, ...] = tuple(self.members.values()) if member.id == self.leader else ()
        known = tuple(each.as_joined(self.protocol) for each in members)
        return Joined(ErrorCode.NONE, member.id, self.generation, self.protocol, self.leader, known)

    # --- rebalances ---

    def _prepare(self, reason: str) -> None:
        if self.state is State.COMPLETING_REBALANCE:
            for member in self.members.values():
                member.answer_sync(Synced(ErrorCode.REBALANCE_IN_PROGRESS))
        logs.logger().debug("consumer group rebalances", group=self.name, generation=self.generation, reason=reason)
        is_first, self.state = self.state is State.EMPTY, State.PREPARING_REBALANCE
        self._unsynced.clear()
        if is_first:
            self._waits_until = self._loop.time() + self._rebalance_timeout()
            self._wait_for_more()
        else:
            self._arm(self._rebalance_timeout(), self._complete)
            self._try_to_complete()

    def _wait_for_more(self) -> None:
        left = 0.0 if self._waits_until is None else self._waits_until - self._loop.time()
        if not self._has_more or left <= 0:
            self._complete()
            return
        self._has_more = False
        self._arm(min(left, self._limits.initial_delay), self._wait_for_more)

    def _try_to_complete(self) -> None:
        is_waiting = self._waits_until is not None and self.members
        if not is_waiting and not self._pending and all(member.is_joining for member in self.members.values()):
            self._complete()

    def _complete(self) -> None:
        """Begin the next generation with those who joined. Static members may be away until their sessions end."""
        self._stop_timer()
        self._waits_until = None
        for member in [each for each in self.members.values() if not each.is_joining and each.instance is None]:
            logs.logger().info("a member did not join in time", group=self.name, member=member.id)
            self._drop(member, ErrorCode.UNKNOWN_MEMBER_ID)
        joined = [member.id for member in self.members.values() if member.is_joining]
        if self.members and not joined:
            self._arm(self._rebalance_timeout(), self._complete)
            return
        self.generation += 1
        if not self.members:
            self.state, self.protocol = State.EMPTY, ""
            logs.logger().debug("consumer group is empty", group=self.name, generation=self.generation)
            self.forget_if_unused()
            return
        if self.leader not in joined:
            self.leader = joined[0]
        self.protocol = self._strategies.chosen(member.protocols for member in self.members.values())
        self.state = State.COMPLETING_REBALANCE
        self._unsynced = set(self.members)
        self._arm(self._rebalance_timeout(), self._give_up_unsynced)
        for member in self.members.values():
            self._set_assignment(member, b"")
            member.answer_join(self._joined(member))
            if member.id in joined:
                member.is_new = False
                member.touch()

    def _assign(self, request: Sync) -> None:
        given = {name: request.assignments.get(name, b"") for name in self.members}
        if not self._budget.change(sum(map(len, given.values()))):
            for member in self.members.values():
                member.answer_sync(Synced(ErrorCode.GROUP_MAX_SIZE_REACHED))
            self._prepare("the assignments are too large")
            return
        self.state = State.STABLE
        for member in self.members.values():
            member.assignment = given[member.id]
            if member.is_waiting:
                member.answer_sync(Synced(ErrorCode.NONE, member.assignment))
                member.touch()
        logs.logger().debug(
            "consumer group is stable", group=self.name, generation=self.generation, members=len(self.members)
        )

    def _give_up_unsynced(self) -> None:
        for name in self._unsynced & self.members.keys():
            logs.logger().info("a member did not ask for its assignment", group=self.name, member=name)
            self._drop(self.members[name], ErrorCode.UNKNOWN_MEMBER_ID)
        self._prepare("members did not ask for their assignments")

    def _rebalance_timeout(self) -> float:
        return max((member.rebalance_timeout for member in self.members.values()), default=0.0)

    # --- leaving ---

    def _remove(self, member: Member) -> None:
        # One that waits is told to join anew.
        self._drop(member, ErrorCode.UNKNOWN_MEMBER_ID)
        if self.state is State.PREPARING_REBALANCE:
            self._try_to_complete()
        else:
            self._prepare("a member was removed")

    def _end_session(self, member: Member) -> None:
        # Timeouts come at most once a second. Clients can join and leave as often as they like.
        logs.logger().info("the session of a group's member ended", group=self.name, member=member.id)
        self._remove(member)

    def _drop(self, member: Member, error: ErrorCode) -> None:
        member.answer_join(Joined(error))
        member.answer_sync(Synced(error))
        member.stop()
        del self.members[member.id]
        self._unsynced.discard(member.id)
        if member.instance is not None:
            self._static.pop(member.instance, None)
        self._strategies.remove(member.protocols)
        self._budget.change(-member.cost - len(member.assignment))
        if self.leader == member.id:
            self.leader = next(iter(self.members), "")

    def _drop_pending(self, identity: str) -> None:
        self._unpend(identity)
        if self.state is State.PREPARING_REBALANCE:
            self._try_to_complete()
        self.forget_if_unused()

    def _unpend(self, identity: str) -> None:
        self._pending.pop(identity).cancel()
        self._budget.change(-_PENDING_COST)

    def _set_assignment(self, member: Member, assignment: bytes) -> None:
        self._budget.change(len(assignment) - len(member.assignment))
        member.assignment = assignment

    def _arm(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
