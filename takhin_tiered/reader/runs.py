"""Whole batches one behind the other, cut from a segment's log as a consumer asks for them, and passed on unchanged."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from takhin_tiered.bulk import FileRange
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.formats.batch import (
    HEADER_SIZE,
    LENGTH_ENDS_AT,
    TRANSACTIONAL_OR_CONTROL,
    Batch,
    Bytes,
    batch_fields,
    parse_any,
)
from takhin_tiered.formats.conversion import as_batch, size_as_record
from takhin_tiered.formats.records import Record
from takhin_tiered.reader.cursor import Block
from takhin_tiered.reader.records import DecodedBatch, Reading
from takhin_tiered.segments.names import SegmentId

_READ_AT_ONCE = 4 << 10
"""Bytes of a local log that are read for one header: those of small batches behind it come with it."""


_MOST_CONVERTED = 256 << 10
"""Bytes of a batch that is made of single records."""


class Run(NamedTuple):
    """``next_offset`` is behind the last batch; ``transactional`` are the headers of those of transactions.

    A piece of a local log is sent from its file, which is open until its stream goes on to another segment.
    ``is_cut``: more batches follow, which did not fit.
    """

    data: memoryview | FileRange
    size: int
    next_offset: int
    transactional: tuple[Batch, ...]
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """``most`` bytes in all, and ``in_memory`` of those that do not come straight from a file.

    ``at_least_one``: one batch may be larger.
    """

    most: int
    in_memory: int
    at_least_one: bool


class RunSource(Protocol):
    async def take(self, limit: Limit) -> Run | None:
        """The next batches within the limit, none if the next one does not fit; None at the end."""
        ...

    async def close(self) -> None: ...


class Measured(NamedTuple):
    """``is_cut``: another batch follows that is not counted, for its size. Else none follows here, or none below."""

    size: int
    next_offset: int
    transactional: tuple[Batch, ...]
    is_cut: bool


def measure(
    read: Callable[[int], Bytes], begin: int, end: int, *, most: int, before: int, at_least_one: bool
) -> Measured:
    """How many bytes from ``begin`` on are whole batches that begin below the offset ``before``.

    ``read`` gives the bytes at a position, those of a header at least unless the log ends before; ``end`` is where the
    bytes end. What is no batch ends the run.
    """
    at, next_offset, transactional = begin, -1, list[Batch]()
    while at < end:
        head = read(at)
        if (fields := batch_fields(head)) is not None:
            base, length, _, _, _, attributes, last_delta, *_ = fields
            size, behind = length + LENGTH_ENDS_AT, base + last_delta + 1
            if base >= before:
                break
            special = attributes & TRANSACTIONAL_OR_CONTROL
        else:
            batch = parse_any(head, at)
            if batch is None or (batch.base_offset >= before and not batch.hides_first_offset):
                break
            size, behind, special = batch.size, batch.last_offset + 1, 0
        if at + size > end:
            break
        if at + size - begin > most and not (at_least_one and at == begin):
            return Measured(at - begin, next_offset, tuple(transactional), is_cut=True)
        if special:
            batch = parse_any(head, at)
            assert batch is not None
            transactional.append(batch)
        at, next_offset = at + size, behind
    return Measured(at - begin, next_offset, tuple(transactional), is_cut=False)


class LocalRuns:
    """From a file on the disk: only its headers are read here. ``before``: an offset at which to stop."""

    def __init__(self, reading: Reading, segment: SegmentId, file: int, size: int, before: int) -> None:
        self._reading, self._segment = reading, segment
        self._file, self._size, self._before = file, size, before
        self._at = reading.position

    async def take(self, limit: Limit) -> Run | None:
        found = await in_thread(self._measure, limit)
        if found.size:
            start, self._at = self._at, self._at + found.size
            self._reading.passed(found.next_offset)
            return Run(FileRange(self._file, start, found.size), *found)
        if found.is_cut:
            return Run(memoryview(b""), *found)
        if self._reading.next_offset < self._before:
            await self._reading.require_end(self._at)
        return None

    async def close(self) -> None:
        return

    def _measure(self, limit: Limit) -> Measured:
        head, head_at = b"", 0

        def read(at: int) -> Bytes:
            nonlocal head, head_at
            if not head_at <= at <= head_at + len(head) - HEADER_SIZE:
                head, head_at = os.pread(self._file, _READ_AT_ONCE, at), at
            return memoryview(head)[at - head_at :]

        with disk_errors(self._segment):
            return measure(
                read, self._at, self._size, most=limit.most, before=self._before, at_least_one=limit.at_least_one
            )


class ArchivedRuns:
    """From memory, checked batch by batch."""

    def __init__(self, blocks: AsyncGenerator[Block, None], before: int) -> None:
        self._blocks, self._before = blocks, before
        self._left = memoryview(b"")

    async def take(self, limit: Limit) -> Run | None:
        if not self._left:
            block = await anext(self._blocks, None)
            if block is None:
                return None
            self._left = block.data
        view = self._left
        found = measure(
            lambda at: view[at : at + HEADER_SIZE],
            0,
            len(view),
            most=min(limit.most, limit.in_memory),
            before=self._before,
            at_least_one=limit.at_least_one,
        )
        self._left = view[found.size :] if found.is_cut else memoryview(b"")
        return Run(view[: found.size], *found)

    async def close(self) -> None:
        await self._blocks.aclose()


class ConvertedRuns:
    """Records of another format than Kafka's, as batches of Kafka's, which a consumer can read."""

    def __init__(self, records: AsyncGenerator[DecodedBatch, None]) -> None:
        self._records = records
        self._kept: Record | None = None

    async def take(self, limit: Limit) -> Run | None:
        taken: list[Record] = []
        size, is_cut = HEADER_SIZE, False
        while not is_cut and (record := await self._next()) is not None:
            size += size_as_record(record)
            is_cut = size > min(limit.most, limit.in_memory, _MOST_CONVERTED) and not (limit.at_least_one and not taken)
            if is_cut:
                self._kept = record
            else:
                taken.append(record)
        if not taken:
            return Run(memoryview(b""), 0, -1, (), is_cut) if is_cut else None
        data = await in_thread(as_batch, taken)
        return Run(memoryview(data), len(data), taken[-1].offset + 1, (), is_cut)

    async def _next(self) -> Record | None:
        kept, self._kept = self._kept, None
        while kept is None:
            batch = await anext(self._records, None)
            if batch is None:
                return None
            # Each record of such a log stands by itself.
            kept = batch.records[0] if batch.records else None
        return kept

    async def close(self) -> None:
        await self._records.aclose()
