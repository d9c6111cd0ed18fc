"""Batches as a consumer fetches them: with a consumer's own rules they give what Kafka gives."""

from __future__ import annotations

import os
import random
import struct

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.errors import Damaged, OffsetInHole, OffsetOutOfRange
from takhin_tiered.formats.batch import parse_batch
from takhin_tiered.reader.query import Isolation, RecordQuery
from takhin_tiered.reader.streams import LogStream, Taken
from tests.integration.test_records import ENCODINGS, PLACES, served
from tests.messages import joined
from tests.partitions import Known, Truth, as_known, as_seen, decoded, make_old_partition, make_partition
from tests.support import Broker


def bytes_of(taken: Taken) -> bytes:
    """As they would be sent, before the stream goes on."""
    data = joined(taken.data)
    assert len(data) == taken.size
    return data


async def consume(stream: LogStream, chance: random.Random, *, committed: bool) -> list[Known]:
    """What a client gives its user. Source: Apache Kafka, ``CompletedFetch``: aborted producers, until their marker."""
    wanted, found = stream.offset, list[Known]()
    while True:
        most = chance.choice([1, 200, 5_000, 100_000, 10_000_000])
        at_least_one = chance.random() < 0.8
        taken = await stream.take(most, at_least_one=at_least_one)
        data = bytes_of(taken)
        assert taken.size <= most or len({each.offset for each in decoded(data)}) >= 1
        if not taken.size:
            if at_least_one:
                return found
            continue
        aborted = sorted(taken.aborted, key=lambda each: each.first_offset)
        of: set[int] = set()
        for each in decoded(data):
            while aborted and aborted[0].first_offset <= each.offset:
                of.add(aborted.pop(0).producer_id)
            if each.is_control:
                if committed and each.key is not None and struct.unpack(">hh", each.key)[1] == 0:
                    assert each.producer is not None
                    of.discard(each.producer)
                continue
            if each.offset >= wanted and not (committed and each.producer in of):
                found.append(each)
        assert stream.offset == taken.next_offset


async def drain(stream: LogStream, found: bytearray) -> None:
    while (taken := await stream.take(100_000, at_least_one=True)).size:
        found += bytes_of(taken)


async def require_consumed(storage: TieredStorage, name: str, truth: Truth, *, seed: int, rounds: int) -> None:
    topic, _, number = name.rpartition("-")
    chance = random.Random(seed)
    for isolation in Isolation:
        committed = isolation is Isolation.READ_COMMITTED
        visible, end = truth.visible(committed=committed)
        bounds = await storage.logs.bounds(topic, int(number), isolation)
        assert bounds == (truth.known[0].offset, truth.end, end, truth.end)
        for offset in [truth.known[0].offset, *(chance.randrange(truth.end) for _ in range(rounds))]:
            stream = storage.logs.stream(topic, int(number), offset, isolation)
            try:
                found = await consume(stream, chance, committed=committed)
            finally:
                await stream.close()
            # Batches of an aborted transaction that began before are known as such only from the first one on.
            assert as_known(found) == as_known([each for each in visible if each.offset >= offset])
        for timestamp in [0, *chance.sample([each.timestamp for each in truth.known], 10)]:
            at = await storage.logs.offset_at(topic, int(number), timestamp, isolation)
            expected = truth.at_time(timestamp)
            assert (None if at is None else at.offset) == (None if expected is None or expected >= end else expected)
        newest = max((each for each in truth.known if each.offset < end), key=lambda each: each.timestamp)
        assert await storage.logs.newest(topic, int(number), isolation) == (newest.offset, newest.timestamp)


@pytest.mark.parametrize(
    ("how", "place"),
    [
        *(("plain", place) for place in PLACES),
        ("both", "archived"),
        *(pytest.param(how, place, marks=pytest.mark.long) for how in ENCODINGS[1:] for place in ("mixed", "copied")),
    ],
)
async def test_a_consumer_gets_what_kafka_gives(broker: Broker, how: str, place: str) -> None:
    made = make_partition("orders-0", 11, segments=4)
    async with served(broker, made, how=how, place=place) as (storage, _):
        assert list(await storage.logs.topics()) == ["orders"]
        await require_consumed(storage, made.name, Truth(made.known(), made.end), seed=5, rounds=12)


