"""Records of aborted transactions are left out, also where a transaction ends in a later segment."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.formats.records import Record
from takhin_tiered.reader.indexes import SegmentIndexes, SourceTransactions
from takhin_tiered.reader.records import SegmentReader
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import FileKind
from tests import logs
from tests.logs import Log, as_records, marker, rows
from tests.sources import Source, of_log


@dataclass
class Written:
    """A partition with transactions, in several segments, with the files that Kafka writes beside each log."""

    segments: list[Log] = field(default_factory=lambda: [Log(0, 300)])
    aborted: list[bytes] = field(default_factory=lambda: [b""])
    snapshots: list[bytes] = field(default_factory=lambda: [snapshot({})])
    open: dict[int, int] = field(default_factory=dict)
    pending: dict[int, list[Record]] = field(default_factory=dict)
    committed: list[Record] = field(default_factory=list)
    every: list[Record] = field(default_factory=list)
    next_offset: int = 0

    @property
    def last_stable(self) -> int:
        return min(self.open.values(), default=self.next_offset)

    def produce(self, producer: int, count: int = 2, *, transactional: bool = True) -> None:
        written = rows(self.next_offset, count)
        self.segments[-1].append(logs.batch(written, producer=producer, transactional=transactional))
        self.every += as_records(written)
        if transactional:
            self.open.setdefault(producer, self.next_offset)
            self.pending.setdefault(producer, []).extend(as_records(written))
        else:
            self.committed += as_records(written)
        self.next_offset += count

    def end(self, producer: int, *, commit: bool) -> None:
        offset = self.next_offset
        self.segments[-1].append(marker(offset, producer, commit=commit))
        self.next_offset += 1
        first, records = self.open.pop(producer, None), self.pending.pop(producer, [])
        if commit:
            self.committed += records
        elif first is not None:
            stable = min(self.open.values(), default=offset + 1)
            self.aborted[-1] += struct.pack(">hqqqq", 0, producer, first, offset, stable)

    def roll(self) -> None:
        self.segments[-1].close()
        self.segments.append(Log(self.next_offset, 300))
        self.aborted.append(b"")
        self.snapshots.append(snapshot(self.open))

    def sources(self, *, snapshots: bool = True, known: bool = True) -> list[Source]:
        found = []
        for log, aborted, state in zip(self.segments, self.aborted, self.snapshots, strict=True):
            made = of_log(log, txnindex=aborted, snapshot=state)
            if not snapshots:
                del made.files[FileKind.SNAPSHOT]
            made.open_transactions = made.open_transactions if known else None
            found.append(made)
        return found


def snapshot(ongoing: dict[int, int]) -> bytes:
    entries = [struct.pack(">qhiqiqiq", each, 0, 0, 0, 0, 0, 0, first) for each, first in ongoing.items()]
    body = struct.pack(">i", len(entries)) + b"".join(entries)
    return struct.pack(">hI", 1, crc32c(body)) + body


class Asked:
    """The segments from one on, and how many of them were asked for."""

    def __init__(self, sources: list[Source], at: int) -> None:
        self.sources, self.count, self.indexes = sources[at:], 0, [SegmentIndexes() for _ in sources]

    async def __call__(self) -> AsyncIterator[SourceTransactions]:
        for each, indexes in zip(self.sources, self.indexes, strict=False):
            self.count += 1
            yield SourceTransactions(each, indexes)


async def read(sources: list[Source], at: int, last_stable: int | None = None) -> tuple[list[Record], Asked]:
    asked = Asked(sources, at)
    reading = await SegmentReader(sources[at], asked.indexes[0]).at_offset(sources[at].id.base_offset)
    if reading is None:
        return [], asked
    batches = reading.records(last_stable=last_stable, aborted=Aborted(asked))
    return [record async for batch in batches for record in batch.records], asked


async def read_all(sources: list[Source], last_stable: int) -> tuple[list[Record], int]:
    found, most = list[Record](), 0
    for at in range(len(sources)):
        records, asked = await read(sources, at, last_stable)
        found, most = found + records, max(most, asked.count)
    return found, most


def expected(written: Written) -> list[Record]:
    return sorted(
        (each for each in written.committed if each.offset < written.last_stable), key=lambda each: each.offset
    )


def play(dice: random.Random, steps: int, producers: int) -> Written:
    written = Written()
    for _ in range(steps):
        producer, action = dice.randrange(producers), dice.random()
        if action < 0.08 and written.segments[-1].data:
            written.roll()
        elif action < 0.35 and producer in written.open:
            written.end(producer, commit=dice.random() < 0.5)
        else:
            written.produce(producer, dice.randint(1, 3), transactional=producer in written.open or dice.random() < 0.8)
    return written


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans(), st.booleans(), st.integers(1, 8))
async def test_the_same_as_the_markers_say(dice: random.Random, snapshots: bool, known: bool, producers: int) -> None:
    written = play(dice, 80, producers)
    found, _ = await read_all(written.sources(snapshots=snapshots, known=known), written.last_stable)
    assert found == expected(written)


async def test_uncommitted_gives_all_of_them() -> None:
    written = play(random.Random(3), 200, 5)
    sources, found = written.sources(), list[Record]()
    assert len(sources) > 5
    for each in sources:
        reading = await SegmentReader(each, SegmentIndexes()).at_offset(each.id.base_offset)
        assert reading is not None
        found += [record async for batch in reading.records() for record in batch.records]
    assert found == written.every


async def test_a_segment_without_transactions_needs_no_transaction_index() -> None:
    written = Written()
    for _ in range(5):
        written.produce(1, transactional=False)
    found, asked = await read(written.sources(), 0)
    assert (found, asked.count) == (written.every, 0)


async def test_what_ends_in_its_segment_needs_no_later_one() -> None:
    written = Written()
    for commit in (True, False, True):
        written.produce(1)
        written.end(1, commit=commit)
    written.roll()
    written.produce(1)
    written.end(1, commit=True)
    found, asked = await read(written.sources(), 0)
    assert found == written.committed[:4]
    assert asked.count == 1


@pytest.mark.parametrize("commit", [True, False])
async def test_the_marker_may_be_in_a_later_segment(commit: bool) -> None:
    written = Written()
    written.produce(1)
    for _ in range(3):
        written.roll()
        # The transaction goes on through segments in which it has no record.
        written.produce(2, transactional=False)
    written.end(1, commit=commit)
    for _ in range(50):
        written.roll()
        written.produce(2, transactional=False)
    sources = written.sources()
    found, asked = await read(sources, 0, written.last_stable)
    assert found == (written.every[:2] if commit else [])
    # It ends with the abort marker, or with the snapshot after the commit marker.
    assert asked.count == (5 if commit else 4)
    assert all(not each.log.reads for each in sources[1:])


async def test_without_snapshots_a_later_abort_tells_that_all_before_is_decided() -> None:
    written = Written()
    written.produce(1)
    written.roll()
    written.end(1, commit=True)
    written.produce(2)
    written.end(2, commit=False)
    for _ in range(50):
        written.roll()
        written.produce(3, transactional=False)
    found, asked = await read(written.sources(snapshots=False, known=False), 0, written.last_stable)
    assert (found, asked.count) == (written.every[:2], 2)


async def test_a_malformed_snapshot_is_passed_over() -> None:
    written = Written()
    written.produce(1)
    written.roll()
    written.end(1, commit=False)
    written.snapshots[1] = b"producers at 5"
    assert (await read(written.sources(known=False), 0, written.last_stable))[0] == []


async def test_a_damaged_transaction_index_is_an_error() -> None:
    written = Written()
    written.produce(1)
    written.end(1, commit=False)
    sources = written.sources()
    sources[0].files[FileKind.TXNINDEX].data = written.aborted[0][:-1]
    with pytest.raises(ObjectCorrupt, match="transaction index"):
        await read(sources, 0)


async def test_a_missing_later_segment_is_an_error_where_it_matters() -> None:
    written = Written()
    written.produce(1)
    written.roll()
    sources = written.sources()

    async def hole() -> AsyncIterator[Any]:
        yield SourceTransactions(sources[0], SegmentIndexes())
        raise ObjectCorrupt("a hole")

    reading = await SegmentReader(sources[0], SegmentIndexes()).at_offset(0)
    assert reading is not None
    with pytest.raises(ObjectCorrupt, match="a hole"):
        await anext(reading.records(aborted=Aborted(hole)))
