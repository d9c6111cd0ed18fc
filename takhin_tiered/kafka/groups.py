"""The handlers of the group APIs: messages to the coordinator and the committed offsets, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from takhin_tiered.kafka import apis
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.commits import Commits, Committed, TopicPartition, Unavailable
from takhin_tiered.kafka.coordinator import Coordinator
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.membership import Join, Leaving, Protocol, State, Sync
from takhin_tiered.kafka.messages import commits as offsets
from takhin_tiered.kafka.messages import groups as messages
from takhin_tiered.kafka.node import NODE_ID, Address

_SAYS_MEMBER_ID_FIRST = 4
"""Version of JoinGroup: from it on, a new member is told its ID before it joins."""
_LEAVES_SEVERAL = 3
_EXPIRE_EVERY = 3600.0
_NOT_COMMITTED = Committed(-1)
_DESCRIBED_AT_ONCE = 2 << 20
"""Bytes of members, about, in one answer of DescribeGroups."""


def group_handlers(coordinator: Coordinator, commits: Commits, node: Callable[[Client], Address]) -> dict[int, Handler]:
    here = _Groups(coordinator, commits, node)
    return {
        apis.FIND_COORDINATOR: here.find_coordinator,
        apis.JOIN_GROUP: here.join,
        apis.SYNC_GROUP: here.sync,
        apis.HEARTBEAT: here.heartbeat,
        apis.LEAVE_GROUP: here.leave,
        apis.OFFSET_COMMIT: here.commit,
        apis.OFFSET_FETCH: here.fetch,
        apis.DESCRIBE_GROUPS: here.describe,
        apis.LIST_GROUPS: here.list,
    }


async def expire_commits(coordinator: Coordinator, commits: Commits) -> None:
    """Forget what nobody uses, until cancelled. Not at the start: who was a member has yet to join again."""
    while True:
        await asyncio.sleep(_EXPIRE_EVERY)
        await commits.expire(lambda group: coordinator.describe(group).state is not State.DEAD)


class _Groups:
    def __init__(self, coordinator: Coordinator, commits: Commits, node: Callable[[Client], Address]) -> None:
        self._coordinator, self._commits, self._node = coordinator, commits, node

    async def find_coordinator(
        self, request: messages.FindCoordinatorRequest, client: Client
    ) -> messages.FindCoordinatorResponse:
        if request.key_type == messages.KEY_OF_GROUP:
            return messages.FindCoordinatorResponse(0, ErrorCode.NONE, None, NODE_ID, *self._node(client))
        # As to InitProducerId. Most other errors have a transactional producer ask again and again.
        error, text = ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "this endpoint is read-only: it has no transactions"
        if request.key_type != messages.KEY_OF_TRANSACTION:
            error, text = ErrorCode.INVALID_REQUEST, "this endpoint coordinates consumer groups only"
        return messages.FindCoordinatorResponse(0, error, text, -1, "", -1)

    async def join(self, request: messages.JoinGroupRequest, client: Client) -> messages.JoinGroupResponse:
        session = request.session_timeout_ms / 1000
        asked = Join(
            request.group_id,
            request.member_id,
            request.group_instance_id,
            client.id,
            f"/{client.address}",
            session,
            # Version 0 has one timeout for both.
            request.rebalance_timeout_ms / 1000 if client.version else session,
            request.protocol_type,
            tuple(Protocol(each.name, each.metadata) for each in request.protocols),
            needs_member_id=client.version >= _SAYS_MEMBER_ID_FIRST,
        )
        joined = await self._coordinator.join(asked)
        members = [
            messages.JoinGroupResponseMember(each.member, each.instance, each.metadata) for each in joined.members
        ]
        return messages.JoinGroupResponse(
            0, joined.error, joined.generation, joined.protocol, joined.leader, joined.member, members
        )

    async def sync(self, request: messages.SyncGroupRequest, client: Client) -> messages.SyncGroupResponse:
        assignments = {each.member_id: each.assignment for each in request.assignments}
        asked = Sync(request.group_id, request.generation_id, request.member_id, request.group_instance_id, assignments)
        synced = await self._coordinator.sync(asked)
        return messages.SyncGroupResponse(0, synced.error, synced.assignment)

    async def heartbeat(self, request: messages.HeartbeatRequest, client: Client) -> messages.HeartbeatResponse:
        error = self._coordinator.heartbeat(
            request.group_id, request.generation_id, request.member_id, request.group_instance_id
        )
        return messages.HeartbeatResponse(0, error)

    async def leave(self, request: messages.LeaveGroupRequest, client: Client) -> messages.LeaveGroupResponse:
        if client.version < _LEAVES_SEVERAL:
            return messages.LeaveGroupResponse(
                0, self._coordinator.leave(request.group_id, [Leaving(request.member_id)])[0]
            )
        leaving = [Leaving(each.member_id, each.group_instance_id) for each in request.members]
        errors = self._coordinator.leave(request.group_id, leaving)
        for error in errors:
            if error in {ErrorCode.INVALID_GROUP_ID, ErrorCode.NOT_COORDINATOR}:
                return messages.LeaveGroupResponse(0, error)
        members = [
            messages.MemberResponse(each.member, each.instance, error)
            for each, error in zip(leaving, errors, strict=True)
        ]
        return messages.LeaveGroupResponse(0, ErrorCode.NONE, members)

    async def commit(self, request: offsets.OffsetCommitRequest, client: Client) -> offsets.OffsetCommitResponse:
        error = self._coordinator.may_commit(
            request.group_id, request.generation_id_or_member_epoch, request.member_id, request.group_instance_id
        )
        answers: dict[TopicPartition, ErrorCode] = {}
        if error is ErrorCode.NONE:
            answers = await self._commits.commit(
                request.group_id,
                {
                    (topic.name, each.partition_index): Committed(
                        each.committed_offset, each.committed_leader_epoch, each.committed_metadata or ""
                    )
                    for topic in request.topics
                    for each in topic.partitions
                },
            )
        topics = [
            offsets.OffsetCommitResponseTopic(
                topic.name,
                [
                    offsets.OffsetCommitResponsePartition(
                        each.partition_index, answers.get((topic.name, each.partition_index), error)
                    )
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ]
        return offsets.OffsetCommitResponse(0, topics)

    async def fetch(self, request: offsets.OffsetFetchRequest, client: Client) -> offsets.OffsetFetchResponse:
        wanted = None
        if request.topics is not None:
            wanted = [(topic.name, partition) for topic in request.topics for partition in topic.partition_indexes]
        error, found = ErrorCode.NONE, dict[TopicPartition, Committed]()
        try:
            found = await self._commits.fetch(request.group_id, wanted)
        except Unavailable:
            # Clients wait for it; COORDINATOR_NOT_AVAILABLE is here the end of some.
            error = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        topics: dict[str, offsets.OffsetFetchResponseTopic] = {}
        for name, partition in found if wanted is None else wanted:
            committed = found.get((name, partition), _NOT_COMMITTED)
            topic = topics.setdefault(name, offsets.OffsetFetchResponseTopic(name, []))
            # Version 1 has no other place for the error.
            answer = (partition, committed.offset, committed.leader_epoch, committed.metadata, error)
            topic.partitions.append(offsets.OffsetFetchResponsePartition(*answer))
        return offsets.OffsetFetchResponse(0, list(topics.values()), error)

    async def describe(
        self, request: messages.DescribeGroupsRequest, client: Client
    ) -> messages.DescribeGroupsResponse:
        # Each once, and not all of large ones: a client that takes its time should not hold much. It asks again for
        # those that it has yet to get.
        described, size = [], 0
        for name in dict.fromkeys(request.groups):
            if size < _DESCRIBED_AT_ONCE:
                described.append(self._described(name))
                size += sum(len(each.member_metadata) + len(each.member_assignment) for each in described[-1].members)
            else:
                described.append(messages.DescribedGroup(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, name))
        return messages.DescribeGroupsResponse(0, described)

    def _described(self, name: str) -> messages.DescribedGroup:
        view = self._coordinator.describe(name)
        if view.state is State.DEAD and self._commits.has(name):
            view = replace(view, state=State.EMPTY)
        members = [
            messages.DescribedGroupMember(
                each.member, each.instance, each.client_id, each.client_host, each.metadata, each.assignment
            )
            for each in view.members
        ]
        return messages.DescribedGroup(
            ErrorCode.NONE, name, view.state.value, view.protocol_type, view.protocol, members
        )

    async def list(self, request: messages.ListGroupsRequest, client: Client) -> messages.ListGroupsResponse:
        known = dict.fromkeys(self._commits.groups(), "") | self._coordinator.protocol_types()
        return messages.ListGroupsResponse(
            0, ErrorCode.NONE, [messages.ListedGroup(name, protocol_type) for name, protocol_type in known.items()]
        )
