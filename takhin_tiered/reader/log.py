"""The log of a partition, read in place: segment after segment, from the disk or the archive.

It ends at the last record that consumers may see. Records that are missing in between are an error, never skipped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.heating import Heating
from takhin_tiered.engine.naming import named_incarnation
from takhin_tiered.engine.scanning import Scanner
from takhin_tiered.errors import OffsetInHole, OffsetOutOfRange, PartitionNotFound, SegmentChanged, SegmentNotFound
from takhin_tiered.formats.batch import Bytes
from takhin_tiered.formats.records import Record
from takhin_tiered.reader.finder import Bounds, Finder, Found
from takhin_tiered.reader.indexes import IndexCache
from takhin_tiered.reader.opened import LocalOpened, OpenedSegment
from takhin_tiered.reader.outcomes import Outcomes, indexes_of
from takhin_tiered.reader.prefetching import Prefetching
from takhin_tiered.reader.query import Isolation, RecordPage, RecordQuery
from takhin_tiered.reader.reader import Reader
from takhin_tiered.reader.records import Reading, SegmentReader
from takhin_tiered.reader.seeking import OffsetAndTimestamp
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import FileKind, Partition

_PAGE_BYTES = 16 << 20
"""Keys, values and headers of a page: what a caller has in memory at once, but for a single larger batch."""
TRIES = 4


@dataclass(slots=True)
class Meter:
    """Bytes that were read."""

    size: int = 0


class Part(NamedTuple):
    """A place in one segment, the offset up to which it is read, and what tells which batches were aborted.

    ``at`` is the record that was looked for by its time. Whoever reads adds its bytes to ``meter``.
    """

    source: OpenedSegment
    reading: Reading
    end: int
    aborted: Aborted | None
    at: OffsetAndTimestamp | None
    meter: Meter


@dataclass(slots=True)
class OpenLog:
    """Where a query is answered from: the log of one incarnation, up to before ``end``."""

    partition: Partition
    label: str
    bounds: Bounds
    end: int
    is_committed: bool


@dataclass(slots=True)
class _Page:
    """What was read so far; ``next_offset`` is where to go on, None before the first batch."""

    most: int
    records: list[Record] = field(default_factory=list)
    next_offset: int | None = None
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.records) >= self.most or self.size > _PAGE_BYTES


@dataclass(frozen=True, slots=True)
class LogReader:
    """Reads records, and whole batches."""

    catalog: Catalog
    scanner: Scanner
    heating: Heating
    finder: Finder
    reader: Reader
    indexes: IndexCache
    outcomes: Outcomes
    know: Callable[[], Awaitable[bool]]
    """Learns what the archive holds; False where that is known already. Before that, what is missing may be there."""

    async def page(self, query: RecordQuery, max_records: int) -> RecordPage:
        """Up to so many records, fewer before a hole, at the end, and where they are large.

        Raises `PartitionNotFound`, `OffsetOutOfRange`, `OffsetInHole`, and what reading a segment raises.
        """
        page = _Page(max_records)
        for tries_left in reversed(range(TRIES)):
            try:
                log = await self.open_log(query, again=tries_left < TRIES - 1)
                return await self._page(query, log, page)
            except OffsetInHole as hole:
                if page.next_offset is None:
                    raise
                return RecordPage(page.records, page.next_offset if hole.missing_from is None else hole.missing_from)
            except (SegmentChanged, SegmentNotFound):
                # It moved, or the broker deleted it: what is known of it may be old.
                if not tries_left:
                    raise
            query = _after(query, page.next_offset)
        raise AssertionError

    async def batches(self, query: RecordQuery) -> AsyncGenerator[Bytes, None]:
        """Whole batches as they stand in the log, to its end. `OffsetInHole` at a hole, and else as `page`.

        The first one may begin below the offset. With `Isolation.READ_COMMITTED` those of aborted transactions, and
        control batches, are left out. A view keeps the bytes around it in memory: copy what is kept for long.
        """
        tries_left, next_offset = TRIES, None
        while True:
            log = await self.open_log(query, again=tries_left < TRIES)
            try:
                async with aclosing(self._batches(query, log)) as batches:
                    async for data, behind in batches:
                        yield data
                        tries_left, next_offset = TRIES, behind
                return
            except (SegmentChanged, SegmentNotFound):
                tries_left -= 1
                if not tries_left:
                    raise
            query = _after(query, next_offset)

    async def offset_at(self, query: RecordQuery) -> OffsetAndTimestamp | None:
        """The first record that is not older than the query's timestamp; None if all that may be read are older.

        This is Kafka's rule: it may be a control record. Raises as `page`.
        """
        for tries_left in reversed(range(TRIES)):
            log = await self.open_log(query, again=tries_left < TRIES - 1)
            try:
                async with aclosing(self.parts(query, log, is_lookup=True)) as parts:
                    part = await anext(parts, None)
                    return part.at if part is not None and part.reading.offset < log.end else None
            except (SegmentChanged, SegmentNotFound):
                if not tries_left:
                    raise
        raise AssertionError

    async def _page(self, query: RecordQuery, log: OpenLog, page: _Page) -> RecordPage:
        async with aclosing(self.parts(query, log)) as parts:
            async for part in parts:
                async with aclosing(
                    part.reading.records(last_stable=part.end, aborted=part.aborted, most=page.most)
                ) as batches:
                    async for batch in batches:
                        part.meter.size += batch.header.size
                        wanted = page.most - len(page.records)
                        page.records += batch.records[:wanted]
                        if len(batch.records) > wanted:
                            return RecordPage(page.records, batch.records[wanted].offset)
                        page.next_offset = batch.next_offset
                        page.size += max(batch.header.size, sum(map(_size_of, batch.records)))
                        if page.is_full:
                            return RecordPage(page.records, page.next_offset)
        return RecordPage(page.records, max(log.end, query.offset or 0))

    async def _batches(self, query: RecordQuery, log: OpenLog) -> AsyncGenerator[tuple[memoryview, int], None]:
        """One batch or more at a time, and the offset behind them."""
        async with Prefetching(self.reader) as prefetching, aclosing(self.parts(query, log, prefetching)) as parts:
            async for part in parts:
                async with aclosing(
                    _all_of(part) if part.aborted is None else _committed_of(part, part.aborted)
                ) as some:
                    async for each in some:
                        part.meter.size += len(each[0])
                        yield each

    async def open_log(self, query: RecordQuery, *, again: bool) -> OpenLog:
        if query.offset is None:
            # A record that is not known yet may be the one.
            await self.know()
        try:
            return await self.look(query, again=again)
        except (PartitionNotFound, SegmentNotFound, OffsetOutOfRange, OffsetInHole):
            if not await self.know():
                raise
            return await self.look(query, again=again)

    async def look(self, query: RecordQuery, *, again: bool) -> OpenLog:
        """The same by what is known already: what is missing may be in the archive."""
        partition = query.topic, query.partition
        await self.scanner.look_at(partition, again=again)
        label = self.catalog.lineage(partition).current
        if query.topic_id:
            label = named_incarnation(self.catalog, partition, query.topic_id)
        bounds = await in_thread(self.finder.bounds, partition, label)
        if bounds is None:
            raise PartitionNotFound(
                f"nothing is known of partition {query.topic}-{query.partition}",
                hint="takhin-tiered ls --partitions lists all partitions",
            )
        log = OpenLog(partition, label, bounds, bounds.end, is_committed=False)
        if query.offset is not None:
            # An offset that is not there is told before anything is read.
            await self._at_offset(query.offset, log)
        if query.isolation is Isolation.READ_UNCOMMITTED:
            return log
        end = await self.outcomes.last_stable_offset(partition, label, bounds)
        return OpenLog(partition, label, bounds, end, is_committed=True)

    async def parts(
        self,
        query: RecordQuery,
        log: OpenLog,
        prefetching: Prefetching | None = None,
        *,
        is_lookup: bool = False,
    ) -> AsyncGenerator[Part, None]:
        """What is to be read, segment after segment. It counts as one read of each, a lookup as none."""
        offset = query.offset
        if offset is None:
            found = await self._at_time(query.timestamp or 0, log, 0)
        else:
            found = await self._at_offset(offset, log)
        while found is not None:
            following = None if prefetching is None else await in_thread(self.finder.next, found, log.label)
            near_end = None
            if prefetching is not None and following is not None and following.segment.id.base_offset < log.end:
                near_end = prefetching.of(following.segment.id)
            async with self.reader.open_segment(found.segment.id, near_end=near_end) as source:
                segment = SegmentReader(source, await indexes_of(self.indexes, source), _known_up_to(found, source))
                if offset is None:
                    found_at = await segment.at_time(query.timestamp or 0)
                    at, reading = (None, None) if found_at is None else found_at
                    if reading is not None:
                        await self._require_none_missing_before(found, reading.offset, log)
                else:
                    at, reading = None, await segment.at_offset(offset)
                if reading is not None:
                    offset = reading.offset
                    aborted = self.outcomes.aborted_from(found, log.label) if log.is_committed else None
                    end = log.end if found.following is None else min(log.end, found.following)
                    if not is_lookup:
                        self.heating.note(found.segment.id)
                    meter = Meter()
                    try:
                        yield Part(source, reading, end, aborted, at, meter)
                    finally:
                        self.heating.note_more(found.segment.id, meter.size)
                    offset = max(offset, min(reading.next_offset, end))
            if offset is not None:
                _require_read_to_its_end(found, offset, log)
                offset = max(offset, found.end)
            if found.end >= log.end:
                return
            if offset is None:
                found = await self._at_time(query.timestamp or 0, log, found.segment.id.base_offset + 1)
                continue
            if found.is_followed_by_hole:
                # What is learned may give the log another label.
                raise _changed(log, offset) if await self.know() else hole_behind(found)
            found = await in_thread(self.finder.next, found, log.label)
            if found is None:
                raise _changed(log, offset)

    async def _at_offset(self, offset: int, log: OpenLog) -> Found | None:
        """The segment of the offset; None at the end of the log."""
        name = _name(log)
        if offset < log.bounds.start:
            raise OffsetOutOfRange(
                f"offset {offset} of {name} is below the first one that is known, {log.bounds.start}",
                next_offset=log.bounds.start,
                hint=f"Read from offset {log.bounds.start} on",
            )
        if offset > log.bounds.end:
            raise OffsetOutOfRange(
                f"offset {offset} of {name} is above the end, {log.bounds.end}",
                next_offset=None,
                hint="Records that no consumer may see yet, in the active segment, are not read",
            )
        if offset >= log.end:
            return None
        found = await in_thread(self.finder.find, log.partition, offset, log.label)
        if found is None:
            raise _changed(log, offset)
        if found.is_followed_by_hole and offset >= found.end:
            raise hole_behind(found, offset)
        return found

    async def _at_time(self, timestamp: int, log: OpenLog, from_offset: int) -> Found | None:
        """The first segment from a base on that may have a record not older than this, in milliseconds."""
        while True:
            segment = await in_thread(
                self.catalog.not_older, log.partition, timestamp, log.label, from_offset=from_offset
            )
            if segment is None or segment.id.base_offset >= log.end:
                return None
            base = segment.id.base_offset
            # The time index of a local log may lack its last entries: only a walk through the batches is sure. Of what
            # an earlier release archived only the manifest tells.
            last = None
            if segment.is_proven and segment.archive is not None and segment.archive.last_timestamp < 0:
                manifest = await self.reader.manifests.get(segment.id)
                last = manifest.last_timestamp if manifest is not None else None
            if last is None or last >= timestamp:
                found = await in_thread(self.finder.find, log.partition, base, log.label)
                if found is None:
                    raise _changed(log, base)
                return found
            from_offset = base + 1

    async def _require_none_missing_before(self, found: Found, offset: int, log: OpenLog) -> None:
        """The first record that is not older may be one that is missing, if nothing older stands behind the hole."""
        base = found.segment.id.base_offset
        if offset > base or base <= log.bounds.start:
            return
        before = await in_thread(self.finder.find, log.partition, base - 1, log.label)
        if before is not None and before.is_followed_by_hole:
            raise hole_behind(before)


def _after(query: RecordQuery, next_offset: int | None) -> RecordQuery:
    return query if next_offset is None else replace(query, offset=next_offset, timestamp=None)


def _size_of(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _known_up_to(found: Found, source: OpenedSegment) -> int:
    """The offset up to which a closed local log has records; -1 if unknown. `SegmentChanged` if its size is another."""
    known = found.segment.local.log
    if known is None or not isinstance(source, LocalOpened) or found.segment.active or source.grows:
        return -1
    if source.local.files[FileKind.LOG].found.size != known.size:
        path = source.id.path
        raise SegmentChanged(f"segment {path} is not as it was seen last", segment=path, hint="Read it again")
    return -1 if found.records_end is None else found.records_end - 1


def _require_read_to_its_end(found: Found, offset: int, log: OpenLog) -> None:
    """Where only the records tell where a segment ends, they have been read: up to before ``offset``."""
    if found.following is not None and not found.is_end_known and offset < min(found.following, log.end):
        raise hole_behind(replace(found, end=offset))


async def _all_of(part: Part) -> AsyncGenerator[tuple[memoryview, int], None]:
    """Many batches at a time: each by itself would cost more than to read it."""
    async with aclosing(part.reading.blocks(before=part.end)) as blocks:
        async for block in blocks:
            yield block.data, block.next_offset


async def _committed_of(part: Part, aborted: Aborted) -> AsyncGenerator[tuple[memoryview, int], None]:
    async with aclosing(part.reading.batches()) as batches:
        async for batch in batches:
            header = batch.header
            if header.base_offset >= part.end and not header.hides_first_offset:
                return
            if not header.is_control and not await aborted.has(header):
                yield batch.data, header.last_offset + 1


def hole_behind(found: Found, offset: int | None = None) -> OffsetInHole:
    assert found.following is not None
    partition = found.segment.id.directory
    return OffsetInHole(
        f"offsets {found.end} to {found.following - 1} of {partition} are neither on the disk nor in the archive",
        missing_from=found.end if offset is None else offset,
        next_offset=found.following,
        hint=f"The next one that can be read is {found.following}",
    )


def _name(log: OpenLog) -> str:
    return f"{log.partition[0]}-{log.partition[1]}"


def _changed(log: OpenLog, offset: int) -> SegmentChanged:
    return SegmentChanged(f"the log of {_name(log)} changed at offset {offset} while it was read", hint="Read it again")
