"""Apache Kafka's files: record batches (magic 2), offset index, time index.

Source: Kafka protocol guide, "Record Batch"; ``OffsetIndex`` (entries of int32 relative offset and
int32 position) and ``TimeIndex`` (int64 timestamp, int32 relative offset). All are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google_crc32c import value as crc32c

_HEADER = struct.Struct(">qiiBIhiqqqhii")
_INDEX_ENTRY = struct.Struct(">ii")
_TIMEINDEX_ENTRY = struct.Struct(">qi")
HEADER_SIZE = _HEADER.size
_LENGTH_ENDS_AT = 12
_CRC_COVERS_FROM = 21
_WINDOW = 256 * 1024
_SMALLEST_LENGTH = HEADER_SIZE - _LENGTH_ENDS_AT

Source = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """The header of one record batch, and where it stands. Timestamps are milliseconds."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    base_timestamp: int
    max_timestamp: int
    crc: int


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What a look at a log tells. ``format`` is ``kafka``, ``empty`` or ``unknown``."""

    format: str
    first_offset: int | None = None
    last_offset: int | None = None
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    whole: bool = True


def parse_batch(header: bytes, position: int) -> Batch | None:
    """Read a batch header; None where these bytes are not one."""
    if len(header) < HEADER_SIZE:
        return None
    (base, length, _, magic, crc, _, last_delta, base_time, max_time, *_) = _HEADER.unpack_from(header)
    if magic != 2 or length < _SMALLEST_LENGTH or base < 0 or last_delta < 0:
        return None
    return Batch(position, length + _LENGTH_ENDS_AT, base, base + last_delta, base_time, max_time, crc)


def batches(source: Source, size: int, start: int = 0) -> Iterator[Batch]:
    """Walk the headers from ``start``; ends at the first place where no whole batch stands."""
    position, window, window_at = start, b"", 0
    while position + HEADER_SIZE <= size:
        inside = position - window_at
        if inside + HEADER_SIZE > len(window):
            window, window_at, inside = source(position, _WINDOW), position, 0
        batch = parse_batch(window[inside : inside + HEADER_SIZE], position)
        if batch is None or position + batch.size > size:
            return
        yield batch
        position += batch.size


def crc_matches(batch: Batch, data: bytes) -> bool:
    """Whether the CRC-32C in the header is that of the batch, whose bytes ``data`` are."""
    return len(data) == batch.size and int(crc32c(data[_CRC_COVERS_FROM:])) == batch.crc


def summarize(source: Source, size: int, index: bytes, timeindex: bytes) -> LogSummary:
    """Look at both ends of a log; the indexes save walking all of it.

    Where an index points into nothing that is a batch, the log is walked from its start.
    """
    if size == 0:
        return LogSummary("empty")
    first = next(batches(source, size), None)
    if first is None:
        return LogSummary("unknown", whole=False)
    last, newest = _walk_to_end(source, size, _last_position(index, size))
    if last is None:
        last, newest = _walk_to_end(source, size, 0)
    assert last is not None
    return LogSummary(
        "kafka",
        first_offset=first.base_offset,
        last_offset=last.last_offset,
        first_timestamp=first.base_timestamp,
        last_timestamp=max(newest, _last_timestamp(timeindex)),
        whole=last.position + last.size == size,
    )


def _walk_to_end(source: Source, size: int, start: int) -> tuple[Batch | None, int]:
    last, newest = None, -1
    for last in batches(source, size, start):
        newest = max(newest, last.max_timestamp)
    return last, newest


def _last_position(index: bytes, size: int) -> int:
    whole = len(index) // 8 * 8
    position = int(_INDEX_ENTRY.unpack_from(index, whole - 8)[1]) if whole else 0
    return position if 0 < position < size else 0


def _last_timestamp(timeindex: bytes) -> int:
    whole = len(timeindex) // 12 * 12
    return int(_TIMEINDEX_ENTRY.unpack_from(timeindex, whole - 12)[0]) if whole else -1


def index_entry(relative_offset: int, position: int) -> bytes:
    return _INDEX_ENTRY.pack(relative_offset, position)


def timeindex_entry(timestamp: int, relative_offset: int) -> bytes:
    return _TIMEINDEX_ENTRY.pack(timestamp, relative_offset)
