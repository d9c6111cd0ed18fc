"""What stands in the fleet's table, as values. Times are milliseconds since the epoch; None, 0 or empty: absent.

The contract has the same fields: a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    node: str
    topic: str
    partition: int
    incarnation: str
    base_offset: int
    shard: int
    state: str
    topic_id: str = ""
    active: bool = False
    size: int | None = None
    stored_size: int | None = None
    generation: int | None = None
    modified_at: int | None = None
    archived_at: int | None = None
    last_offset: int | None = None
    last_timestamp: int | None = None
    lease_until: int | None = None
    quarantine: str = ""
    damage: str = ""
    run: str = ""

    @property
    def path(self) -> str:
        return f"{self.topic}-{self.partition}/{self.base_offset:020d}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    node: str
    host: str = ""
    version: str = ""
    mode: str = ""
    store: str = ""
    segments: int = 0
    archived_segments: int = 0
    local_bytes: int = 0
    archived_bytes: int = 0
    seen_at: int | None = None
    epoch: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    resource: str
    holder: str = ""
    host: str = ""
    token: int
    nonce: str
    duration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    node: str
    day: str
    id: str
    shard: int
    created_at: int
    action: str
    outcome: str
    correlation_id: str
    written: int = 0
    deleted: int = 0
    calls: int = 0
    attempts: int = 0
    capacity: Decimal = Decimal(0)
    duration: int = 0
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    node: str
    day: str
    action: str
    created_at: int
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    run: str
    name: str
    position: str = ""
    done: int = 0
    written: int = 0
    unchanged: int = 0
    image: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    run: str
    node: str
    entities: str
    state: str
    total: int = 0
    written: int = 0
    unchanged: int = 0
    started_at: int
    ended_at: int | None = None


ENTITIES = {each.__name__: each for each in (Segment, Node, Lease, Operation, Quota, Checkpoint, Migration)}
