"""One pass over a Kafka log, fed in pieces: every CRC, offsets, timestamps, leader epochs, open transactions."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from crc32c import crc32c

from takhin_tiered.formats.batch import (
    CRC_COVERS_FROM,
    HEADER,
    HEADER_SIZE,
    INT,
    KEY_AT,
    LARGEST_HEADER,
    LENGTH_ENDS_AT,
    LOG_APPEND_TIME,
    LONG,
    MAGIC_AT,
    MESSAGE,
    MESSAGE_CRC_COVERS_FROM,
    NO_TIMESTAMP,
    SMALLEST_LENGTH,
    SMALLEST_MESSAGE,
    TRANSACTIONAL_OR_CONTROL,
    Batch,
    Bytes,
    extend_crc,
    has_right_crc,
    header_size,
    parse_any,
    parse_batch,
    parse_message,
    start_crc,
)
from takhin_tiered.formats.open_transactions import OpenTransactions
from takhin_tiered.formats.summary import LogSummary
from takhin_tiered.formats.walk import PieceWalk

_LARGEST_FIRST_MESSAGE = 16 << 20


class KafkaWalk(PieceWalk):
    """Verifies the CRC of every batch; buffers at most one header, and the log's first message if it is compressed."""

    def __init__(self, size: int, ongoing: Mapping[int, int]) -> None:
        super().__init__(size)
        self._first: Batch | None = None
        self._first_found: tuple[int | None, int] = (-1, -1)
        self._last: Batch | None = None
        self._newest = -1
        self._problem = ""
        self._epochs: list[tuple[int, int]] = []
        self._epoch = -1
        self._next_offset = -1
        self._has_gaps = False
        self._transactions = OpenTransactions(ongoing)
        self._position = 0
        self._header = bytearray()
        self._batch: Batch | None = None
        self._whole: bytearray | None = None
        self._crc = self._left = 0

    def _take(self, view: memoryview, at: int) -> int:
        if self._batch is not None:
            return at + self._take_body(view[at:])
        if self._header or (after := self._take_whole_batches(view, at)) == at:
            return at + self._take_header(view[at:])
        return after

    def summary(self, newest: int) -> LogSummary:
        """The result for the whole log; ``newest`` is the last timestamp in its time index."""
        if self._first is None or self._last is None:
            return LogSummary("unknown", open_transactions=None)
        if self._first.magic < 2 and self._last.position == 0 and self._problem:
            # One message, which fails its CRC: other bytes may look like that.
            return LogSummary("unknown", open_transactions=None)
        problem, end = self._problem, self._last.end
        if end < self._size:
            problem = problem or f"no whole batch stands at byte {end} of {self._size} of the log"
        # Zeros behind the last batch are space that was allocated for more: the transactions are known all the same.
        is_only_space = self._is_rest_zeros and self._batch is None and not any(self._header)
        is_known = is_only_space and not self._problem
        first_offset, first_timestamp = self._first_found
        newest = max(self._newest, newest)
        return LogSummary(
            "kafka",
            first_offset,
            self._last.last_offset,
            first_timestamp if first_timestamp >= 0 or self._first.magic == 2 else None,
            newest if newest >= 0 or self._first.magic == 2 else None,
            problem,
            tuple(self._epochs),
            self._has_gaps,
            self._transactions.found() if is_known else None,
        )

    def _take_whole_batches(self, view: memoryview, at: int) -> int:
        """Fast path for batches that lie within one piece, as nearly all do. Returns where it stopped."""
        begin, end, newest = at, len(view), self._newest
        last = -1
        while at + HEADER_SIZE <= end:
            (base, length, epoch, magic, crc, attributes, last_delta, base_time, max_time, producer, _, _, count) = (
                HEADER.unpack_from(view, at)
            )
            after = at + length + LENGTH_ENDS_AT
            if magic != 2 or length < SMALLEST_LENGTH or base < 0 or last_delta < 0 or after > end:
                break
            if crc32c(view[at + CRC_COVERS_FROM : after]) != crc:
                self._problem = self._problem or _bad_crc(self._position + at - begin)
            if self._first is None:
                self._first = Batch(0, after - at, base, base + last_delta, base_time, max_time, crc, epoch, count)
                self._first_found = base, base_time
            if base != self._next_offset or count != last_delta + 1 or epoch != self._epoch:
                self._note_order(base, epoch, count, last_delta)
            if attributes & TRANSACTIONAL_OR_CONTROL:
                self._transactions.note(attributes, producer, base)
            self._next_offset = base + last_delta + 1
            newest = max(newest, max_time)
            last, at = at, after
        if last >= 0:
            self._last = parse_batch(view[last : last + HEADER_SIZE], self._position + last - begin)
            self._newest = newest
            self._position += at - begin
        return at if at > begin else self._take_whole_messages(view, at)

    def _take_whole_messages(self, view: memoryview, at: int) -> int:
        """The same for messages of magic 0 and 1; of compressed ones it takes one, by its header."""
        begin, end, newest, last = at, len(view), self._newest, -1
        while at + LARGEST_HEADER <= end:
            offset, length, crc, magic, attributes = MESSAGE.unpack_from(view, at)
            after = at + length + LENGTH_ENDS_AT
            if magic not in KEY_AT or attributes & ~LOG_APPEND_TIME or offset < 0 or not at < after <= end:
                break
            (key,) = INT.unpack_from(view, at + KEY_AT[magic])
            room = after - at - SMALLEST_MESSAGE[magic]
            if room < 0 or not -1 <= key <= room or (attributes and magic == 0):
                break
            if zlib.crc32(view[at + MESSAGE_CRC_COVERS_FROM : after]) != crc:
                self._problem = self._problem or _bad_crc(self._position + at - begin)
            time = LONG.unpack_from(view, at + MESSAGE.size)[0] if magic else NO_TIMESTAMP
            if self._first is None:
                self._first = parse_message(view[at : at + LARGEST_HEADER], 0)
                self._first_found = offset, time
            if offset != self._next_offset or self._epoch != -1:
                self._note_order(offset, -1, 1, 0)
            self._next_offset = offset + 1
            newest = max(newest, time)
            last, at = at, after
        if last >= 0:
            self._last = parse_message(view[last : last + LARGEST_HEADER], self._position + last - begin)
            self._newest = newest
            self._position += at - begin
        return at if at > begin else self._take_compressed(view, at)

    def _take_compressed(self, view: memoryview, at: int) -> int:
        """Take one compressed message that lies within the piece."""
        message = parse_message(view[at : at + LARGEST_HEADER], self._position)
        if message is None or at + message.size > len(view):
            return at
        data = view[at : at + message.size]
        self._end_batch(message, has_right_crc(message, data), data)
        return at + message.size

    def _take_header(self, view: memoryview) -> int:
        needed = header_size(self._header) if len(self._header) > MAGIC_AT else MAGIC_AT + 1
        taken = min(needed - len(self._header), len(view))
        self._header += view[:taken]
        is_magic_new = needed == MAGIC_AT + 1 == len(self._header) and header_size(self._header) > 0
        if len(self._header) < needed or is_magic_new:
            return taken
        batch = parse_any(self._header, self._position)
        if batch is None or self._position + batch.size > self._size:
            self._lost = True
            return taken
        self._batch, self._left = batch, batch.size - len(self._header)
        self._crc = start_crc(batch, self._header)
        keeps = self._first is None and batch.hides_first_offset and batch.size <= _LARGEST_FIRST_MESSAGE
        self._whole = bytearray(self._header) if keeps else None
        self._header.clear()
        if not self._left:
            self._end_batch(batch, self._crc == batch.crc, self._whole)
        return taken

    def _take_body(self, view: memoryview) -> int:
        assert self._batch is not None
        taken = min(self._left, len(view))
        self._crc = extend_crc(self._batch, self._crc, view[:taken])
        if self._whole is not None:
            self._whole += view[:taken]
        self._left -= taken
        if not self._left:
            self._end_batch(self._batch, self._crc == self._batch.crc, self._whole)
        return taken

    def _end_batch(self, batch: Batch, is_sound: bool, data: Bytes | None) -> None:
        if not is_sound:
            self._problem = self._problem or _bad_crc(batch.position)
        if self._first is None:
            self._first, self._first_found = batch, (batch.base_offset, batch.base_timestamp)
            if is_sound and batch.hides_first_offset and data is not None and len(data) <= _LARGEST_FIRST_MESSAGE:
                self._find_first(bytes(data), batch)
        if batch.hides_first_offset:
            # Only the records tell whether offsets are missing before the last one.
            self._next_offset = batch.base_offset
        delta = batch.last_offset - batch.base_offset
        self._note_order(batch.base_offset, batch.leader_epoch, batch.records, delta)
        if batch.magic == 2 and batch.attributes & TRANSACTIONAL_OR_CONTROL:
            self._transactions.note(batch.attributes, batch.producer_id, batch.base_offset)
        self._last = batch
        self._next_offset = batch.last_offset + 1
        self._newest = max(self._newest, batch.max_timestamp)
        self._position = batch.end
        self._batch = self._whole = None

    def _find_first(self, data: bytes, batch: Batch) -> None:
        # The parser is loaded for logs that need it: few begin with a compressed message of an old format.
        from takhin_tiered.formats.records import Undecodable, first_of

        try:
            first = first_of(data, batch)
        except Undecodable:
            # Its CRC says that these are the bytes that were written. It may be of a codec that only old brokers knew.
            self._first_found = None, NO_TIMESTAMP
        else:
            self._first_found = first.offset, first.timestamp

    def _note_order(self, base: int, epoch: int, count: int, last_delta: int) -> None:
        if count != last_delta + 1 or self._next_offset not in {-1, base}:
            self._has_gaps = True
        if epoch != self._epoch:
            self._epoch = epoch
            self._epochs.append((epoch, base))


def _bad_crc(position: int) -> str:
    return f"the batch at byte {position} of the log fails its CRC"
