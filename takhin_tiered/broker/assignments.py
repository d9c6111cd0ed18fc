"""Partitions grouped for requests: by leader, by topic, and not too many in one request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from takhin_tiered.batches import in_batches
from takhin_tiered.segments.names import Partition

AT_ONCE = 500
"""Topics or partitions in one request."""


class Assignment(NamedTuple):
    """The brokers of a partition; ``leader`` is -1 while it has none."""

    leader: int
    replicas: tuple[int, ...]


def by_leader(assignments: Mapping[Partition, Assignment]) -> Iterator[tuple[int, list[Partition]]]:
    """The partitions that have a leader, in batches for one request each."""
    groups: dict[int, list[Partition]] = defaultdict(list)
    for partition, assignment in assignments.items():
        if assignment.leader >= 0:
            groups[assignment.leader].append(partition)
    for leader, partitions in groups.items():
        for piece in in_batches(partitions, AT_ONCE):
            yield leader, piece


def by_topic(values: Iterable[tuple[Partition, int]]) -> list[tuple[str, list[tuple[int, int]]]]:
    topics: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (topic, partition), value in values:
        topics[topic].append((partition, value))
    return list(topics.items())
