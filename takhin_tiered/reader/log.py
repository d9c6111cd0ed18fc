"""The log of a partition, read in place: segment after segment, from the disk or the archive.

It ends at the last record that consumers may see. Records that are missing in between are an error, never skipped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.naming import named_incarnation
from takhin_tiered.errors import OffsetInHole, OffsetOutOfRange, PartitionNotFound
from takhin_tiered.formats.records import Record
from takhin_tiered.reader.finder import Bounds, Finder, Found
from takhin_tiered.reader.indexes import IndexCache
from takhin_tiered.reader.outcomes import Outcomes, indexes_of
from takhin_tiered.reader.question import Isolation, Question, RecordPage
from takhin_tiered.reader.reader import Reader
from takhin_tiered.reader.records import DecodedBatch, Reading, SegmentReader
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import Partition

_PAGE_BYTES = 16 << 20
"""Keys and values of a page: what a caller has in memory at once, but for a single larger batch."""


@dataclass(slots=True)
class _Log:
    """Where a question is answered from: the log of one incarnation, of which ``end`` is not given."""

    partition: Partition
    label: str
    bounds: Bounds
    end: int
    is_committed: bool


@dataclass(frozen=True, slots=True)
class LogReader:
    """Reads records, whole batches, and finds offsets."""

    catalog: Catalog
    finder: Finder
    reader: Reader
    indexes: IndexCache
    outcomes: Outcomes

    async def page(self, question: Question, max_records: int) -> RecordPage:
        """Up to so many records, fewer before a hole, at the end, and where they are large.

        Raises `PartitionNotFound`, `OffsetOutOfRange`, `OffsetInHole`, and what reading a segment raises.
        """
        log = await self._log_of(question)
        records: list[Record] = []
        next_offset, size = -1, 0
        try:
            async with aclosing(self._decoded(question, log)) as batches:
                async for batch in batches:
                    wanted = max_records - len(records)
                    records += batch.records[:wanted]
                    if len(batch.records) > wanted:
                        return RecordPage(records, batch.records[wanted].offset)
                    next_offset = batch.next_offset
                    size += batch.header.size
                    if len(records) == max_records or size > _PAGE_BYTES:
                        return RecordPage(records, next_offset)
        except OffsetInHole as hole:
            if next_offset < 0:
                raise
            return RecordPage(records, hole.missing_from)
        return RecordPage(records, max(log.end, question.offset or 0))

    async def batches(self, question: Question) -> AsyncGenerator[bytes, None]:
        """Whole batches as they stand in the log, to its end. `OffsetInHole` at a hole, and else as `page`.

        The first one may begin below the offset. With `Isolation.READ_COMMITTED` those of aborted transactions, and
        control batches, are left out.
        """
        log = await self._log_of(question)
        async with aclosing(self._readings(question, log)) as readings:
            async for reading, aborted in readings:
                async for batch in reading.batches():
                    header = batch.header
                    if header.base_offset >= log.end and not header.hides_first_offset:
                        return
                    if aborted is not None and (header.is_control or await aborted.has(header)):
                        continue
                    yield bytes(batch.data)

    async def _decoded(self, question: Question, log: _Log) -> AsyncGenerator[DecodedBatch, None]:
        async with aclosing(self._readings(question, log)) as readings:
            async for reading, aborted in readings:
                async for batch in reading.records(last_stable=log.end, aborted=aborted):
                    yield batch

    async def _log_of(self, question: Question) -> _Log:
        partition = question.topic, question.partition
        name = f"{question.topic}-{question.partition}"
        label = self.catalog.lineage(partition).current
        if question.topic_id:
            label = named_incarnation(self.catalog, partition, question.topic_id)
        bounds = await in_thread(self.finder.bounds, partition, label)
        if bounds is None:
            raise PartitionNotFound(
                f"nothing is known of partition {name}", hint="takhin-tiered ls --partitions lists all partitions"
            )
        if question.isolation is Isolation.READ_UNCOMMITTED:
            return _Log(partition, label, bounds, bounds.end, is_committed=False)
        end = await self.outcomes.last_stable_offset(partition, label, bounds)
        return _Log(partition, label, bounds, end, is_committed=True)

    async def _readings(self, question: Question, log: _Log) -> AsyncGenerator[tuple[Reading, Aborted | None], None]:
        """A place in each segment in turn, with what tells which of its batches were aborted."""
        if question.offset is None:
            found, offset = await self._at_time(question.timestamp or 0, log, 0), None
        else:
            offset = question.offset
            found = await self._at_offset(offset, log)
        while found is not None:
            async with self.reader.open_segment(found.segment.id, proves_batches=True) as source:
                segment = SegmentReader(source, await indexes_of(self.indexes, source))
                if offset is None:
                    at = await segment.at_time(question.timestamp or 0)
                    reading = None if at is None else at[1]
                else:
                    reading = await segment.at_offset(offset)
                if reading is not None:
                    offset = reading.offset
                    yield reading, self.outcomes.aborted_from(found, log.label) if log.is_committed else None
            if found.end >= log.end:
                return
            if offset is None:
                found = await self._at_time(question.timestamp or 0, log, found.segment.id.base_offset + 1)
                continue
            offset = max(offset, found.end)
            if found.is_followed_by_hole:
                raise hole_behind(found)
            found = await in_thread(self.finder.next, found, log.label)

    async def _at_offset(self, offset: int, log: _Log) -> Found | None:
        name = f"{log.partition[0]}-{log.partition[1]}"
        if offset < log.bounds.start:
            raise OffsetOutOfRange(
                f"offset {offset} of {name} is below the first one that is known, {log.bounds.start}",
                next_offset=log.bounds.start,
            )
        if offset > log.bounds.end:
            raise OffsetOutOfRange(f"offset {offset} of {name} is above the end, {log.bounds.end}", next_offset=None)
        if offset >= log.end:
            return None
        found = await in_thread(self.finder.find, log.partition, offset, log.label)
        if found is not None and found.is_followed_by_hole and offset >= found.end:
            raise hole_behind(found, offset)
        return found

    async def _at_time(self, timestamp: int, log: _Log, from_offset: int) -> Found | None:
        """The first segment from a base on that has a record not older than this, in milliseconds."""
        while True:
            segment = await in_thread(
                self.catalog.not_older, log.partition, timestamp, log.label, from_offset=from_offset
            )
            if segment is None or segment.id.base_offset >= log.end:
                return None
            base = segment.id.base_offset
            # The time index of a local log may lack its last entries: only a walk through the batches is sure.
            last = None
            if segment.is_proven:
                manifest = await self.reader.manifests.get(segment.id)
                last = manifest.last_timestamp if manifest is not None else None
            if last is None or last >= timestamp:
                return await in_thread(self.finder.find, log.partition, base, log.label)
            from_offset = base + 1


def hole_behind(found: Found, offset: int | None = None) -> OffsetInHole:
    assert found.following is not None
    partition = found.segment.id.directory
    return OffsetInHole(
        f"offsets {found.end} to {found.following - 1} of {partition} are neither on the disk nor in the archive",
        missing_from=found.end if offset is None else offset,
        next_offset=found.following,
        hint=f"The next one that can be read is {found.following}",
    )
