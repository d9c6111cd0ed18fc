"""What a node's own catalog says, in the words of the contract.

An item depends on the segment alone, and not on the time: a tier changes with age, and whoever reads an item can tell
it from ``modified_at``. Size and time of an active segment change with each record, and are left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b

from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.fleet import entities
from takhin_tiered.fleet.transforms import from_local
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.model import Segment

_MILLISECOND = 1_000_000
_LONGEST = 1000
SHARDS = 16


def shard_of(topic: str, partition: int, base_offset: int) -> int:
    """Where a segment is in the index of its node: a partition of DynamoDB takes a thousand writes a second."""
    return blake2b(f"{topic}-{partition}/{base_offset}".encode(), digest_size=1).digest()[0] % SHARDS


def plain(text: str) -> str:
    """As DynamoDB takes it: no surrogates, which stand for bytes of file names; and not too long for an item."""
    return text[:_LONGEST].encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class LocalSegment:
    """The properties are the sources that the contract names."""

    segment: Segment
    of: Incarnation
    node: str

    @property
    def topic(self) -> str:
        return self.segment.id.topic

    @property
    def partition(self) -> int:
        return self.segment.id.partition

    @property
    def base_offset(self) -> int:
        return self.segment.id.base_offset

    @property
    def shard(self) -> int:
        return shard_of(self.topic, self.partition, self.base_offset)

    @property
    def incarnation(self) -> str:
        return self.of.name

    @property
    def topic_id(self) -> str:
        return self.of.topic_id

    @property
    def state(self) -> str:
        return str(self.segment.state)

    @property
    def active(self) -> bool:
        return self.segment.active

    @property
    def size(self) -> int | None:
        return None if self.active else self.segment.size

    @property
    def stored_size(self) -> int | None:
        return self.segment.archive.stored_size if self.segment.archive else None

    @property
    def generation(self) -> int | None:
        return self.segment.archive.generation if self.segment.archive else None

    @property
    def modified_at(self) -> int | None:
        if self.active:
            return None
        log, archive = self.segment.local.log, self.segment.archive
        if log is not None:
            return log.mtime_ns // _MILLISECOND
        return archive.mtime_ns // _MILLISECOND if archive else None

    @property
    def archived_at(self) -> int | None:
        return round(self.segment.archive.archived_at * 1000) if self.segment.archive else None

    @property
    def last_offset(self) -> int | None:
        archive = self.segment.archive
        return archive.last_offset if archive and archive.last_offset >= 0 else None

    @property
    def last_timestamp(self) -> int | None:
        archive = self.segment.archive
        return archive.last_timestamp if archive and archive.last_timestamp >= 0 else None

    @property
    def lease_until(self) -> int | None:
        return round(self.segment.lease_until * 1000) if self.segment.restored else None

    @property
    def quarantine(self) -> str:
        return plain(self.segment.quarantine)

    @property
    def damage(self) -> str:
        return plain(self.segment.damage)


@dataclass(frozen=True, slots=True)
class LocalNode:
    """The same of the node itself."""

    node: str
    host: str
    version: str
    mode: str
    store: str
    segments: int
    archived_segments: int
    local_bytes: int
    archived_bytes: int
    seen_at: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself, besides counts. ``seeds``: a new state directory takes over what the table knows."""

    node: str
    host: str
    version: str
    mode: str
    store: str
    seeds: bool


def node_entity(facts: NodeFacts, stats: Stats) -> entities.Node:
    """As of now."""
    local = LocalNode(
        node=facts.node,
        host=facts.host,
        version=facts.version,
        mode=facts.mode,
        store=plain(facts.store),
        segments=stats.total_segments,
        archived_segments=stats.archived_segments,
        local_bytes=stats.local_size_bytes,
        archived_bytes=stats.archived_size_bytes,
        seen_at=time.time_ns() // _MILLISECOND,
    )
    return from_local(entities.Node, local)


def segment_entity(segment: Segment, incarnation: Incarnation, node: str) -> entities.Segment:
    return from_local(entities.Segment, LocalSegment(segment, incarnation, node))


def row_digest(row: bytes, incarnation: Incarnation) -> bytes:
    """Of all that a segment's entity is made of: where it is the same, the entity is the same."""
    return blake2b(row, digest_size=8, key=incarnation.topic_id.encode()[:64]).digest()
