"""Records read out of segment files are those that a consumer gets of the broker."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition

from takhin_tiered.reader.indexes import SegmentIndexes, SourceTransactions
from takhin_tiered.reader.records import SegmentReader
from takhin_tiered.reader.transactions import Aborted
from takhin_tiered.segments.names import FileKind
from tests.kafka.broker import Kafka
from tests.kafka.clients import CODECS, READ_COMMITTED, READ_UNCOMMITTED, Clients, Record
from tests.kafka.test_compacted import compacted
from tests.kafka.test_transactions import mixed_transactions
from tests.sources import Source, archived

WEEK = 7 * 24 * 3600 * 1000
START = 1_700_000_000_000


def segments_of(directory: Path) -> list[Source]:
    found = []
    for log in sorted(directory.glob("*.log")):
        files = {kind: path.read_bytes() for kind in FileKind if (path := log.with_suffix(f".{kind}")).exists()}
        if files[FileKind.LOG]:
            found.append(archived(int(log.stem), **{kind.value: data for kind, data in files.items()}))
    return found


async def read_from(sources: list[Source], at: int, offset: int, isolation: str) -> list[Record]:
    """What one segment has from an offset on."""
    indexes = [SegmentIndexes() for _ in sources]

    async def from_here() -> AsyncIterator[SourceTransactions]:
        for each, own in zip(sources[at:], indexes[at:], strict=True):
            yield SourceTransactions(each, own)

    reading = await SegmentReader(sources[at], indexes[at]).at_offset(offset)
    if reading is None:
        return []
    aborted = Aborted(from_here) if isolation == READ_COMMITTED else None
    return [
        Record(each.offset, each.timestamp, each.key, each.value, tuple(each.headers))
        async for batch in reading.records(aborted=aborted)
        for each in batch.records
    ]


async def read_all(sources: list[Source], isolation: str) -> list[Record]:
    found: list[Record] = []
    for at, each in enumerate(sources):
        found += await read_from(sources, at, each.id.base_offset, isolation)
    return found


def overlapping_transactions(clients: Clients, topic: str) -> None:
    """Two producers whose transactions overlap, and go on through several segments."""
    producers = [
        Producer(clients._producer(codec, **{"transactional.id": f"overlap-{codec}"})) for codec in ("none", "zstd")
    ]
    for producer in producers:
        producer.init_transactions(30)
    plain, values = Producer(clients._producer("none")), random.Random(topic)
    for number in range(24):
        producer = producers[number % 2]
        producer.begin_transaction()
        for turn in range(700 if number % 8 == 0 else 40):
            producer.produce(topic, values.randbytes(4000), b"key", 0)
            if turn % 50 == 0:
                producer.flush(30)
                plain.produce(topic, b"of no transaction", None, 0)
                plain.flush(30)
        producer.flush(30)
        previous = producers[(number + 1) % 2]
        if number:
            if number % 3:
                previous.commit_transaction(30)
            else:
                previous.abort_transaction(30)
    producers[1].abort_transaction(30)


async def test_both_isolation_levels_as_a_consumer_sees_them(kafka: Kafka, clients: Clients) -> None:
    clients.create("ledger")
    mixed_transactions(clients, "ledger")
    overlapping_transactions(clients, "ledger")
    consumed = {level: clients.consume("ledger", level) for level in (READ_COMMITTED, READ_UNCOMMITTED)}
    assert len(consumed[READ_COMMITTED]) < len(consumed[READ_UNCOMMITTED])
    kafka.stop()
    sources = segments_of(kafka.partition_dir("ledger"))
    assert len(sources) > 4
    assert any(each.open_transactions for each in sources)
    for level, records in consumed.items():
        assert await read_all(sources, level) == records
    for each in sources:
        each.open_transactions = None
    assert await read_all(sources, READ_COMMITTED) == consumed[READ_COMMITTED]


@pytest.mark.parametrize("time_type", ["CreateTime", "LogAppendTime"])
async def test_every_offset_and_timestamp_as_the_broker_answers(kafka: Kafka, clients: Clients, time_type: str) -> None:
    clients.create("clock", message_timestamp_type=time_type, index_interval_bytes=1000)
    dice = random.Random(time_type)
    producers = [Producer(clients._producer(codec)) for codec in CODECS]
    for number in range(120):
        producer, base = dice.choice(producers), START + number * WEEK // 20
        for _ in range(dice.randint(1, 90)):
            time = base + dice.randint(-WEEK // 4, WEEK // 4)
            producer.produce(
                "clock", dice.randbytes(1000), b"key", 0, timestamp=time, headers={"a": b"b", "null": None}
            )
        assert producer.flush(60) == 0
    records = clients.consume("clock", READ_UNCOMMITTED)
    times = [record.timestamp for record in records]
    targets = [dice.choice(times) + dice.choice([-1, 0, 1, dice.randint(-WEEK, WEEK)]) for _ in range(200)]
    consumer = clients._consumer(READ_UNCOMMITTED)
    answers = [consumer.offsets_for_times([TopicPartition("clock", 0, max(0, each))], 20)[0].offset for each in targets]
    consumer.close()
    kafka.stop()
    sources = segments_of(kafka.partition_dir("clock"))
    assert len(sources) > 3

    newest = [max(each.timestamp for each in await read_from(sources, at, 0, "")) for at in range(len(sources))]
    for target, answer in zip(targets, answers, strict=True):
        at = next((number for number, last in enumerate(newest) if last >= target), None)
        if at is None:
            assert answer < 0
            continue
        found = await SegmentReader(sources[at], SegmentIndexes()).at_time(target)
        assert found is not None
        assert found[0].offset == answer
    for at, each in enumerate(sources):
        own = [record for record in records if each.id.base_offset <= record.offset <= (each.last_offset or 0)]
        indexes = SegmentIndexes()
        for record in own:
            each.log.reads.clear()
            reading = await SegmentReader(each, indexes).at_offset(record.offset)
            assert reading is not None
            first = await anext(reading.records())
            assert (first.records[0].offset, first.records[0].value) == (record.offset, record.value)
            assert len(each.log.reads) == 1
        assert await read_from(sources, at, each.id.base_offset, READ_UNCOMMITTED) == own


async def test_what_compaction_left_is_found_from_every_offset(kafka: Kafka, clients: Clients) -> None:
    records = compacted(kafka, clients, "profiles")
    kafka.stop()
    sources = segments_of(kafka.partition_dir("profiles"))
    assert await read_all(sources, READ_COMMITTED) == records
    assert len(records) < records[-1].offset - records[0].offset
    indexes = {each.id: SegmentIndexes() for each in sources}

    async def first_from(offset: int) -> int:
        for each in sources:
            if each.last_offset is not None and each.last_offset >= offset:
                reading = await SegmentReader(each, indexes[each.id]).at_offset(offset)
                assert reading is not None
                async for batch in reading.records():
                    if batch.records:
                        return batch.records[0].offset
        raise AssertionError(f"nothing is found from offset {offset} on")

    for offset in range(records[0].offset, records[-1].offset + 1):
        assert await first_from(offset) == next(record.offset for record in records if record.offset >= offset)
