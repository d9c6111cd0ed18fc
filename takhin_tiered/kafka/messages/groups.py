"""Consumer groups: finding the coordinator, membership, and what is told about them.

Source: Kafka, FindCoordinatorRequest.json, JoinGroupRequest.json, SyncGroupRequest.json, HeartbeatRequest.json,
LeaveGroupRequest.json, DescribeGroupsRequest.json, ListGroupsRequest.json, and their responses.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import (
    array,
    binary,
    boolean,
    int8,
    int16,
    int32,
    nullable_string,
    string,
    strings,
)
from takhin_tiered.kafka.messages.metadata import OPERATIONS_UNKNOWN

KEY_OF_GROUP, KEY_OF_TRANSACTION = 0, 1


@dataclass(slots=True)
class FindCoordinatorRequest:
    key: str = string()
    key_type: int = int8(since=1)


@dataclass(slots=True)
class FindCoordinatorResponse:
    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    error_message: str | None = nullable_string(since=1)
    node_id: int = int32()
    host: str = string()
    port: int = int32()


@dataclass(slots=True)
class JoinGroupRequestProtocol:
    name: str = string()
    metadata: bytes = binary()


@dataclass(slots=True)
class JoinGroupRequest:
    group_id: str = string()
    session_timeout_ms: int = int32()
    rebalance_timeout_ms: int = int32(-1, since=1)
    member_id: str = string()
    group_instance_id: str | None = nullable_string(since=5)
    protocol_type: str = string()
    protocols: list[JoinGroupRequestProtocol] = array(JoinGroupRequestProtocol)


@dataclass(slots=True)
class JoinGroupResponseMember:
    member_id: str = string()
    group_instance_id: str | None = nullable_string(since=5)
    metadata: bytes = binary()


@dataclass(slots=True)
class JoinGroupResponse:
    throttle_time_ms: int = int32(since=2)
    error_code: int = int16()
    generation_id: int = int32(-1)
    protocol_name: str = string()
    leader: str = string()
    member_id: str = string()
    members: list[JoinGroupResponseMember] = array(JoinGroupResponseMember)


@dataclass(slots=True)
class SyncGroupRequestAssignment:
    member_id: str = string()
    assignment: bytes = binary()


@dataclass(slots=True)
class SyncGroupRequest:
    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = nullable_string(since=3)
    assignments: list[SyncGroupRequestAssignment] = array(SyncGroupRequestAssignment)


@dataclass(slots=True)
class SyncGroupResponse:
    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    assignment: bytes = binary()


@dataclass(slots=True)
class HeartbeatRequest:
    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = nullable_string(since=3)


@dataclass(slots=True)
class HeartbeatResponse:
    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()


@dataclass(slots=True)
class MemberIdentity:
    member_id: str = string()
    group_instance_id: str | None = nullable_string()


@dataclass(slots=True)
class LeaveGroupRequest:
    group_id: str = string()
    member_id: str = string(until=2)
    members: list[MemberIdentity] = array(MemberIdentity, since=3)


@dataclass(slots=True)
class MemberResponse:
    member_id: str = string()
    group_instance_id: str | None = nullable_string()
    error_code: int = int16()


@dataclass(slots=True)
class LeaveGroupResponse:
    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    members: list[MemberResponse] = array(MemberResponse, since=3)


@dataclass(slots=True)
class DescribeGroupsRequest:
    groups: list[str] = strings()
    include_authorized_operations: bool = boolean(since=3)


@dataclass(slots=True)
class DescribedGroupMember:
    member_id: str = string()
    group_instance_id: str | None = nullable_string(since=4)
    client_id: str = string()
    client_host: str = string()
    member_metadata: bytes = binary()
    member_assignment: bytes = binary()


@dataclass(slots=True)
class DescribedGroup:
    error_code: int = int16()
    group_id: str = string()
    group_state: str = string()
    protocol_type: str = string()
    protocol_data: str = string()
    members: list[DescribedGroupMember] = array(DescribedGroupMember)
    authorized_operations: int = int32(OPERATIONS_UNKNOWN, since=3)


@dataclass(slots=True)
class DescribeGroupsResponse:
    throttle_time_ms: int = int32(since=1)
    groups: list[DescribedGroup] = array(DescribedGroup)


@dataclass(slots=True)
class ListGroupsRequest:
    """Says nothing before version 4."""


@dataclass(slots=True)
class ListedGroup:
    group_id: str = string()
    protocol_type: str = string()


@dataclass(slots=True)
class ListGroupsResponse:
    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    groups: list[ListedGroup] = array(ListedGroup)
