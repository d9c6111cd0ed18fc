"""The records of one segment, from an offset or a timestamp on, wherever the segment is.

One record costs one read of each index that is needed, unless it is in memory, and one read of the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import Damaged, SegmentRefused
from takhin_tiered.formats.batch import Batch
from takhin_tiered.formats.records import Record, Undecodable, decoded
from takhin_tiered.reader.cursor import Block, Cursor, RawBatch
from takhin_tiered.reader.indexes import SegmentIndexes
from takhin_tiered.reader.seeking import OffsetAndTimestamp, seek_offset, seek_time
from takhin_tiered.reader.source import SegmentSource
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import MAX_OFFSET, FileKind, SegmentId

_DECODED_IN_PLACE, _DECOMPRESSED_IN_PLACE = 32 << 10, 4 << 10
"""Bytes of a batch up to which a turn in a thread costs more than to decode it."""


class DecodedBatch(NamedTuple):
    """The records of a batch that a reader gets, none if it has none for it. ``next_offset`` is behind the batch."""

    header: Batch
    records: list[Record]
    next_offset: int


class Reading:
    """A place in a segment, from which it is read once. ``offset`` is the first offset that a reader wants."""

    def __init__(self, segment: SegmentId, cursor: Cursor, offset: int) -> None:
        self._segment, self._cursor, self.offset = segment, cursor, offset

    @property
    def next_offset(self) -> int:
        """Behind what was read."""
        return self._cursor.next_offset

    @property
    def log_format(self) -> str:
        return self._cursor.log_format

    @property
    def position(self) -> int:
        """Where the next batch begins in the log, in bytes."""
        return self._cursor.position

    def passed(self, next_offset: int) -> None:
        """Somebody else read the log up to before this offset."""
        self._cursor.passed(next_offset)

    async def require_end(self, position: int) -> None:
        """Return if no batch stands at this position, as at the end of a log; `Damaged` if there should be one."""
        last = self.next_offset
        with damage_of(self._segment):
            await self._cursor.begin(position, position)
            self._cursor.passed(last)
            if await self._cursor.next() is None:
                self._cursor.passed(last)

    async def batches(self) -> AsyncGenerator[RawBatch, None]:
        """Whole batches, control batches too. The first one may begin below the offset."""
        while True:
            with damage_of(self._segment):
                batch = await self._cursor.next()
            if batch is None:
                return
            yield batch

    async def blocks(self, *, before: int = MAX_OFFSET) -> AsyncGenerator[Block, None]:
        """The same, many at a time: for who passes the bytes on. Only of batches that begin below ``before``."""
        while True:
            with damage_of(self._segment):
                block = await self._cursor.next_block(before)
            if block is None:
                return
            yield block

    async def records(
        self, *, last_stable: int | None = None, aborted: Aborted | None = None, most: int | None = None
    ) -> AsyncGenerator[DecodedBatch, None]:
        """The records, batch by batch; of a control batch none.

        No record at or above ``last_stable`` is given. With ``aborted``, for ``read_committed``, none of an aborted
        transaction either. Of a batch with more than ``most`` records for the reader there is one more, and no others.
        """
        async for batch in self.batches():
            header = batch.header
            if last_stable is not None and not header.hides_first_offset and header.base_offset >= last_stable:
                return
            end = header.last_offset + 1 if last_stable is None else min(last_stable, header.last_offset + 1)
            if header.is_control or (aborted is not None and await aborted.has(header)):
                yield DecodedBatch(header, [], end)
                continue
            with damage_of(self._segment):
                records = await _decode(batch, self.offset, end, most)
            yield DecodedBatch(header, records, end)
            if end <= header.last_offset:
                return


class SegmentReader:
    """Reads one segment. ``indexes`` are its own, as an `IndexCache` keeps them.

    ``known_up_to``: an offset up to which its log has records, whatever its source tells.

    Damage raises `Damaged`, which names segment, position and offset; nothing of a damaged batch is given.
    """

    def __init__(self, source: SegmentSource, indexes: SegmentIndexes, known_up_to: int = -1) -> None:
        self._source, self._indexes, self._known_up_to = source, indexes, known_up_to

    async def at_offset(self, offset: int) -> Reading | None:
        """At the batch that has ``offset``, or the next one above it; None if the log ends before."""
        last = self._source.last_offset
        cursor = await self._cursor() if last is None or offset <= last else None
        if cursor is None:
            return None
        index = await self._indexes.offsets(self._source)
        with damage_of(self._source.id):
            is_found = await seek_offset(cursor, index, offset)
        return Reading(self._source.id, cursor, offset) if is_found else None

    async def at_time(self, timestamp: int) -> tuple[OffsetAndTimestamp, Reading] | None:
        """At the first record that is not older than ``timestamp``, in milliseconds; None if all are older.

        This is Kafka's rule: records after it may be older, and it may be a control record.
        """
        cursor = await self._cursor()
        if cursor is None:
            return None
        offsets, times = await self._indexes.offsets(self._source), await self._indexes.times(self._source)
        with damage_of(self._source.id):
            found = await seek_time(cursor, offsets, times, timestamp)
        return None if found is None else (found, Reading(self._source.id, cursor, found.offset))

    async def _cursor(self) -> Cursor | None:
        """None for an empty log."""
        source, log = self._source, self._source.file(FileKind.LOG)
        log_format = await self._indexes.format(source)
        if log is None or log_format == "empty":
            return None
        if log_format == "unknown":
            raise SegmentRefused(
                f"the log of segment {source.id.path} does not begin with a record of a known format",
                segment=source.id.path,
                hint="Its bytes can be read as they are",
            )
        index = await self._indexes.offsets(source)
        indexed_up_to = index.positions[-1] if len(index) else -1
        return Cursor(log, log_format, source.last_offset, indexed_up_to, self._known_up_to)


@contextmanager
def damage_of(segment: SegmentId) -> Iterator[None]:
    """Say which segment a damaged batch is of."""
    try:
        yield
    except Undecodable as error:
        raise Damaged(
            f"segment {segment.path} is damaged: {error}",
            segment=segment.path,
            hint="Nothing of this batch was given out. takhin-tiered verify tells whether the archive is damaged too",
        ) from error


async def _decode(batch: RawBatch, first: int, end: int, most: int | None) -> list[Record]:
    """Those from ``first`` to before ``end``, one more than ``most`` at most."""

    def wanted() -> list[Record]:
        return [
            *islice(
                (each for each in decoded(batch.data, batch.header) if first <= each.offset < end),
                None if most is None else most + 1,
            )
        ]

    if len(batch.data) <= (_DECOMPRESSED_IN_PLACE if batch.header.codec else _DECODED_IN_PLACE):
        return wanted()
    return await in_thread(wanted)
