"""The log of a partition as a consumer fetches it: piece by piece, as whole batches, unchanged.

Source: Apache Kafka, ``ReplicaManager.readFromLog`` and ``LocalLog.read``.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import NamedTuple

from takhin_tiered.bulk import FileRange
from takhin_tiered.errors import OffsetInHole, SegmentChanged, SegmentNotFound, TakhinError
from takhin_tiered.formats.batch import Batch
from takhin_tiered.formats.index import KAFKA
from takhin_tiered.formats.transactions import AbortedTransaction
from takhin_tiered.reader.log import TRIES, LogReader, Part
from takhin_tiered.reader.opened import LocalOpened
from takhin_tiered.reader.prefetching import Prefetching
from takhin_tiered.reader.query import RecordQuery
from takhin_tiered.reader.runs import ArchivedRuns, ConvertedRuns, Limit, LocalRuns, Run, RunSource
from takhin_tiered.segments.names import FileKind


class Taken(NamedTuple):
    """Whole batches. ``next_offset`` is behind them; ``aborted`` are the aborted transactions that they are part of."""

    data: tuple[memoryview | FileRange, ...]
    size: int
    next_offset: int
    aborted: tuple[AbortedTransaction, ...]


class LogStream:
    """One consumer's place in a log, ``offset``. What it needs for the next piece stays open.

    Close it; not while a piece of a local log that it gave is still to be sent.
    """

    def __init__(self, logs: LogReader, query: RecordQuery) -> None:
        """``query`` has an offset."""
        assert query.offset is not None
        self.offset: int = query.offset
        self._logs, self._query = logs, query
        self._parts: AsyncGenerator[Part, None] | None = None
        # Label and topic ID of the incarnation that is open.
        self._incarnation = "", ""
        self._part: Part | None = None
        self._runs: RunSource | None = None
        self._open = AsyncExitStack()
        self._pending: TakhinError | None = None

    async def close(self) -> None:
        runs, self._runs, self._part, self._parts = self._runs, None, None, None
        if runs is not None:
            await runs.close()
        await self._open.aclose()
        self._open = AsyncExitStack()

    async def take(self, most: int, *, at_least_one: bool, most_in_memory: int = sys.maxsize) -> Taken:
        """The next batches, of at most so many bytes, unless one that is larger is asked for; none at the end.

        ``most_in_memory``: so many of those that do not come straight from a file.
        All of a local log's pieces are of one segment. Raises `OffsetOutOfRange`, `OffsetInHole` at a hole, and what
        reading raises. What comes before it is given first.
        """
        if self._parts is not None and self._incarnation != self._current():
            # The topic was made anew, or its log truncated: this offset is another record's now.
            await self.close()
            self._pending = None
        pending, self._pending = self._pending, None
        if pending is not None:
            await self.close()
            if not isinstance(pending, SegmentChanged | SegmentNotFound):
                raise pending
        for tries_left in reversed(range(TRIES)):
            try:
                was_open, again = self._parts is not None, tries_left < TRIES - 1
                taken = await self._take(most, most_in_memory, at_least_one=at_least_one, again=again)
                if not taken.size and was_open and self._parts is None:
                    # That was the end as it was when the log was opened. It may have grown.
                    taken = await self._take(most, most_in_memory, at_least_one=at_least_one, again=again)
                return taken
            except (SegmentChanged, SegmentNotFound):
                # It moved, or the broker deleted it: what is known of it may be old.
                await self.close()
                if not tries_left:
                    raise
            except BaseException:
                await self.close()
                raise
        raise AssertionError

    async def _take(self, most: int, in_memory: int, *, at_least_one: bool, again: bool) -> Taken:
        data: list[memoryview | FileRange] = []
        aborted: dict[AbortedTransaction, None] = {}
        size = 0
        while size < most or (at_least_one and not size):
            # What is to be sent from a file has to be sent before that is closed.
            is_here = bool(data) and isinstance(data[-1], FileRange)
            try:
                limit = Limit(most - size, in_memory, at_least_one=at_least_one and not size)
                run = await self._next_run(limit, again=again, here=is_here)
                if run is None:
                    break
                found, undecided = await self._aborted_of(run)
            except TakhinError as error:
                if not size:
                    raise
                # What came before is right. The next call tells.
                self._pending = error
                break
            aborted |= dict.fromkeys(found)
            if undecided is not None:
                run, self._pending = _before(run, undecided.batch), undecided.hole
            if run.size:
                if self._part is not None:
                    self._part.meter.size += run.size
                data.append(run.data)
                size += run.size
                if not isinstance(run.data, FileRange):
                    in_memory -= run.size
                self.offset = run.next_offset
            if run.is_cut:
                break
        if self._pending is not None and not size:
            pending, self._pending = self._pending, None
            raise pending
        return Taken(tuple(data), size, self.offset, tuple(aborted))

    async def _next_run(self, limit: Limit, *, again: bool, here: bool) -> Run | None:
        """None at the end of the log, as it was when it was opened; with ``here``, at that of the segment."""
        if self._parts is None:
            query = replace(self._query, offset=self.offset)
            log = await self._logs.open_log(query, again=again)
            self._incarnation = self._current()
            prefetching = await self._open.enter_async_context(Prefetching(self._logs.reader))
            self._parts = self._logs.parts(query, log, prefetching)
            self._open.push_async_callback(self._parts.aclose)
        while True:
            if self._runs is not None:
                run = await self._runs.take(limit)
                if run is not None:
                    return run
                await self._runs.close()
                self._runs = None
            if here:
                return None
            self._part = await anext(self._parts, None)
            if self._part is None:
                await self.close()
                return None
            self._runs = _runs_of(self._part)

    def _current(self) -> tuple[str, str]:
        """Of the topic under its plain name; an earlier one under its own name stays what it is."""
        if self._query.topic_id:
            return "", ""
        lineage = self._logs.catalog.lineage((self._query.topic, self._query.partition))
        return lineage.current, lineage.get(lineage.current).topic_id

    async def _aborted_of(self, run: Run) -> tuple[list[AbortedTransaction], _Undecided | None]:
        """Up to the first batch of which a hole hides what became of it."""
        found: list[AbortedTransaction] = []
        if self._part is None or self._part.aborted is None:
            return found, None
        for batch in run.transactional:
            try:
                each = await self._part.aborted.transaction_of(batch)
            except OffsetInHole as error:
                # Others behind it are decided: who skips holes goes on there.
                behind = batch.last_offset + 1
                hole = OffsetInHole(error.message, missing_from=None, next_offset=behind, hint=error.hint)
                return found, _Undecided(batch, hole)
            if each is not None:
                found.append(each)
        return found, None


class _Undecided(NamedTuple):
    batch: Batch
    hole: OffsetInHole


def _before(run: Run, batch: Batch) -> Run:
    """What stands before one of its batches."""
    if isinstance(run.data, FileRange):
        size = batch.position - run.data.start
        return Run(run.data._replace(size=size), size, batch.base_offset, (), is_cut=True)
    return Run(run.data[: batch.position], batch.position, batch.base_offset, (), is_cut=True)


def _runs_of(part: Part) -> RunSource:
    if part.reading.log_format != KAFKA:
        return ConvertedRuns(part.reading.records(last_stable=part.end))
    if isinstance(part.source, LocalOpened):
        opened = part.source.local.files[FileKind.LOG]
        return LocalRuns(part.reading, part.source.id, opened.fd, opened.found.size, part.end)
    return ArchivedRuns(part.reading.blocks(before=part.end), part.end)
