"""The batches of one log, in order, in constant memory."""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from takhin_tiered.concurrency import in_thread
from takhin_tiered.formats import takhin
from takhin_tiered.formats.batch import (
    CRC_COVERS_FROM,
    HEADER,
    HEADER_SIZE,
    LENGTH_ENDS_AT,
    SMALLEST_LENGTH,
    Batch,
    has_right_crc,
)
from takhin_tiered.formats.frames import LARGEST_HEAD, parse_frame
from takhin_tiered.formats.index import KAFKA
from takhin_tiered.formats.records import Undecodable, as_bytes
from takhin_tiered.reader.source import SegmentFile

READ_SIZE = 4 << 20
"""Bytes of one read, but for a batch that is larger. What is read ahead of its use is no more than this."""
_CHECKED_IN_PLACE = 4 << 20
"""Bytes of a batch up to which a turn in a thread costs more than to check them in the event loop."""


class RawBatch(NamedTuple):
    """A whole batch as it stands in the log, checked by its CRC where its format has one.

    ``data`` is a view of a larger read, which it keeps in memory: a caller who keeps it for long should copy it.
    """

    header: Batch
    data: memoryview

    def copy(self) -> bytes:
        """Of a large batch, which was read by itself, there is no need for another one."""
        return as_bytes(self.data)


class Block(NamedTuple):
    """Whole batches one after the other, checked as each of them. ``data`` is a view, as in `RawBatch`."""

    data: memoryview
    first_offset: int
    next_offset: int


