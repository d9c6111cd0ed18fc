"""What became of transactions: which are open at the end of a log, and which were aborted.

Source: Apache Kafka, ``ProducerStateManager`` for the last stable offset, ``TransactionIndex`` for what was aborted.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import Damaged, OffsetInHole, SegmentRefused
from takhin_tiered.formats.batch import Batch
from takhin_tiered.formats.open_transactions import OpenTransactions
from takhin_tiered.formats.transactions import AbortedTransaction, ongoing, parse_snapshot
from takhin_tiered.reader.finder import Bounds, Finder, Found
from takhin_tiered.reader.indexes import IndexCache, SegmentIndexes
from takhin_tiered.reader.opened import ArchivedSegment, OpenedSegment
from takhin_tiered.reader.reader import Reader
from takhin_tiered.reader.records import Reading, SegmentReader
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import FileKind, Partition, SegmentId

_MOST_WALKED = 1000


@dataclass(slots=True)
class _Walked:
    """The open transactions up to ``last``, a batch of a log that grows; None if it has not been walked."""

    open: OpenTransactions
    last: Batch | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of the segments that a reader opens; what was found out of growing ones is kept."""

    finder: Finder
    reader: Reader
    indexes: IndexCache
    _walked: dict[SegmentId, _Walked] = field(default_factory=dict)

    async def last_stable_offset(self, partition: Partition, label: str, bounds: Bounds) -> int:
        """The first offset of the earliest transaction that is open at the end of the log; its end if none is."""
        if bounds.end <= bounds.start:
            return bounds.end
        top = await in_thread(self.finder.find, partition, bounds.end - 1, label)
        if top is None:
            return bounds.end
        async with self.reader.open_segment(top.segment.id) as source:
            still_open = source.open_transactions if bounds.end >= top.end else None
            if still_open is None:
                still_open = await self._walk(source, bounds.end)
        # What was open at the end of an archived segment may have ended since: only the top of the log counts.
        return min([bounds.end, *(first for _, first in still_open)])

    def aborted_from(self, found: Found, label: str) -> Aborted:
        """For the batches of this segment."""

        async def from_here() -> AsyncIterator[_OfSegment]:
            at: Found | None = found
            while at is not None:
                yield await self._of(at.segment.id)
                if at.is_followed_by_hole:
                    raise _unknown_outcome(at)
                at = await in_thread(self.finder.next, at, label)

        return Aborted(from_here)

    async def _of(self, identity: SegmentId) -> _OfSegment:
        async with self.reader.open_segment(identity) as source:
            return _OfSegment(self, identity, source.open_transactions)

    async def _walk(self, source: OpenedSegment, end: int) -> tuple[tuple[int, int], ...]:
        """From the headers of all batches below ``end``, or of those that came since the last time."""
        walked = self._walked.get(source.id)
        if walked is None:
            while len(self._walked) >= _MOST_WALKED:
                del self._walked[next(iter(self._walked))]
            walked = self._walked[source.id] = _Walked(OpenTransactions())
        # One after the other: each goes on where the one before ended.
        async with walked.lock:
            segment = SegmentReader(source, await indexes_of(self.indexes, source))
            last = walked.last
            if last is not None and last.last_offset < end:
                reading = await segment.at_offset(last.base_offset)
                if reading is not None and await _go_on(reading, walked, end, behind=last):
                    return walked.open.found() or ()
            # A walk that is broken off leaves nothing behind that could be believed.
            walked.last = None
            walked.open = OpenTransactions(await self._open_before(source), sys.maxsize)
            reading = await segment.at_offset(source.id.base_offset)
            if reading is not None:
                await _go_on(reading, walked, end)
            return walked.open.found() or ()

    async def _open_before(self, source: OpenedSegment) -> Mapping[int, int]:
        """The transactions that are open where a segment begins: by its snapshot, or the manifest of the one before."""
        file = source.file(FileKind.SNAPSHOT)
        if file is not None and file.size:
            try:
                return ongoing(parse_snapshot(await file.read(0, file.size)))
            except ValueError as error:
                raise Damaged(
                    f"the producer snapshot of segment {source.id.path} is malformed: {error}",
                    segment=source.id.path,
                    hint="Without it nothing tells which transactions are open. read_uncommitted does not need it",
                ) from error
        base = source.id.base_offset
        before = await in_thread(self.finder.find, source.id.place.partition, base - 1, source.id.label)
        if before is None or before.end != base or before.segment.archive is None:
            return {}
        async with self.reader.open_segment(before.segment.id) as opened:
            return dict(opened.open_transactions or ())


async def _go_on(reading: Reading, walked: _Walked, end: int, *, behind: Batch | None = None) -> bool:
    """Note all batches below ``end``; those that follow this one. False if it is not there any more."""
    async with aclosing(reading.batches()) as batches:
        if behind is not None:
            first = await anext(batches, None)
            if first is None or (first.header.base_offset, first.header.crc) != (behind.base_offset, behind.crc):
                return False
        async for batch in batches:
            header = batch.header
            if header.base_offset >= end:
                break
            if header.magic == 2:
                walked.open.note(header.attributes, header.producer_id, header.base_offset)
            walked.last = header
    return True


@dataclass(frozen=True, slots=True)
class _OfSegment:
    """Implements `SegmentTransactions`; the segment is opened when something of it is asked for."""

    outcomes: Outcomes
    id: SegmentId
    still_open: tuple[tuple[int, int], ...] | None

    async def aborted(self) -> tuple[AbortedTransaction, ...]:
        async with self.outcomes.reader.open_segment(self.id) as source:
            if isinstance(source, ArchivedSegment) and source.manifest.may_lack_files:
                raise SegmentRefused(
                    f"segment {self.id.path} was archived by a release that left out transaction indexes: nothing "
                    "tells which of its transactions were aborted",
                    segment=self.id.path,
                    hint="read_uncommitted gives all records, aborted ones too",
                )
            return await (await indexes_of(self.outcomes.indexes, source)).aborted(source)

    async def ongoing(self) -> Mapping[int, int] | None:
        async with self.outcomes.reader.open_segment(self.id) as source:
            if source.file(FileKind.SNAPSHOT) is None:
                return None
            return await (await indexes_of(self.outcomes.indexes, source)).ongoing(source)


async def indexes_of(cache: IndexCache, source: OpenedSegment) -> SegmentIndexes:
    """Those of the very bytes that are open. A broker may append to an index later than to the log."""
    return cache.of((source.id, await source.tag(FileKind.LOG), source.variant))


def _unknown_outcome(found: Found) -> OffsetInHole:
    assert found.following is not None
    return OffsetInHole(
        f"a transaction is open at offset {found.end} of {found.segment.id.directory}, and the offsets up to "
        f"{found.following - 1}, which may have its end, are neither on the disk nor in the archive",
        missing_from=None,
        next_offset=found.following,
        hint="read_uncommitted gives its records",
    )
