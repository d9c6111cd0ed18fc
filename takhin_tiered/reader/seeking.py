"""Find an offset or a timestamp in one segment: the indexes say where to look, the batches there whether it is true."""

from __future__ import annotations

from typing import NamedTuple

from takhin_tiered.concurrency import in_thread
from takhin_tiered.formats.index import OffsetIndex, Span, TimeEntry, TimeIndex
from takhin_tiered.formats.records import Undecodable, decoded, first_of
from takhin_tiered.reader.cursor import READ_SIZE, Cursor, RawBatch

_BATCH_MARGIN = 1 << 20
"""What a batch may take of which only the position is known: ``message.max.bytes`` of a broker, by default."""
_DECODED_IN_PLACE = 4 << 10
"""Bytes of a batch up to which a turn in a thread costs more than to decode it."""


class OffsetAndTimestamp(NamedTuple):
    offset: int
    timestamp: int


async def seek_offset(cursor: Cursor, index: OffsetIndex, offset: int) -> bool:
    """Go to the batch that has ``offset``, or the next one above it; False if the log ends before."""
    is_first_try = True
    while True:
        span = index.span(offset)
        await cursor.begin(span.start, _likely_end(span))
        if await _is_true(cursor, span.start, offset):
            break
        index = index.before(span.start) if is_first_try else index.before(span.start).first_half()
        is_first_try = False
    while (batch := await cursor.next()) is not None:
        if batch.header.last_offset >= offset:
            cursor.push_back(batch)
            return True
    return False


async def seek_time(
    cursor: Cursor, offsets: OffsetIndex, times: TimeIndex, timestamp: int
) -> OffsetAndTimestamp | None:
    """Go to the batch with the first record that is not older than ``timestamp``; None if all are older.

    Kafka's rule, as in ``FileRecords.searchForTimestamp``: a control record counts too.
    """
    is_first_try = True
    while True:
        before, after = times.around(timestamp)
        span = offsets.span(before.offset) if before is not None else Span(0, None, None)
        end = _likely_end(span) if after is None else _likely_end(offsets.span(after.offset))
        await cursor.begin(span.start, min(end, span.start + READ_SIZE))
        if before is None:
            return await _first_at(cursor, timestamp)
        if await _is_true(cursor, span.start, before.offset) and await _pass_entry(cursor, before, timestamp):
            return await _first_at(cursor, timestamp)
        # Either of the two indexes may be the wrong one.
        offsets, times = offsets.before(span.start), times.before(before.offset)
        if not is_first_try:
            offsets, times = offsets.first_half(), times.first_half()
        is_first_try = False


async def _is_true(cursor: Cursor, position: int, offset: int) -> bool:
    """Whether a batch stands at the cursor's position, and all before it are below ``offset``."""
    if position == 0:
        return True
    try:
        batch = await cursor.next()
        if batch is None:
            return False
        first = batch.header.base_offset
        if batch.header.hides_first_offset and first > offset:
            first = (await in_thread(first_of, batch.copy(), batch.header)).offset
    except Undecodable:
        # An entry may point into the middle of a batch. If the batch itself is damaged, the next try finds out.
        return False
    cursor.push_back(batch)
    return first <= offset


async def _pass_entry(cursor: Cursor, entry: TimeEntry, timestamp: int) -> bool:
    """Go past what an entry of the time index says is older; False if the batches say otherwise."""
    try:
        while (batch := await cursor.next()) is not None:
            if batch.header.max_timestamp >= timestamp:
                return False
            if batch.header.last_offset >= entry.offset:
                return batch.header.max_timestamp == entry.timestamp
    except Undecodable:
        return False
    return False


async def _first_at(cursor: Cursor, timestamp: int) -> OffsetAndTimestamp | None:
    while (batch := await cursor.next()) is not None:
        if batch.header.max_timestamp >= timestamp:
            in_place = len(batch.data) <= _DECODED_IN_PLACE
            found = _first_in(batch, timestamp) if in_place else await in_thread(_first_in, batch, timestamp)
            if found is not None:
                cursor.push_back(batch)
                return found
    return None


def _first_in(batch: RawBatch, timestamp: int) -> OffsetAndTimestamp | None:
    if batch.header.is_control:
        return OffsetAndTimestamp(batch.header.base_offset, batch.header.max_timestamp)
    for record in decoded(batch.data, batch.header):
        if record.timestamp >= timestamp:
            return OffsetAndTimestamp(record.offset, record.timestamp)
    return None


def _likely_end(span: Span) -> int:
    """How far to read at once, so that a second read is seldom needed and not much is read in vain."""
    if span.end is not None and span.end - span.start <= READ_SIZE:
        return span.end
    return min((span.likely_end or span.start) + _BATCH_MARGIN, span.start + READ_SIZE)
