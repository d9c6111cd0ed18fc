"""The coordinator of consumer groups: classic groups, all on this node, in memory.

After a restart members are told that they are unknown, and join again. Committed offsets are kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.group import Group
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

_LONGEST_NAME = 1024
_MOST_PROTOCOLS = 100


class Coordinator:
    """All groups. Used by the event loop's thread only."""

    def __init__(self, limits: GroupLimits | None = None) -> None:
        self._limits = limits or GroupLimits()
        self._budget = Budget(self._limits.bytes)
        self._groups: dict[str, Group] = {}
        self._is_closed = False

    async def join(self, request: Join) -> Joined:
        """Answers when the rebalance is over. Cancelled, the member stays until its session ends."""
        error = self._refusal(request)
        if error is not ErrorCode.NONE:
            return Joined(error, request.member)
        group = self._groups.get(request.group)
        if group is None:
            if request.member:
                return Joined(ErrorCode.UNKNOWN_MEMBER_ID, request.member)
            if len(self._groups) >= self._limits.groups:
                return Joined(ErrorCode.GROUP_MAX_SIZE_REACHED)
            group = Group(request.group, self._limits, self._budget, partial(self._groups.pop, request.group))
            self._groups[request.group] = group
        waiting = group.join(request)
        group.forget_if_unused()
        return await waiting

    async def sync(self, request: Sync) -> Synced:
        """Answers when the leader has sent the assignments."""
        group, error = self._find(request.group)
        return Synced(error) if group is None else await group.sync(request)

    def heartbeat(self, name: str, generation: int, member: str, instance: str | None = None) -> ErrorCode:
        group, error = self._find(name)
        return error if group is None else group.heartbeat(generation, member, instance)

    def leave(self, name: str, leaving: Iterable[Leaving]) -> list[ErrorCode]:
        """An error for each."""
        answers = []
        for each in leaving:
            group, error = self._find(name)
            answers.append(error if group is None else group.leave(each))
        return answers

    def may_commit(self, name: str, generation: int, member: str, instance: str | None = None) -> ErrorCode:
        """Whether this member may commit offsets; a consumer that is in no group may if the group has no members."""
        if self._is_closed:
            return ErrorCode.NOT_COORDINATOR
        group = self._groups.get(name)
        if group is None:
            return ErrorCode.NONE if generation < 0 else ErrorCode.ILLEGAL_GENERATION
        return group.may_commit(generation, member, instance)

    def describe(self, name: str) -> GroupView:
        """Dead, if it has no members."""
        group = self._groups.get(name)
        return GroupView(State.DEAD) if group is None else group.view()

    def protocol_types(self) -> dict[str, str]:
        """Of all groups that have members, or soon will."""
        return {name: group.protocol_type for name, group in self._groups.items()}

    def close(self) -> None:
        """Answer all who wait. Nobody can join any more."""
        self._is_closed = True
        for group in self._groups.values():
            group.close()
        self._groups.clear()

    def _find(self, name: str) -> tuple[Group | None, ErrorCode]:
        """The error tells why there is none."""
        if not name:
            return None, ErrorCode.INVALID_GROUP_ID
        if self._is_closed:
            return None, ErrorCode.NOT_COORDINATOR
        return self._groups.get(name), ErrorCode.UNKNOWN_MEMBER_ID

    def _refusal(self, request: Join) -> ErrorCode:
        if not request.group or len(request.group) > _LONGEST_NAME:
            return ErrorCode.INVALID_GROUP_ID
        if len(request.instance or "") > _LONGEST_NAME:
            return ErrorCode.INVALID_REQUEST
        if self._is_closed:
            return ErrorCode.NOT_COORDINATOR
        if not self._limits.shortest_session <= request.session_timeout <= self._limits.longest_session:
            return ErrorCode.INVALID_SESSION_TIMEOUT
        # Each protocol is looked at with each join. Real members have one to five.
        return ErrorCode.NONE if len(request.protocols) <= _MOST_PROTOCOLS else ErrorCode.INCONSISTENT_GROUP_PROTOCOL
