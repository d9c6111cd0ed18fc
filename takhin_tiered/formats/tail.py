"""Find the end of a log by its offset index, without reading the whole log.

Source: Apache Kafka, ``OffsetIndex`` (int32 relative offset, int32 position) and ``LogSegment.readNextOffset``. The
entries of Takhin's are int64 each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from takhin_tiered.formats.detect import HEAD, detect
from takhin_tiered.formats.frames import LARGEST_HEAD, parse_frame

_ENTRIES = {"kafka": struct.Struct(">ii"), "takhin": struct.Struct(">qq")}
_ENTRIES_AT_ONCE = 512

Read = Callable[[int, int], bytes]
"""``read(position, length)``; returns fewer bytes at the end."""


def last_offset(read_log: Read, log_size: int, read_index: Read, index_size: int) -> int | None:
    """The offset of the last record of a log; None if it does not begin with a record of a known format.

    With an empty, preallocated or wrong index the log is read from its beginning: slower, with the same result.
    """
    log_format = detect(read_log(0, HEAD), log_size)
    if log_format not in _ENTRIES:
        return None
    position = _last_position(read_index, index_size, _ENTRIES[log_format])
    found = _walk(read_log, log_size, position, log_format)
    return _walk(read_log, log_size, 0, log_format) if found is None else found


def _last_position(read_index: Read, size: int, entry: struct.Struct) -> int:
    """The position in the last non-zero entry: the rest of a preallocated index is zeros."""
    end = size // entry.size * entry.size
    while end > 0:
        begin = max(0, end - _ENTRIES_AT_ONCE * entry.size)
        for offset, position in reversed(list(entry.iter_unpack(read_index(begin, end - begin)))):
            if offset > 0 and position > 0:
                return int(position)
        end = begin
    return 0


def _walk(read_log: Read, log_size: int, position: int, log_format: str) -> int | None:
    """The last offset of the complete frames from ``position`` on; None if there is none."""
    found: int | None = None
    while position < log_size:
        frame = parse_frame(read_log(position, LARGEST_HEAD), position, log_format)
        if frame is None or frame.end > log_size:
            break
        found, position = frame.last_offset, frame.end
    return found
