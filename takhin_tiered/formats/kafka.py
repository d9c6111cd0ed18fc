"""Apache Kafka's files: record batches (magic 2), offset index, time index.

Source: Kafka protocol guide, "Record Batch"; ``OffsetIndex`` (entries of int32 relative offset and
int32 position) and ``TimeIndex`` (int64 timestamp, int32 relative offset). All are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crc32c import crc32c

_HEADER = struct.Struct(">qiiBIhiqqqhii")
_INDEX_ENTRY = struct.Struct(">ii")
_TIMEINDEX_ENTRY = struct.Struct(">qi")
HEADER_SIZE = _HEADER.size
TIMEINDEX_ENTRY_SIZE = _TIMEINDEX_ENTRY.size
_LENGTH_ENDS_AT = 12
_CRC_COVERS_FROM = 21
_SMALLEST_LENGTH = HEADER_SIZE - _LENGTH_ENDS_AT


@dataclass(frozen=True, slots=True)
class Batch:
    """The header of a record batch, and its position. Timestamps are milliseconds."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    base_timestamp: int
    max_timestamp: int
    crc: int
    leader_epoch: int = -1
    records: int = 0


@dataclass(frozen=True, slots=True)
class LogSummary:
    """The result of reading a log. ``format`` is ``kafka``, ``empty`` or ``unknown``; ``problem`` describes damage.

    ``leader_epochs`` are (epoch, offset of its first batch) in log order. ``has_gaps``: offsets are missing between
    the first and the last one, as after compaction.
    """

    format: str
    first_offset: int | None = None
    last_offset: int | None = None
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    problem: str = ""
    leader_epochs: tuple[tuple[int, int], ...] = ()
    has_gaps: bool = False


def parse_batch(header: bytes, position: int) -> Batch | None:
    """Parse a batch header; None if these bytes are not one."""
    if len(header) < HEADER_SIZE:
        return None
    (base, length, epoch, magic, crc, _, last_delta, base_time, max_time, *_, count) = _HEADER.unpack_from(header)
    if magic != 2 or length < _SMALLEST_LENGTH or base < 0 or last_delta < 0:
        return None
    return Batch(position, length + _LENGTH_ENDS_AT, base, base + last_delta, base_time, max_time, crc, epoch, count)


class LogWalk:
    """Parses a log fed in pieces, in order, and verifies the CRC of every batch; buffers at most one header.

    A log that does not begin with a batch has an unknown format.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._first: Batch | None = None
        self._last: Batch | None = None
        self._newest = -1
        self._problem = ""
        self._epochs: list[tuple[int, int]] = []
        self._epoch = -1
        self._next_offset = -1
        self._has_gaps = False
        self._position = 0
        self._header = bytearray()
        self._batch: Batch | None = None
        self._crc = self._left = 0
        self._lost = False

    def update(self, piece: bytes | memoryview) -> None:
        view, at = memoryview(piece), 0
        while at < len(view) and not self._lost:
            if self._batch is not None:
                at += self._take_body(view[at:])
            elif self._header or (after := self._take_whole_batches(view, at)) == at:
                at += self._take_header(view[at:])
            else:
                at = after

    def summary(self, timeindex: bytes) -> LogSummary:
        """The result for the whole log; its time index may have a later timestamp."""
        if self._size == 0:
            return LogSummary("empty")
        if self._first is None or self._last is None:
            return LogSummary("unknown")
        problem, end = self._problem, self._last.position + self._last.size
        if end < self._size:
            problem = problem or f"no whole batch stands at byte {end} of {self._size} of the log"
        newest = max(self._newest, last_timestamp(timeindex))
        first, last = self._first, self._last
        return LogSummary(
            "kafka",
            first.base_offset,
            last.last_offset,
            first.base_timestamp,
            newest,
            problem,
            tuple(self._epochs),
            self._has_gaps,
        )

    def _take_whole_batches(self, view: memoryview, at: int) -> int:
        """Fast path for batches that lie within one piece, as nearly all do. Returns where it stopped."""
        begin, end, newest = at, len(view), self._newest
        last = -1
        while at + HEADER_SIZE <= end:
            (base, length, epoch, magic, crc, _, last_delta, base_time, max_time, *_, count) = _HEADER.unpack_from(
                view, at
            )
            after = at + length + _LENGTH_ENDS_AT
            if magic != 2 or length < _SMALLEST_LENGTH or base < 0 or last_delta < 0 or after > end:
                break
            if crc32c(view[at + _CRC_COVERS_FROM : after]) != crc:
                self._problem = self._problem or _bad_crc(self._position + at - begin)
            if self._first is None:
                self._first = Batch(0, after - at, base, base + last_delta, base_time, max_time, crc, epoch, count)
            if base != self._next_offset or count != last_delta + 1 or epoch != self._epoch:
                self._note_order(base, epoch, count, last_delta)
            self._next_offset = base + last_delta + 1
            newest = max(newest, max_time)
            last, at = at, after
        if last >= 0:
            self._last = parse_batch(bytes(view[last : last + HEADER_SIZE]), self._position + last - begin)
            self._newest = newest
            self._position += at - begin
        return at

    def _take_header(self, view: memoryview) -> int:
        taken = min(HEADER_SIZE - len(self._header), len(view))
        self._header += view[:taken]
        if len(self._header) < HEADER_SIZE:
            return taken
        batch = parse_batch(bytes(self._header), self._position)
        if batch is None or self._position + batch.size > self._size:
            self._lost = True
            return taken
        self._batch, self._left = batch, batch.size - HEADER_SIZE
        self._crc = crc32c(self._header[_CRC_COVERS_FROM:])
        self._header.clear()
        if not self._left:
            self._end_batch(batch)
        return taken

    def _take_body(self, view: memoryview) -> int:
        assert self._batch is not None
        taken = min(self._left, len(view))
        self._crc = crc32c(view[:taken], self._crc)
        self._left -= taken
        if not self._left:
            self._end_batch(self._batch)
        return taken

    def _end_batch(self, batch: Batch) -> None:
        if self._crc != batch.crc:
            self._problem = self._problem or _bad_crc(batch.position)
        self._first, self._last = self._first or batch, batch
        self._note_order(batch.base_offset, batch.leader_epoch, batch.records, batch.last_offset - batch.base_offset)
        self._next_offset = batch.last_offset + 1
        self._newest = max(self._newest, batch.max_timestamp)
        self._position += batch.size
        self._batch = None

    def _note_order(self, base: int, epoch: int, count: int, last_delta: int) -> None:
        if count != last_delta + 1 or self._next_offset not in {-1, base}:
            self._has_gaps = True
        if epoch != self._epoch:
            self._epoch = epoch
            self._epochs.append((epoch, base))


def _bad_crc(position: int) -> str:
    return f"the batch at byte {position} of the log fails its CRC"


def last_timestamp(timeindex: bytes) -> int:
    """The timestamp of the last entry, in milliseconds; -1 if there is none."""
    whole = len(timeindex) // TIMEINDEX_ENTRY_SIZE * TIMEINDEX_ENTRY_SIZE
    return int(_TIMEINDEX_ENTRY.unpack_from(timeindex, whole - TIMEINDEX_ENTRY_SIZE)[0]) if whole else -1


def index_entry(relative_offset: int, position: int) -> bytes:
    return _INDEX_ENTRY.pack(relative_offset, position)


def timeindex_entry(timestamp: int, relative_offset: int) -> bytes:
    return _TIMEINDEX_ENTRY.pack(timestamp, relative_offset)
