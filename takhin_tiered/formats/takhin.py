"""Takhin's own log format: records one after the other, without batches and without checksums.

A record is ``u32 size, i64 offset, i64 timestamp, u32 key length, key, u32 value length, value``, big-endian; the size
counts the bytes that follow it. Takhin's writer counts four bytes too many, and leaves them zero behind the value: both
forms are read. Its offset index has (offset, position), its time index (timestamp, offset) of every record, int64 each.
"""

from __future__ import annotations

import struct

from takhin_tiered.formats.batch import Batch, Bytes
from takhin_tiered.formats.summary import LogSummary
from takhin_tiered.formats.walk import PieceWalk

MAGIC = -1
"""The magic of a `Batch` that is one record of Takhin's: its format has none."""

_HEAD = struct.Struct(">IqqI")
_LENGTH = struct.Struct(">I")
RECORD_HEAD = _HEAD.size
_OVERHEAD = RECORD_HEAD + _LENGTH.size
_PADDINGS = (0, 4)


def parse_record(head: Bytes, position: int) -> Batch | None:
    """Parse the head of a record; None if these bytes are not one."""
    if len(head) < RECORD_HEAD:
        return None
    size, offset, timestamp, key = _HEAD.unpack_from(head)
    if offset < 0 or _OVERHEAD + key > _LENGTH.size + size:
        return None
    return Batch(position, _LENGTH.size + size, offset, offset, timestamp, timestamp, 0, records=1, magic=MAGIC)


def is_sound(record: Batch, data: Bytes) -> bool | None:
    """Whether key, value and padding fill a record exactly; None where ``data`` ends before the value's length."""
    *_, key = _HEAD.unpack_from(data)
    at = RECORD_HEAD + key
    if at + _LENGTH.size > len(data):
        return None
    (value,) = _LENGTH.unpack_from(data, at)
    return _fills(record, key, value)


def _fills(record: Batch, key: int, value: int) -> bool:
    return record.size - _OVERHEAD - key - value in _PADDINGS


def key_and_value(data: Bytes) -> tuple[bytes, bytes]:
    """Of a whole record that `is_sound`."""
    *_, key = _HEAD.unpack_from(data)
    at = RECORD_HEAD + key
    (value,) = _LENGTH.unpack_from(data, at)
    return bytes(data[RECORD_HEAD:at]), bytes(data[at + _LENGTH.size : at + _LENGTH.size + value])


class TakhinWalk(PieceWalk):
    """One pass over a log, fed in pieces. Buffers a record's head and its value's length."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._first: tuple[int, int] | None = None
        self._last_offset = self._newest = -1
        self._has_gaps = False
        self._problem = ""
        self._end = 0
        self._begun = bytearray()
        self._key_left = 0
        self._record: Batch | None = None
        self._left = 0

    def _take(self, view: memoryview, at: int) -> int:
        if self._record is not None:
            return at + self._skip(view[at:])
        if self._begun or (after := self._take_whole_records(view, at)) == at:
            return at + self._take_head(view[at:])
        return after

    def summary(self) -> LogSummary:
        """The result for the whole log. Zeros behind the last record are space that was allocated for more."""
        if self._first is None:
            return LogSummary("unknown", open_transactions=None)
        problem = self._problem
        is_only_space = self._is_rest_zeros and self._record is None and not any(self._begun)
        if self._end < self._size and not is_only_space:
            problem = problem or f"no whole record stands at byte {self._end} of {self._size} of the log"
        return LogSummary(
            "takhin", self._first[0], self._last_offset, self._first[1], self._newest, problem, has_gaps=self._has_gaps
        )

    def _take_whole_records(self, view: memoryview, at: int) -> int:
        """Fast path for records that lie within one piece. Returns where it stopped."""
        end = len(view)
        while at + _OVERHEAD <= end:
            size, offset, timestamp, key = _HEAD.unpack_from(view, at)
            after = at + _LENGTH.size + size
            if after > end or offset < 0 or at + _OVERHEAD + key > after:
                break
            (value,) = _LENGTH.unpack_from(view, at + RECORD_HEAD + key)
            if after - at - _OVERHEAD - key - value not in _PADDINGS:
                break
            self._note(offset, timestamp, after - at)
            at = after
        return at

    def _take_head(self, view: memoryview) -> int:
        """Take a record's head, pass its key by, and take its value's length: other bytes may claim a huge key."""
        if self._key_left:
            passed = min(self._key_left, len(view))
            self._key_left -= passed
            return passed
        needed = RECORD_HEAD if len(self._begun) < RECORD_HEAD else _OVERHEAD
        taken = min(needed - len(self._begun), len(view))
        self._begun += view[:taken]
        if len(self._begun) < needed:
            return taken
        record, key = parse_record(self._begun, self._end), int(_HEAD.unpack_from(self._begun)[3])
        if record is None or record.end > self._size:
            self._lost = True
        elif needed == RECORD_HEAD:
            self._key_left = key
        elif not _fills(record, key, _LENGTH.unpack_from(self._begun, RECORD_HEAD)[0]):
            self._lost = True
        else:
            self._record, self._left = record, record.size - _OVERHEAD - key
            self._begun.clear()
            self._skip(view[:0])
        return taken

    def _skip(self, view: memoryview) -> int:
        assert self._record is not None
        taken = min(self._left, len(view))
        self._left -= taken
        if not self._left:
            self._note(self._record.base_offset, self._record.base_timestamp, self._record.size)
            self._record = None
        return taken

    def _note(self, offset: int, timestamp: int, size: int) -> None:
        if self._first is None:
            self._first = offset, timestamp
        elif offset <= self._last_offset:
            self._problem = self._problem or (
                f"the record at byte {self._end} of the log has offset {offset}, and follows {self._last_offset}"
            )
        elif offset != self._last_offset + 1:
            self._has_gaps = True
        self._last_offset = max(self._last_offset, offset)
        self._newest = max(self._newest, timestamp)
        self._end += size
