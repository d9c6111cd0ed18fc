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
_WINDOW = 1 << 20
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
    """What a look at a log tells. ``format`` is ``kafka``, ``empty`` or ``unknown``; ``problem`` what is wrong."""

    format: str
    first_offset: int | None = None
    last_offset: int | None = None
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    problem: str = ""


def parse_batch(header: bytes, position: int) -> Batch | None:
    """Read a batch header; None where these bytes are not one."""
    if len(header) < HEADER_SIZE:
        return None
    (base, length, _, magic, crc, _, last_delta, base_time, max_time, *_) = _HEADER.unpack_from(header)
    if magic != 2 or length < _SMALLEST_LENGTH or base < 0 or last_delta < 0:
        return None
    return Batch(position, length + _LENGTH_ENDS_AT, base, base + last_delta, base_time, max_time, crc)


def batches(source: Source, size: int) -> Iterator[Batch]:
    """Walk the headers; ends at the first place where no whole batch stands."""
    position = 0
    while position + HEADER_SIZE <= size:
        batch = parse_batch(source(position, HEADER_SIZE), position)
        if batch is None or position + batch.size > size:
            return
        yield batch
        position += batch.size


def crc_matches(batch: Batch, data: bytes) -> bool:
    """Whether the CRC-32C in the header is that of the batch, whose bytes ``data`` are."""
    return len(data) == batch.size and int(crc32c(data[_CRC_COVERS_FROM:])) == batch.crc


def summarize(source: Source, size: int, timeindex: bytes) -> LogSummary:
    """Walk a log, and compare every batch with its CRC. What does not begin with a batch is of no format known here.

    Takes time with the number of batches and bytes, and memory with the largest batch.
    """
    if size == 0:
        return LogSummary("empty")
    first = last = None
    newest, problem = _last_timestamp(timeindex), ""
    window = _Window(source, size)
    for batch in batches(window.read, size):
        if not crc_matches(batch, window.read(batch.position, batch.size)):
            problem = problem or f"the batch at byte {batch.position} of the log fails its CRC"
        first, last = first or batch, batch
        newest = max(newest, batch.max_timestamp)
    if first is None or last is None:
        return LogSummary("unknown")
    end = last.position + last.size
    if end < size:
        problem = problem or f"no whole batch stands at byte {end} of {size} of the log"
    return LogSummary("kafka", first.base_offset, last.last_offset, first.base_timestamp, newest, problem)


class _Window:
    """A piece of a source, so that many small reads cost few large ones."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        self._data, self._at = b"", 0

    def read(self, offset: int, length: int) -> bytes:
        start = offset - self._at
        if start < 0 or start + length > len(self._data):
            self._data, self._at, start = self._read(offset, max(length, _WINDOW)), offset, 0
        return self._data[start : start + length]

    def _read(self, offset: int, length: int) -> bytes:
        pieces, got = [], 0
        while got < min(length, self._size - offset) and (piece := self._source(offset + got, length - got)):
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)


def _last_timestamp(timeindex: bytes) -> int:
    whole = len(timeindex) // 12 * 12
    return int(_TIMEINDEX_ENTRY.unpack_from(timeindex, whole - 12)[0]) if whole else -1


def index_entry(relative_offset: int, position: int) -> bytes:
    return _INDEX_ENTRY.pack(relative_offset, position)


def timeindex_entry(timestamp: int, relative_offset: int) -> bytes:
    return _TIMEINDEX_ENTRY.pack(timestamp, relative_offset)
