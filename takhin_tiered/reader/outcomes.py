"""What became of transactions: which are open at the end of a log, and which were aborted.

Source: Apache Kafka, ``ProducerStateManager`` for the last stable offset, ``TransactionIndex`` for what was aborted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import ObjectCorrupt, OffsetInHole, SegmentRefused
from takhin_tiered.formats.batch import Batch
from takhin_tiered.formats.open_transactions import OpenTransactions
from takhin_tiered.formats.transactions import AbortedTransaction, ongoing, parse_snapshot
from takhin_tiered.reader.finder import Bounds, Finder, Found
from takhin_tiered.reader.indexes import IndexCache, SegmentIndexes
from takhin_tiered.reader.opened import ArchivedSegment, OpenedSegment
from takhin_tiered.reader.reader import Reader
from takhin_tiered.reader.records import SegmentReader
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import FileKind, Partition, SegmentId

_MOST_WALKED = 1000


@dataclass(slots=True)
class _Walked:
    """The open transactions up to ``last``, a batch of a log that grows."""

    open: OpenTransactions
    last: Batch


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
        async with self.reader.open_segment(top.segment.id, proves_batches=True) as source:
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
        async with self.reader.open_segment(identity, proves_batches=True) as source:
            return _OfSegment(self, identity, source.open_transactions)

    async def _walk(self, source: OpenedSegment, end: int) -> tuple[tuple[int, int], ...]:
        """From the headers of all batches below ``end``, or of those that came since the last time."""
        segment = SegmentReader(source, await indexes_of(self.indexes, source))
        walked = self._walked.get(source.id)
        if walked is not None and walked.last.last_offset < end:
            reading = await segment.at_offset(walked.last.base_offset)
            if reading is not None:
                async with aclosing(reading.batches()) as batches:
                    first = await anext(batches, None)
                    if first is not None and (first.header.base_offset, first.header.crc) == (
                        walked.last.base_offset,
                        walked.last.crc,
                    ):
                        async for batch in batches:
                            if batch.header.base_offset >= end:
                                break
                            _note(walked.open, batch.header)
                            walked.last = batch.header
                        return walked.open.found() or ()
        fresh, last = OpenTransactions(await _ongoing(source)), None
        reading = await segment.at_offset(source.id.base_offset)
        if reading is not None:
            async with aclosing(reading.batches()) as batches:
                async for batch in batches:
                    if batch.header.base_offset >= end:
                        break
                    _note(fresh, batch.header)
                    last = batch.header
        if last is not None:
            if len(self._walked) > _MOST_WALKED:
                self._walked.clear()
            self._walked[source.id] = _Walked(fresh, last)
        return fresh.found() or ()


@dataclass(frozen=True, slots=True)
class _OfSegment:
    """Implements `SegmentTransactions`; the segment is opened when something of it is asked for."""

    outcomes: Outcomes
    id: SegmentId
    still_open: tuple[tuple[int, int], ...] | None

    async def aborted(self) -> tuple[AbortedTransaction, ...]:
        async with self.outcomes.reader.open_segment(self.id, proves_batches=True) as source:
            if isinstance(source, ArchivedSegment) and source.manifest.may_lack_files:
                raise SegmentRefused(
                    f"segment {self.id.path} was archived by a release that left out transaction indexes: nothing "
                    "tells which of its transactions were aborted",
                    segment=self.id.path,
                    hint="read_uncommitted gives all records, aborted ones too",
                )
            indexes = await indexes_of(self.outcomes.indexes, source)
            try:
                return await indexes.aborted(source)
            except ValueError as error:
                raise _malformed(self.id, FileKind.TXNINDEX, error) from error

    async def ongoing(self) -> Mapping[int, int] | None:
        async with self.outcomes.reader.open_segment(self.id, proves_batches=True) as source:
            return await _ongoing(source) if source.file(FileKind.SNAPSHOT) is not None else None


async def indexes_of(cache: IndexCache, source: OpenedSegment) -> SegmentIndexes:
    """Those of the very bytes that are open."""
    return cache.of((source.id, await source.tag(FileKind.LOG)))


def _note(transactions: OpenTransactions, header: Batch) -> None:
    if header.magic == 2:
        transactions.note(header.attributes, header.producer_id, header.base_offset)


async def _ongoing(source: OpenedSegment) -> Mapping[int, int]:
    """The transactions that are open at the beginning of a segment; none if it has no producer snapshot."""
    file = source.file(FileKind.SNAPSHOT)
    if file is None or not file.size:
        return {}
    try:
        return ongoing(parse_snapshot(await file.read(0, file.size)))
    except ValueError as error:
        raise _malformed(source.id, FileKind.SNAPSHOT, error) from error


def _malformed(identity: SegmentId, kind: FileKind, error: ValueError) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"the {kind} of segment {identity.path} is malformed: {error}",
        segment=identity.path,
        hint="Without it nothing tells which records were aborted. read_uncommitted gives them all",
    )


def _unknown_outcome(found: Found) -> OffsetInHole:
    assert found.following is not None
    return OffsetInHole(
        f"a transaction is open at offset {found.end} of {found.segment.id.directory}, and the offsets up to "
        f"{found.following - 1}, which may have its end, are neither on the disk nor in the archive",
        missing_from=found.end,
        next_offset=found.following,
        hint="read_uncommitted gives its records",
    )
