"""Find the end of a Kafka log by its offset index, without reading the whole log.

Source: Apache Kafka, ``OffsetIndex`` (int32 relative offset, int32 position) and ``LogSegment.readNextOffset``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from takhin_tiered.formats.kafka import HEADER_SIZE, parse_batch

_ENTRY = struct.Struct(">ii")
_ENTRIES_AT_ONCE = 512

Read = Callable[[int, int], bytes]
"""``read(position, length)``; returns fewer bytes at the end."""


def last_offset(read_log: Read, log_size: int, read_index: Read, index_size: int) -> int | None:
    """The offset of the last record of a log; None if it does not begin with a record batch of magic 2.

    With an empty, preallocated or wrong index the log is read from its beginning: slower, with the same result.
    """
    if log_size == 0 or parse_batch(read_log(0, HEADER_SIZE), 0) is None:
        return None
    found = _walk(read_log, log_size, _last_position(read_index, index_size))
    return _walk(read_log, log_size, 0) if found is None else found


def _last_position(read_index: Read, size: int) -> int:
    """The position in the last non-zero entry: the rest of a preallocated index is zeros."""
    end = size // _ENTRY.size * _ENTRY.size
    while end > 0:
        begin = max(0, end - _ENTRIES_AT_ONCE * _ENTRY.size)
        for relative, position in reversed(list(_ENTRY.iter_unpack(read_index(begin, end - begin)))):
            if relative > 0 and position > 0:
                return int(position)
        end = begin
    return 0


def _walk(read_log: Read, log_size: int, position: int) -> int | None:
    """The last offset of the complete batches from ``position`` on; None if there is no batch."""
    found: int | None = None
    while position + HEADER_SIZE <= log_size:
        batch = parse_batch(read_log(position, HEADER_SIZE), position)
        if batch is None or position + batch.size > log_size:
            break
        found = batch.last_offset
        position += batch.size
    return found