class Cursor:
    """Goes through a log from a position on. ``last_offset`` is that of the whole log, None if it is not known.

    Where it is not known, zeros may stand behind the last batch, space allocated for more, or the beginning of a batch
    that the broker is about to write. ``indexed_up_to`` is a position at which a batch stands by the index, and
    ``known_up_to`` an offset up to which there are records: before them there is no end.
    """

    def __init__(
        self, file: SegmentFile, log_format: str, last_offset: int | None, indexed_up_to: int, known_up_to: int = -1
    ) -> None:
        self._file, self._format, self._last_known = file, log_format, last_offset
        self._indexed_up_to, self._known_up_to = indexed_up_to, known_up_to
        self._buffer = memoryview(b"")
        # Where the buffer begins in the file, and where the next batch begins in it: before it, if it has begun in
        # ``begun``, the end of the read before.
        self._position = 0
        self._at = 0
        self._begun = memoryview(b"")
        self._last = -1
        self._kept: RawBatch | None = None

    async def begin(self, position: int, end: int) -> None:
        """Go to a position, with one read up to ``end`` at least where the log is as long."""
        self._kept, self._last = None, -1
        self._position, self._at = position, 0
        end = min(max(end, position + LARGEST_HEAD), self._file.size)
        self._buffer = memoryview(await self._file.read(position, end) if position < end else b"")

    async def next(self) -> RawBatch | None:
        """The next batch; None at the end of the log. `Undecodable` if it is damaged."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        position = self._position + self._at
        head = await self._bytes(LARGEST_HEAD)
        header = parse_frame(head, position, self._format)
        if header is None or header.end > self._file.size:
            self._require_end(header, head)
            return None
        data = await self._bytes(header.size)
        if header.size <= _CHECKED_IN_PLACE:
            self._require_sound(header, data)
        else:
            await in_thread(self._require_sound, header, data)
        self._at += header.size
        self._last = header.last_offset
        return RawBatch(header, data)

    async def next_block(self, before: int) -> Block | None:
        """The next batches up to the end of what is in memory; of those that begin below the offset ``before``."""
        first = await self.next()
        if first is None or first.header.base_offset >= before:
            return None
        begin = first.header.position - self._position
        if begin < 0:
            # It began in the read before, so it does not stand in the buffer with those behind it.
            return Block(first.data, first.header.base_offset, first.header.last_offset + 1)
        self._pass_batches(before)
        return Block(self._buffer[begin : self._at], first.header.base_offset, self._last + 1)

    def passed(self, next_offset: int) -> None:
        """Note that somebody else read the log up to before this offset."""
        self._last = next_offset - 1

    def push_back(self, batch: RawBatch) -> None:
        """Give this batch once more: it was the last one that `next` gave."""
        self._kept = batch

    def _pass_batches(self, before: int) -> None:
        """Go past sound batches of magic 2 in memory. What is none is left for `next`, which says what is wrong."""
        view, at, last = self._buffer, self._at, self._last
        while self._format == KAFKA and at + HEADER_SIZE <= len(view):
            base, length, _, magic, crc, _, last_delta, *_ = HEADER.unpack_from(view, at)
            after = at + length + LENGTH_ENDS_AT
            is_batch = magic == 2 and length >= SMALLEST_LENGTH and last < base < before and last_delta >= 0
            if not is_batch or after > len(view) or crc32c(view[at + CRC_COVERS_FROM : after]) != crc:
                break
            at, last = after, base + last_delta
        self._at, self._last = at, last

    @property
    def log_format(self) -> str:
        return self._format

    @property
    def position(self) -> int:
        """Where the batch begins that `next` gives."""
        return self._position + self._at if self._kept is None else self._kept.header.position

    @property
    def next_offset(self) -> int:
        """Behind the last batch that `next` gave; 0 before the first."""
        return self._last + 1

    async def _bytes(self, count: int) -> memoryview:
        """The next bytes, fewer at the end of the log."""
        end = self._position + len(self._buffer)
        if count > len(self._buffer) - self._at and end < self._file.size:
            if count > READ_SIZE:
                # What is there of a large batch is read again: to copy it all takes longer.
                self._position, self._at, self._begun = self._position + self._at, 0, memoryview(b"")
                until = min(self._file.size, self._position + count)
                self._buffer = memoryview(await self._file.read(self._position, until))
            else:
                await self._read_on(end, count)
        if self._at >= 0:
            return self._buffer[self._at : self._at + count]
        # It begins in the read before.
        begun = self._begun[self._at :]
        if count <= len(begun):
            return begun[:count]
        return memoryview(b"".join((begun, self._buffer[: count - len(begun)])))

    async def _read_on(self, end: int, count: int) -> None:
        """Up to a multiple of `READ_SIZE`: whole chunks of an archived file need not be copied."""
        left = self._buffer[self._at :] if self._at >= 0 else b"".join((self._begun[self._at :], self._buffer))
        until = (end // READ_SIZE + 1) * READ_SIZE
        if until - end + len(left) < count:
            until += READ_SIZE
        self._buffer = memoryview(await self._file.read(end, min(self._file.size, until)))
        self._begun, self._position, self._at = memoryview(left), end, -len(left)

    def _require_sound(self, header: Batch, data: memoryview) -> None:
        if header.magic == takhin.MAGIC:
            if not takhin.is_sound(header, data):
                raise Undecodable(header.position, header.base_offset, "has a key and a value that do not fill it")
        elif not has_right_crc(header, data):
            raise Undecodable(header.position, header.base_offset, "fails its CRC")
        # Offsets stand outside the CRCs.
        if header.base_offset <= self._last:
            raise Undecodable(header.position, header.base_offset, f"follows offset {self._last}")

    def _require_end(self, header: Batch | None, head: memoryview) -> None:
        """Raise unless the log may end here, at bytes that are no whole batch."""
        position = self._position + self._at
        if self._last_known is None:
            is_space_or_begun = header is not None or len(head) < LARGEST_HEAD or not any(head)
            is_behind_known = position > self._indexed_up_to and self._last >= self._known_up_to
            may_end = is_space_or_begun and is_behind_known
        else:
            may_end = self._last >= self._last_known
        if not may_end:
            offset = self._last + 1 if header is None else header.base_offset
            raise Undecodable(position, offset, "is no whole batch")
