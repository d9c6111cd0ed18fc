"""What a reader of records asks for, and what it gets."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from takhin_tiered.errors import InvalidQuery
from takhin_tiered.formats.records import Record

BATCHES = "application/vnd.takhin.record-batches"
"""The media type of whole record batches, one behind the other, as they stand in a log."""
_SLICE = 3 << 18
"""Bytes of base64 that are made at once; a multiple of three, so that slices need no padding."""
_COMPACT = (",", ":")


class Isolation(StrEnum):
    """As Kafka's ``isolation.level``."""

    READ_UNCOMMITTED = "read_uncommitted"
    READ_COMMITTED = "read_committed"


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """From which record on to read: by offset, or the first one that is not older than a timestamp in milliseconds.

    `InvalidQuery` unless it has exactly one of the two. ``topic_id`` names an earlier incarnation.
    """

    topic: str
    partition: int
    offset: int | None = None
    timestamp: int | None = None
    isolation: Isolation = Isolation.READ_UNCOMMITTED
    topic_id: str | None = None

    def __post_init__(self) -> None:
        if (self.offset is None) == (self.timestamp is None):
            raise InvalidQuery("exactly one of offset and timestamp has to be given")
        if (self.offset or self.timestamp or 0) < 0:
            raise InvalidQuery("offset and timestamp are not negative")


@dataclass(frozen=True, slots=True)
class RecordPage:
    """``next_offset`` is where to go on: behind the last record, and behind what was filtered."""

    records: list[Record]
    next_offset: int


def described_page(page: RecordPage) -> dict[str, Any]:
    """Ready for JSON: keys, values and the values of headers are base64, or None."""
    return {"records": [_described(record) for record in page.records], "next_offset": page.next_offset}


def written(page: RecordPage) -> Iterator[bytes]:
    """The JSON text of `described_page`, in parts; none of them is large, whatever the records are."""
    yield b'{"records":['
    for number, record in enumerate(page.records):
        if number:
            yield b","
        yield from written_record(record)
    yield b'],"next_offset":%d}' % page.next_offset


def written_record(record: Record) -> Iterator[bytes]:
    size = len(record.key or b"") + len(record.value or b"") + sum(len(value or b"") for _, value in record.headers)
    if size <= _SLICE:
        yield json.dumps(_described(record), separators=_COMPACT).encode()
        return
    yield b'{"offset":%d,"timestamp":%d,"key":' % (record.offset, record.timestamp)
    yield from _written(record.key)
    yield b',"value":'
    yield from _written(record.value)
    yield b',"headers":['
    for number, (name, value) in enumerate(record.headers):
        yield (b"[" if not number else b",[") + json.dumps(name).encode() + b","
        yield from _written(value)
        yield b"]"
    yield b"]}"


def _written(data: bytes | None) -> Iterator[bytes]:
    if data is None:
        yield b"null"
        return
    yield b'"'
    for at in range(0, len(data), _SLICE):
        yield base64.b64encode(data[at : at + _SLICE])
    yield b'"'


def _described(record: Record) -> dict[str, Any]:
    return {
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(value)] for name, value in record.headers],
    }


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
