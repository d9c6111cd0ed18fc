"""What members of consumer groups ask of the coordinator, and what it answers. Times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from takhin_tiered.kafka.errors import ErrorCode


class State(Enum):
    """Of a group, under the names that DescribeGroups gives."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Protocol:
    """An assignment strategy that a member supports, with what the leader needs to know of the member for it."""

    name: str
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Join:
    """``member``: empty for a new one. ``instance``: the ID of a static member.

    ``needs_member_id``: a new dynamic member is told its ID first, and joins with it (JoinGroup 4 and later).
    """

    group: str
    member: str
    instance: str | None
    client_id: str
    client_host: str
    session_timeout: float
    rebalance_timeout: float
    protocol_type: str
    protocols: tuple[Protocol, ...]
    needs_member_id: bool = False


@dataclass(frozen=True, slots=True)
class JoinedMember:
    member: str
    instance: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """``members``: only the leader gets them."""

    error: ErrorCode
    member: str = ""
    generation: int = -1
    protocol: str = ""
    leader: str = ""
    members: tuple[JoinedMember, ...] = ()


@dataclass(frozen=True, slots=True)
class Sync:
    """``assignments``: by member, from the leader only."""

    group: str
    generation: int
    member: str
    instance: str | None
    assignments: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Synced:
    error: ErrorCode
    assignment: bytes = b""


@dataclass(frozen=True, slots=True)
class Leaving:
    """``member``: empty if only the static member's instance is known, as of an administrator."""

    member: str
    instance: str | None = None


@dataclass(frozen=True, slots=True)
class MemberView:
    member: str
    instance: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class GroupView:
    """``protocol``, and the members' metadata and assignments, are given for a stable group only."""

    state: State
    protocol_type: str = ""
    protocol: str = ""
    members: tuple[MemberView, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Bounds on what clients can make the coordinator keep, and its timing.

    ``bytes``: IDs, metadata and assignments of all members of all groups. ``initial_delay``: how long the first
    rebalance of a group waits for more members. A reader that is alone should not wait as long as Kafka's 3 s.
    """

    groups: int = 1000
    members: int = 1000
    bytes: int = 16 << 20
    shortest_session: float = 1.0
    longest_session: float = 1800.0
    initial_delay: float = 0.5
    new_member_timeout: float = 300.0


class Budget:
    """Bytes that all groups share."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def change(self, taken: int) -> bool:
        """Take so many bytes, or give them back; False, and nothing taken, if there is no room."""
        if taken > 0 and self.used + taken > self.limit:
            return False
        self.used += taken
        return True
