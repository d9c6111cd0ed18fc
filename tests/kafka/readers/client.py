"""What each client of Python is brought to, and the loop that all of them run."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import NamedTuple

from tests.kafka.readers.spec import NOWHERE, Place, Row, Spec, line_of


class Refused(Exception):
    """What the client told its user: the name of the error, and its words."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(name, words)
        self.name, self.words = name, words


class Bounds(NamedTuple):
    earliest: int
    latest: int


class Client(ABC):
    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @abstractmethod
    def partitions(self, topic: str) -> list[int]: ...

    @abstractmethod
    def bounds(self, topic: str, partition: int) -> Bounds: ...

    @abstractmethod
    def offset_at(self, place: Place) -> int:
        """The first offset at this time or later; `NOWHERE` where there is none."""

    @abstractmethod
    def start(self, at: list[Place]) -> None:
        """Subscribe, or begin at these places; `NOWHERE`: at the beginning."""

    @abstractmethod
    def poll(self) -> list[Row]: ...

    @abstractmethod
    def is_at_end(self, topic: str, partition: int, end: int) -> bool: ...

    @abstractmethod
    def assigned(self) -> set[tuple[str, int]]: ...

    @abstractmethod
    def commit(self, at: list[Place]) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @staticmethod
    @abstractmethod
    def produce(spec: Spec) -> None: ...


def read(client: Client) -> None:
    """To the end that each partition has at the start."""
    spec = client.spec
    wanted = [(topic, partition) for topic in spec.topic_names for partition in client.partitions(topic) or [0]]
    ends = {}
    for topic, partition in wanted:
        bounds = client.bounds(topic, partition)
        ends[topic, partition] = bounds.latest
        say("bounds", topic, partition, *bounds)
    client.start(spec.places or [Place(*where, NOWHERE) for where in wanted])
    waiting = {(topic, partition) for topic, partition, _ in spec.places} or set(wanted)
    deadline = time.monotonic() + float(spec.seconds)
    while waiting and time.monotonic() < deadline:
        _print(client.poll())
        waiting = {where for where in waiting if not client.is_at_end(*where, ends[where])}
    if waiting:
        raise Refused("TIMED_OUT", f"the end of {waiting} was not reached")


def follow(client: Client) -> None:
    """Without an end, with a commit after each poll."""
    client.start(client.spec.places)
    deadline = time.monotonic() + float(client.spec.seconds)
    known: set[tuple[str, int]] = set()
    while time.monotonic() < deadline:
        rows = client.poll()
        if (assigned := client.assigned()) != known:
            known = assigned
            say("assigned", " ".join(f"{topic}-{partition}" for topic, partition in sorted(known)))
        _print(rows)
        if rows:
            ends = {(row.topic, row.partition): row.offset + 1 for row in rows}
            try:
                client.commit([Place(*where, offset) for where, offset in ends.items()])
                say("committed", len(rows))
            except Refused as error:
                # Of a rebalance: who has the partition now reads them again.
                say("not-committed", error.name)


def times(client: Client) -> None:
    for place in client.spec.places:
        say("time", *place, client.offset_at(place))


def say(*words: object) -> None:
    print(*words, sep="\t", flush=True)


def _print(rows: list[Row]) -> None:
    if rows:
        print("\n".join(map(line_of, rows)), flush=True)
