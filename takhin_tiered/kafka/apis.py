"""The APIs that this endpoint understands, and their versions.

Versions are as old as clients can use: each newer one only adds what this endpoint has no answer to. Flexible versions
begin where a client gains something: ListOffsets 7 has the maximum timestamp, ApiVersions 3 tells the client's
library. Fetch 12 and OffsetFetch 6 would have clients ask for leader epochs, which nobody here knows. Produce 3 is what
librdkafka takes as the sign of the present record format; 8 is the first whose answer has a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from takhin_tiered.kafka.messages import commits, fetch, groups, metadata, offsets, refused, sasl, versions

_NEVER = 1 << 15


@dataclass(frozen=True, slots=True)
class Api:
    """One API, with the first and the last version that are understood."""

    key: int
    name: str
    request: type[Any]
    response: type[Any]
    first: int
    last: int
    flexible_from: int = _NEVER

    def understands(self, version: int) -> bool:
        return self.first <= version <= self.last

    def is_flexible(self, version: int) -> bool:
        return version >= self.flexible_from

    def has_flexible_header(self, version: int) -> bool:
        """Of the response: that of ApiVersions never is, as it tells the client which versions there are."""
        return self.is_flexible(version) and self.key != API_VERSIONS


PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 0, 1, 2, 3, 8, 9
FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP, DESCRIBE_GROUPS, LIST_GROUPS = range(10, 17)
SASL_HANDSHAKE, API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS, INIT_PRODUCER_ID = range(17, 23)
DESCRIBE_CONFIGS, ALTER_CONFIGS, SASL_AUTHENTICATE, CREATE_PARTITIONS, INCREMENTAL_ALTER_CONFIGS = 32, 33, 36, 37, 44


def _api(module: Any, key: int, name: str, first: int, last: int, *, flexible_from: int = _NEVER) -> Api:
    request, response = getattr(module, f"{name}Request"), getattr(module, f"{name}Response")
    return Api(key, name, request, response, first, last, flexible_from)


APIS = {
    api.key: api
    for api in (
        _api(refused, PRODUCE, "Produce", 3, 8),
        _api(fetch, FETCH, "Fetch", 4, 11),
        _api(offsets, LIST_OFFSETS, "ListOffsets", 1, 7, flexible_from=6),
        _api(metadata, METADATA, "Metadata", 0, 8),
        _api(commits, OFFSET_COMMIT, "OffsetCommit", 2, 7),
        _api(commits, OFFSET_FETCH, "OffsetFetch", 1, 5),
        _api(groups, FIND_COORDINATOR, "FindCoordinator", 0, 2),
        _api(groups, JOIN_GROUP, "JoinGroup", 0, 5),
        _api(groups, HEARTBEAT, "Heartbeat", 0, 3),
        _api(groups, LEAVE_GROUP, "LeaveGroup", 0, 3),
        _api(groups, SYNC_GROUP, "SyncGroup", 0, 3),
        _api(groups, DESCRIBE_GROUPS, "DescribeGroups", 0, 4),
        _api(groups, LIST_GROUPS, "ListGroups", 0, 2),
        _api(sasl, SASL_HANDSHAKE, "SaslHandshake", 0, 1),
        _api(versions, API_VERSIONS, "ApiVersions", 0, 3, flexible_from=3),
        _api(refused, CREATE_TOPICS, "CreateTopics", 2, 4),
        _api(refused, DELETE_TOPICS, "DeleteTopics", 1, 3),
        _api(refused, DELETE_RECORDS, "DeleteRecords", 0, 1),
        _api(refused, INIT_PRODUCER_ID, "InitProducerId", 0, 1),
        _api(metadata, DESCRIBE_CONFIGS, "DescribeConfigs", 1, 2),
        _api(refused, ALTER_CONFIGS, "AlterConfigs", 0, 1),
        _api(sasl, SASL_AUTHENTICATE, "SaslAuthenticate", 0, 1),
        _api(refused, CREATE_PARTITIONS, "CreatePartitions", 0, 1),
        _api(refused, INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", 0, 0),
    )
}
