"""Apache Kafka's offset index and time index; and the one pass over a log of any format.

Source: ``OffsetIndex`` (entries of int32 relative offset and int32 position) and ``TimeIndex`` (int64 timestamp, int32
relative offset). All are big-endian.
"""

from __future__ import annotations

import struct

from takhin_tiered.formats.batch import HEADER_SIZE, Batch, parse_batch
from takhin_tiered.formats.detect import HEAD, detect
from takhin_tiered.formats.kafka_walk import KafkaWalk
from takhin_tiered.formats.summary import LogSummary
from takhin_tiered.formats.takhin import TakhinWalk

__all__ = [
    "HEADER_SIZE",
    "TIMEINDEX_ENTRY_SIZE",
    "Batch",
    "LogSummary",
    "LogWalk",
    "index_entry",
    "last_timestamp",
    "parse_batch",
    "timeindex_entry",
]

_INDEX_ENTRY = struct.Struct(">ii")
_TIMEINDEX_ENTRY = struct.Struct(">qi")
TIMEINDEX_ENTRY_SIZE = _TIMEINDEX_ENTRY.size


class LogWalk:
    """Parses a log fed in pieces, in order, and verifies what its format lets verify.

    The format is that of its first bytes; a log that does not begin with a record of a known one has an unknown format.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._head = bytearray()
        self._format = ""
        self._walk: KafkaWalk | TakhinWalk | None = None

    def update(self, piece: bytes | memoryview) -> None:
        if self._walk is not None:
            self._walk.update(piece)
        elif not self._format:
            self._begin(memoryview(piece))

    def summary(self, timeindex: bytes) -> LogSummary:
        """The result for the whole log; a Kafka log's time index may have a later timestamp."""
        if self._size == 0:
            return LogSummary("empty")
        if not self._format:
            # The file ended before its head was whole.
            self._start(self._head)
        match self._walk:
            case KafkaWalk():
                return self._walk.summary(last_timestamp(timeindex))
            case TakhinWalk():
                return self._walk.summary()
        return LogSummary("unknown", open_transactions=None)

    def _begin(self, view: memoryview) -> None:
        needed = min(HEAD, self._size)
        if not self._head and len(view) >= needed:
            self._start(view)
            return
        self._head += view
        if len(self._head) >= needed:
            self._start(self._head)

    def _start(self, head: memoryview | bytearray) -> None:
        self._format = detect(memoryview(head)[:HEAD], self._size)
        if self._format == "kafka":
            self._walk = KafkaWalk(self._size)
        elif self._format == "takhin":
            self._walk = TakhinWalk(self._size)
        if self._walk is not None:
            self._walk.update(head)
        self._head = bytearray()


def last_timestamp(timeindex: bytes) -> int:
    """The timestamp of the last entry, in milliseconds; -1 if there is none."""
    whole = len(timeindex) // TIMEINDEX_ENTRY_SIZE * TIMEINDEX_ENTRY_SIZE
    return int(_TIMEINDEX_ENTRY.unpack_from(timeindex, whole - TIMEINDEX_ENTRY_SIZE)[0]) if whole else -1


def index_entry(relative_offset: int, position: int) -> bytes:
    return _INDEX_ENTRY.pack(relative_offset, position)


def timeindex_entry(timestamp: int, relative_offset: int) -> bytes:
    return _TIMEINDEX_ENTRY.pack(timestamp, relative_offset)
