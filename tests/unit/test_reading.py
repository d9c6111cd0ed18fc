"""Records of one segment, from every offset and timestamp, against all of its records in order."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from takhin_tiered.errors import ObjectCorrupt, SegmentRefused
from takhin_tiered.formats.batch import Batch, parse_any
from takhin_tiered.formats.records import Record
from takhin_tiered.reader.cursor import READ_SIZE
from takhin_tiered.reader.indexes import IndexCache, SegmentIndexes
from takhin_tiered.reader.records import SegmentReader
from takhin_tiered.segments.names import FileKind
from tests import logs
from tests.logs import TIME, Log, Row, as_records, marker, rows
from tests.sources import Source, archived, of_log, source, total

BASE = 5_000


def write(
    seed: int, appends: int = 120, *, interval: int = 1000, codecs: Sequence[int] = (0, 1, 4)
) -> tuple[Log, list[Record]]:
    """A log with gaps, timestamps out of order, batches of log append time, and appends of several batches."""
    dice, log, offset, written = random.Random(seed), Log(BASE, interval), BASE, list[Record]()
    for _ in range(appends):
        batches = []
        for _ in range(dice.choice([1, 1, 1, 3])):
            offset += dice.choice([0, 0, 0, 4])
            each = [
                Row(offset + n, TIME + (offset + n) * 10 + dice.randint(-300, 300), b"k%d" % n, dice.randbytes(20))
                for n in range(dice.randint(1, 8))
            ]
            appended_at = max(row.timestamp for row in each) if dice.random() < 0.2 else None
            batches.append(logs.batch(each, codec=dice.choice(list(codecs)), appended_at=appended_at))
            if appended_at is None:
                written += as_records(each)
            else:
                written += as_records([Row(row.offset, appended_at, row.key, row.value) for row in each], 1)
            offset = each[-1].offset + 1
        log.append(*batches)
    return log.close(), written


LOG, WRITTEN = write(3)
TIMES = [record.timestamp for record in WRITTEN]


async def from_offset(of: Source, offset: int, indexes: SegmentIndexes | None = None) -> list[Record]:
    reading = await SegmentReader(of, indexes or SegmentIndexes()).at_offset(offset)
    return [] if reading is None else [record async for batch in reading.records() for record in batch.records]


async def one(of: Source, offset: int, indexes: SegmentIndexes | None = None) -> Record | None:
    reading = await SegmentReader(of, indexes or SegmentIndexes()).at_offset(offset)
    if reading is not None:
        async for batch in reading.records():
            if batch.records:
                return batch.records[0]
    return None


async def at_time(of: Source, timestamp: int, indexes: SegmentIndexes | None = None) -> tuple[int, int] | None:
    found = await SegmentReader(of, indexes or SegmentIndexes()).at_time(timestamp)
    if found is None:
        return None
    async for batch in found[1].records():
        # The reading begins at the record that was found.
        assert batch.records[0][:2] == found[0]
        break
    return found[0].offset, found[0].timestamp


def first_from(written: Sequence[Record], offset: int) -> Record | None:
    return next((record for record in written if record.offset >= offset), None)


def first_at(written: Sequence[Record], timestamp: int) -> tuple[int, int] | None:
    return next(((each.offset, each.timestamp) for each in written if each.timestamp >= timestamp), None)


async def test_from_every_offset_in_turn() -> None:
    of, indexes = of_log(LOG), SegmentIndexes()
    for offset in range(BASE - 2, WRITTEN[-1].offset + 3):
        of.log.reads.clear()
        assert await one(of, offset, indexes) == first_from(WRITTEN, offset)
        assert len(of.log.reads) <= 1
    assert of.files[FileKind.INDEX].reads == [(0, len(LOG.index))]
    assert of.files[FileKind.TIMEINDEX].reads == []


async def test_one_read_is_not_much_larger_than_what_is_wanted() -> None:
    of, indexes = of_log(LOG), SegmentIndexes()
    for offset in range(BASE, WRITTEN[-1].offset, 5):
        assert await one(of, offset, indexes)
    assert total(of.log.reads) / len(of.log.reads) < 8000
    assert len(LOG.data) > 30_000


async def test_all_records_come_in_order() -> None:
    assert await from_offset(of_log(LOG), BASE) == WRITTEN
    middle = WRITTEN[len(WRITTEN) // 2].offset
    assert await from_offset(of_log(LOG, is_archived=False), middle) == [
        each for each in WRITTEN if each.offset >= middle
    ]


async def test_raw_batches_are_the_bytes_of_the_log() -> None:
    reading = await SegmentReader(of_log(LOG), SegmentIndexes()).at_offset(BASE)
    assert reading is not None
    assert b"".join([bytes(batch.data) async for batch in reading.batches()]) == LOG.data


async def test_blocks_are_the_same_bytes_in_fewer_pieces() -> None:
    reading = await SegmentReader(of_log(LOG), SegmentIndexes()).at_offset(BASE)
    assert reading is not None
    blocks = [block async for block in reading.blocks()]
    assert b"".join(bytes(block.data) for block in blocks) == LOG.data
    assert (blocks[0].first_offset, blocks[-1].next_offset) == (WRITTEN[0].offset, WRITTEN[-1].offset + 1)
    assert len(blocks) < 5
    for offset in range(BASE, WRITTEN[-1].offset, 31):
        before = offset + 40
        reading = await SegmentReader(of_log(LOG), SegmentIndexes()).at_offset(offset)
        assert reading is not None
        data = b"".join([bytes(block.data) async for block in reading.blocks(before=before)])
        headers = batches_in(data)
        assert headers[0].base_offset <= first_offset(offset) <= headers[0].last_offset
        assert all(header.base_offset < before for header in headers)
        assert LOG.data.find(data) >= 0


@pytest.mark.parametrize("kind", ["v1", "takhin"])
async def test_blocks_of_other_formats(kind: str) -> None:
    data = logs.messages(rows(0, 50), 1) if kind == "v1" else logs.takhin(rows(0, 50))
    reading = await SegmentReader(archived(0, data), SegmentIndexes()).at_offset(0)
    assert reading is not None
    assert b"".join([bytes(block.data) async for block in reading.blocks()]) == data


async def test_a_damaged_batch_is_in_no_block() -> None:
    log = bytearray(LOG.data)
    damaged = batches_in(LOG.data)[40]
    log[damaged.position + 25] ^= 1
    reading = await SegmentReader(archived(BASE, bytes(log), bytes(LOG.index)), SegmentIndexes()).at_offset(BASE)
    assert reading is not None
    found = bytearray()

    async def take() -> None:
        async for block in reading.blocks():
            found.extend(block.data)

    with pytest.raises(ObjectCorrupt, match="fails its CRC"):
        await take()
    assert found == LOG.data[: damaged.position]


def batches_in(data: bytes | bytearray) -> list[Batch]:
    found, position = list[Batch](), 0
    while position < len(data):
        header = parse_any(data[position:], position)
        assert header is not None
        found.append(header)
        position = header.end
    return found


def first_offset(offset: int) -> int:
    found = first_from(WRITTEN, offset)
    assert found is not None
    return found.offset


async def test_timestamps_by_kafkas_rule() -> None:
    of, indexes, dice = of_log(LOG), SegmentIndexes(), random.Random(5)
    targets = [
        0,
        min(TIMES),
        max(TIMES),
        max(TIMES) + 1,
        *(dice.randint(min(TIMES) - 5, max(TIMES) + 5) for _ in range(400)),
    ]
    reads = []
    for target in [*targets, *TIMES]:
        of.log.reads.clear()
        assert await at_time(of, target, indexes) == first_at(WRITTEN, target)
        reads.append(len(of.log.reads))
    assert max(reads) == 1


async def test_timestamps_far_out_of_order() -> None:
    """A record from the future ends the growth of the time index."""
    log, written = Log(BASE, 200), list[Record]()
    for number in range(60):
        time = TIME + 10**9 if number == 20 else TIME + number * 1000
        row = Row(BASE + number, time)
        log.append(logs.batch([row]))
        written += as_records([row])
    log.close()
    for target in range(TIME - 500, TIME + 61_000, 700):
        assert await at_time(of_log(log), target) == first_at(written, target)
    assert await at_time(of_log(log), TIME + 10**9 + 1) is None


async def test_a_control_record_counts_for_timestamps_and_is_no_record() -> None:
    log = Log(BASE)
    log.append(logs.batch([Row(BASE, TIME)], producer=1, transactional=True))
    log.append(marker(BASE + 1, 1, commit=True, time=TIME + 100))
    log.append(logs.batch([Row(BASE + 2, TIME + 50)]))
    found = await SegmentReader(of_log(log.close()), SegmentIndexes()).at_time(TIME + 10)
    assert found is not None
    assert found[0] == (BASE + 1, TIME + 100)
    assert [(batch.next_offset, [each.offset for each in batch.records]) async for batch in found[1].records()] == [
        (BASE + 2, []),
        (BASE + 3, [BASE + 2]),
    ]


@pytest.mark.parametrize("is_archived", [True, False])
@pytest.mark.parametrize("kind", ["v0", "v1", "v1 gzip", "v0 snappy", "mixed", "takhin", "takhin padded"])
async def test_every_format_from_every_offset_and_timestamp(kind: str, is_archived: bool) -> None:
    log, written = Log(BASE, 300), list[Record]()
    dense: list[tuple[int, int, int]] = []
    for number in range(40):
        each = [
            Row(row.offset, row.timestamp + (number % 3) * 7, row.key, row.value) for row in rows(BASE + number * 6, 6)
        ]
        magic = {"v0": 0, "v0 snappy": 0, "mixed": number // 14}.get(kind, 1)
        if kind.startswith("takhin"):
            for row in each:
                dense.append((row.offset, len(log.data), row.timestamp))
                log.data += logs.takhin([row], padding=4 if "padded" in kind else 0)
            written += as_records(each)
        elif magic == 2:
            log.append(logs.batch(each))
            written += as_records(each)
        else:
            codec = {"v1 gzip": 1, "v0 snappy": 2, "mixed": 1}.get(kind, 0)
            whole = logs.messages(each, magic, codec=codec)
            log.append(*([whole] if codec else [logs.messages([row], magic) for row in each]))
            kept = each if magic or not codec else [Row(row.offset, -1, row.key, row.value) for row in each]
            kept = [Row(row.offset, row.timestamp if magic else -1, row.key, row.value) for row in kept]
            written += as_records(kept, 0 if magic else -1)
    log.close()
    if dense:
        log.index = bytearray(b"".join(struct.pack(">qq", offset, position) for offset, position, _ in dense))
        log.timeindex = bytearray(b"".join(struct.pack(">qq", time, offset) for offset, _, time in dense))
    of, indexes = of_log(log, is_archived=is_archived), SegmentIndexes()
    assert await from_offset(of, BASE) == written
    for offset in range(BASE - 1, written[-1].offset + 2):
        of.log.reads.clear()
        assert await one(of, offset, indexes) == first_from(written, offset)
        assert len(of.log.reads) <= (1 if is_archived or offset > BASE else 2)
    for target in range(TIME + BASE - 3, TIME + written[-1].offset + 20):
        assert await at_time(of, target, indexes) == first_at(written, target)


async def test_without_indexes_the_log_is_read_from_its_beginning() -> None:
    of = archived(BASE, bytes(LOG.data))
    for offset in range(BASE, WRITTEN[-1].offset, 11):
        assert await one(of, offset) == first_from(WRITTEN, offset)
    for target in TIMES[::17]:
        assert await at_time(of, target) == first_at(WRITTEN, target)


async def test_a_batch_may_be_larger_than_a_read() -> None:
    large = [Row(offset, TIME + offset, b"k", random.Random(offset).randbytes(READ_SIZE + 1000)) for offset in range(3)]
    log = Log(0)
    for row in large:
        log.append(logs.batch([row]))
    of = of_log(log.close())
    for offset in range(3):
        assert await one(of, offset) == as_records(large)[offset]
    assert await from_offset(of, 0) == as_records(large)


async def test_a_long_log_is_read_in_large_pieces() -> None:
    """Memory holds one piece and the rest of the one before it."""
    log = Log(0)
    batch = bytearray(logs.batch([Row(0, TIME, b"k", random.Random(1).randbytes(300_000))]))
    for offset in range(60):
        struct.pack_into(">q", batch, 0, offset)
        log.append(bytes(batch))
    of = of_log(log.close())
    assert len(await from_offset(of, 0)) == 60
    assert len(of.log.reads) <= 7
    assert max(end - start for start, end in of.log.reads) <= READ_SIZE
    assert sorted(of.log.reads) == of.log.reads
    assert total(of.log.reads) == of.log.size


@pytest.mark.parametrize("tail", [bytes(70), bytes(4096), bytes(5), b"\0\0\0"])
async def test_zeros_behind_the_last_batch_are_its_end(tail: bytes) -> None:
    for make in (source, archived):
        of = make(BASE, bytes(LOG.data) + tail, bytes(LOG.index) + bytes(8000), bytes(LOG.timeindex) + bytes(12_000))
        assert await from_offset(of, WRITTEN[-5].offset) == WRITTEN[-5:]
        assert await at_time(of, max(TIMES) + 1) is None


async def test_the_broker_may_be_writing_the_last_batch() -> None:
    more = logs.batch(rows(WRITTEN[-1].offset + 1, 3))
    for cut in (1, 20, 62, len(more) - 1):
        assert await from_offset(source(BASE, bytes(LOG.data) + more[:cut], bytes(LOG.index)), BASE) == WRITTEN


async def test_a_local_log_does_not_end_before_its_last_index_entry() -> None:
    log, first = bytearray(LOG.data), parse_any(LOG.data, 0)
    assert first is not None
    struct.pack_into(">i", log, first.end + 8, len(log))
    with pytest.raises(ObjectCorrupt, match=f"the batch at byte {first.end} of the log, .* is no whole batch"):
        await from_offset(source(BASE, bytes(log), bytes(LOG.index)), BASE)


async def test_an_archived_log_that_lacks_records_is_damaged() -> None:
    of = of_log(LOG)
    cut = source(BASE, bytes(LOG.data[:-10]), bytes(LOG.index))
    cut.format, cut.last_offset = of.format, of.last_offset
    with pytest.raises(
        ObjectCorrupt, match=r"orders-0/0+5000.log is damaged: the batch at byte \d+ .* is no whole batch"
    ):
        await from_offset(cut, BASE)


async def test_damage_is_named_and_hides_no_other_record() -> None:
    log = bytearray(LOG.data)
    at = len(log) // 2
    position = 0
    while (header := parse_any(log[position:], position)) is not None and header.end <= at:
        position = header.end
    assert header is not None
    log[header.position + 30] ^= 1
    of = archived(BASE, bytes(log), bytes(LOG.index), bytes(LOG.timeindex))
    with pytest.raises(
        ObjectCorrupt, match=f"the batch at byte {header.position} of the log, offset {header.base_offset}"
    ):
        await from_offset(of, BASE)
    with pytest.raises(ObjectCorrupt, match="fails its CRC"):
        await one(of, header.base_offset)
    assert await one(of, BASE) == WRITTEN[0]
    assert await from_offset(of, WRITTEN[-1].offset) == WRITTEN[-1:]


async def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(SegmentRefused, match="known format"):
        await from_offset(source(BASE, b"no log at all" * 100), BASE)
    assert await from_offset(source(BASE, b""), BASE) == []
    assert await at_time(source(BASE, b""), 0) is None


async def test_a_manifest_of_an_earlier_release_may_not_know_the_format() -> None:
    of = archived(0, logs.takhin(rows(0, 10)))
    of.format, of.last_offset = "unknown", None
    assert await from_offset(of, 4) == as_records(rows(0, 10)[4:])


async def test_offsets_beyond_the_end_give_nothing() -> None:
    of = of_log(LOG)
    assert await from_offset(of, WRITTEN[-1].offset + 1) == []
    assert of.log.reads == []
    assert await from_offset(of_log(LOG, is_archived=False), WRITTEN[-1].offset + 1) == []


async def test_nothing_at_or_above_the_last_stable_offset() -> None:
    for stable in range(BASE, WRITTEN[-1].offset + 2, 9):
        reading = await SegmentReader(of_log(LOG), SegmentIndexes()).at_offset(BASE)
        assert reading is not None
        found, next_offset = list[Record](), BASE
        async for batch in reading.records(last_stable=stable):
            found += batch.records
            next_offset = batch.next_offset
        assert found == [record for record in WRITTEN if record.offset < stable]
        assert next_offset <= stable


@pytest.mark.long
async def test_indexes_stay_in_memory_within_a_bound() -> None:
    cache, of = IndexCache(most_bytes=20_000), of_log(LOG)
    for name in range(100):
        await one(of, BASE, cache.of(name))
        assert cache.size <= 20_000 + cache.of(name).size
    assert 1 < len(cache) < 100
    many = IndexCache()
    for name in range(10_000):
        many.of(name)
    assert len(many) < 5000
    reads = len(of.files[FileKind.INDEX].reads)
    await one(of, BASE + 7, cache.of(99))
    assert len(of.files[FileKind.INDEX].reads) == reads
    await one(of, BASE + 7, cache.of(0))
    assert len(of.files[FileKind.INDEX].reads) == reads + 1


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
async def test_damaged_indexes_never_mislead(dice: random.Random) -> None:
    index, timeindex = bytearray(LOG.index), bytearray(LOG.timeindex)
    for data, width in ((index, 8), (timeindex, 12)):
        for _ in range(dice.choice([0, 1, 3, 40])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            del data[dice.randrange(len(data)) :]
        if dice.random() < 0.3:
            data += dice.choice([bytes(width * 50), dice.randbytes(30)])
    of, indexes = source(BASE, bytes(LOG.data), bytes(index), bytes(timeindex)), SegmentIndexes()
    for _ in range(12):
        offset = dice.randint(BASE - 1, WRITTEN[-1].offset + 1)
        assert await one(of, offset, indexes) == first_from(WRITTEN, offset)
        target = dice.randint(min(TIMES) - 5, max(TIMES) + 5)
        assert await at_time(of, target, indexes) == first_at(WRITTEN, target)


def covered() -> list[int]:
    """Positions in the log whose change its CRCs or its framing show: base offset and epoch are outside of them."""
    found, position = list[int](), 0
    while position < len(LOG.data):
        header = parse_any(LOG.data[position:], position)
        assert header is not None
        found += [*range(position + 8, position + 12), *range(position + 16, header.end)]
        position = header.end
    return found


COVERED = covered()


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
async def test_a_damaged_log_gives_right_records_or_an_error(dice: random.Random, is_archived: bool) -> None:
    log = bytearray(LOG.data)
    for _ in range(dice.randint(1, 3)):
        log[dice.choice(COVERED)] ^= 1 << dice.randrange(8)
    of, indexes = source(BASE, bytes(log), bytes(LOG.index), bytes(LOG.timeindex)), SegmentIndexes()
    if is_archived:
        of.format, of.last_offset = "kafka", WRITTEN[-1].offset
    for _ in range(8):
        offset = dice.choice([BASE, dice.randint(BASE, WRITTEN[-1].offset)])
        right = [record for record in WRITTEN if record.offset >= offset]
        try:
            found = await from_offset(of, offset, indexes)
        except (ObjectCorrupt, SegmentRefused):
            continue
        # Of a local log nothing tells that a last batch is missing.
        assert found == (right if is_archived else right[: len(found)])