@pytest.mark.parametrize("place", ["archived", "mixed"])
@pytest.mark.parametrize("magic", [0, 1])
async def test_old_message_sets(broker: Broker, magic: int, place: str) -> None:
    made = make_old_partition("orders-0", 3, magic)
    async with served(broker, made, place=place) as (storage, _):
        stream = storage.logs.stream("orders", 0, 0, Isolation.READ_UNCOMMITTED)
        assert as_known(await consume(stream, random.Random(1), committed=False)) == as_known(made.known())
        await stream.close()


@pytest.mark.parametrize("place", ["archived", "mixed"])
async def test_records_of_another_format_come_as_batches(broker: Broker, place: str) -> None:
    made = make_old_partition("orders-0", 3, -1)
    async with served(broker, made, place=place) as (storage, _):
        for offset in (0, 17):
            page = await storage.read_records(RecordQuery("orders", 0, offset), 10_000)
            assert page.records[0].offset == offset
            stream = storage.logs.stream("orders", 0, offset, Isolation.READ_COMMITTED)
            assert as_known(await consume(stream, random.Random(1), committed=True)) == as_seen(page.records)
            await stream.close()


async def test_segments_leave_the_disk_while_they_are_streamed(broker: Broker) -> None:
    made = make_partition("orders-0", 4, segments=4)
    async with served(broker, made, place="local") as (storage, paths):
        stream, chance, found = storage.logs.stream("orders", 0, 0, Isolation.READ_UNCOMMITTED), random.Random(9), b""
        while (taken := await stream.take(3_000, at_least_one=True)).size:
            found += bytes_of(taken)
            if paths and chance.random() < 0.3:
                await storage.archive_segment(paths.pop(0))
        await stream.close()
        assert not paths
        assert found == b"".join(segment.files["log"] for segment in made.segments)


@pytest.mark.parametrize("place", ["archived", "local"])
async def test_a_hole_is_told_behind_what_comes_before_it(broker: Broker, place: str) -> None:
    made = make_partition("orders-0", 4, segments=4, transactions=False)
    hole = made.segments[2]
    async with served(broker, made, place="local") as (storage, paths):
        os.unlink(broker.root / paths[2])
        for path in paths[:2] + paths[3:] if place == "archived" else []:
            await storage.archive_segment(path)
        before, found = made.segments[0].files["log"] + made.segments[1].files["log"], bytearray()
        stream = storage.logs.stream("orders", 0, 0, Isolation.READ_COMMITTED)
        with pytest.raises(OffsetInHole) as raised:
            await drain(stream, found)
        assert found == before
        assert raised.value.missing_from == stream.offset
        assert raised.value.next_offset == made.segments[3].base
        # It is told again, to who asks again.
        with pytest.raises(OffsetInHole):
            await stream.take(100_000, at_least_one=True)
        await stream.close()
        stream = storage.logs.stream("orders", 0, made.segments[3].base, Isolation.READ_COMMITTED)
        assert bytes_of(await stream.take(1 << 30, at_least_one=True)) == made.segments[3].files["log"]
        await stream.close()
        for offset in (hole.base, made.end + 1):
            stream = storage.logs.stream("orders", 0, offset, Isolation.READ_COMMITTED)
            with pytest.raises(OffsetInHole if offset == hole.base else OffsetOutOfRange):
                await stream.take(1, at_least_one=True)
            await stream.close()


@pytest.mark.parametrize("place", ["archived", "local"])
async def test_damage_ends_a_stream(broker: Broker, place: str) -> None:
    """In the archive the checksum of the chunk tells. Of a local log only the headers are read: clients check more."""
    made = make_partition("orders-0", 4, segments=2, transactions=False)
    log = bytearray(made.segments[0].files["log"])
    batch = decoded_starts(bytes(log))[5]
    # The length of a batch.
    log[batch + 8 : batch + 12] = bytes(4)
    async with served(broker, made, place=place) as (storage, paths):
        path = broker.root / paths[0] if place == "local" else next((broker.root.parent / "store").rglob("*0.log"))
        path.write_bytes(log)
        stream = storage.logs.stream("orders", 0, 0, Isolation.READ_UNCOMMITTED)
        found = bytearray()
        with pytest.raises(Damaged):
            await drain(stream, found)
        await stream.close()
        assert found == (bytes(log[:batch]) if place == "local" else b"")


def decoded_starts(log: bytes) -> list[int]:
    found, at = [], 0
    while (header := parse_batch(log[at:], at)) is not None:
        found.append(at)
        at += header.size
    return found
