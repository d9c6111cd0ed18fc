"""What a client is to do, and what it prints: lines of text that Python and Java read and write alike."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

READ_COMMITTED = "read_committed"
READ_UNCOMMITTED = "read_uncommitted"
NOWHERE = -1


class Place(NamedTuple):
    """An offset of a partition, or a time."""

    topic: str
    partition: int
    number: int

    def __str__(self) -> str:
        return f"{self.topic} {self.partition} {self.number}"


class Row(NamedTuple):
    """One record, as a client gave it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True)
class Spec:
    """As lines of ``name=value`` it is the standard input of the client's process.

    ``do``: ``read`` to the end of each partition, ``follow`` without an end, look up ``times``, or ``produce``.
    ``batch``: records of one poll at most.
    ``at``: where to begin with ``assign``; without it at the beginning. ``group``: whose offsets are committed.
    """

    bootstrap: str
    do: str = "read"
    topics: str = ""
    mode: str = "assign"
    isolation: str = READ_COMMITTED
    group: str = ""
    reset: str = "earliest"
    at: str = ""
    seconds: str = "60"
    batch: str = "500"
    idempotent: str = "false"
    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    user: str = ""
    password: str = ""
    ca: str = ""

    @property
    def text(self) -> str:
        return "".join(f"{field.name}={getattr(self, field.name)}\n" for field in fields(self))

    @property
    def topic_names(self) -> list[str]:
        return self.topics.split(",")

    @property
    def places(self) -> list[Place]:
        found = (words.split() for words in self.at.split(",") if words)
        return [Place(topic, int(partition), int(number)) for topic, partition, number in found]

    @property
    def is_in_group(self) -> bool:
        return self.mode == "subscribe"


def parse_spec(text: str) -> Spec:
    return Spec(**dict(line.split("=", 1) for line in text.splitlines()))


def places(found: Iterable[Place]) -> str:
    return ",".join(map(str, found))


def line_of(row: Row) -> str:
    headers = ",".join(f"{_text(name.encode())}:{_text(value)}" for name, value in row.headers)
    fixed = f"{row.topic}\t{row.partition}\t{row.offset}\t{row.timestamp}"
    return f"record\t{fixed}\t{_text(row.key)}\t{_text(row.value)}\t{headers}"


def row_of(words: list[str]) -> Row:
    topic, partition, offset, timestamp, key, value, headers = words
    pairs = (pair.split(":") for pair in headers.split(",") if pair)
    found = tuple(((_bytes(name) or b"").decode(), _bytes(content)) for name, content in pairs)
    return Row(topic, int(partition), int(offset), int(timestamp), _bytes(key), _bytes(value), found)


def _text(data: bytes | None) -> str:
    return "-" if data is None else base64.b64encode(data).decode()


def _bytes(text: str) -> bytes | None:
    return None if text == "-" else base64.b64decode(text)
