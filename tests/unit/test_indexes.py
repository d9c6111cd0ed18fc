"""Lookups in offset and time indexes, against a look at every batch."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.formats.batch import Batch, parse_any
from takhin_tiered.formats.index import OffsetIndex, TimeIndex, parse_offset_index, parse_time_index
from tests import logs
from tests.logs import TIME, Log, Row

BASE = 5_000


def make(seed: int, appends: int = 60, *, interval: int = 500) -> Log:
    """A log of appends of one to four batches, with gaps, and with timestamps out of order."""
    dice, log, offset = random.Random(seed), Log(BASE, interval), BASE
    for _ in range(appends):
        batches = []
        for _ in range(dice.choice([1, 1, 1, 4])):
            offset += dice.choice([0, 0, 5])
            written = [
                Row(offset + n, TIME + (offset + n) * 10 + dice.randint(-400, 400)) for n in range(dice.randint(1, 6))
            ]
            batches.append(logs.batch(written))
            offset = written[-1].offset + 1
        log.append(*batches)
    return log.close()


def batches_of(data: bytes) -> list[Batch]:
    found: list[Batch] = []
    while not found or found[-1].end < len(data):
        at = found[-1].end if found else 0
        header = parse_any(data[at : at + 61], at)
        assert header is not None
        found.append(header)
    return found


def holding(batches: Sequence[Batch], offset: int) -> Batch | None:
    return next((each for each in batches if each.last_offset >= offset), None)


def check(index: OffsetIndex, batches: Sequence[Batch], offset: int) -> None:
    span, batch = index.span(offset), holding(batches, offset)
    first = next(each for each in batches if each.position == span.start)
    assert first.base_offset <= max(offset, batches[0].base_offset)
    if batch is not None:
        assert span.start <= batch.position
        assert span.end is None or batch.end <= span.end
    if span.likely_end is not None:
        assert span.start < span.likely_end
        assert span.end is None or span.likely_end < span.end


LOG = make(1)
BATCHES = batches_of(bytes(LOG.data))
INDEX = parse_offset_index(LOG.index, "kafka", BASE, len(LOG.data))
TIMES = parse_time_index(LOG.timeindex, "kafka", BASE)


def test_every_offset_is_found_between_two_entries() -> None:
    assert len(INDEX) == len(LOG.index) // 8 > 10
    for offset in range(BASE - 3, BATCHES[-1].last_offset + 3):
        check(INDEX, BATCHES, offset)
    wide = [INDEX.span(offset) for offset in range(BASE, BATCHES[-1].last_offset)]
    assert max(span.end - span.start for span in wide if span.end is not None) < len(LOG.data) // 4


def test_an_offset_on_an_entry_is_in_the_append_that_begins_there() -> None:
    for relative, position in struct.iter_unpack(">ii", LOG.index):
        assert INDEX.span(BASE + relative).start == position
        assert INDEX.span(BASE + relative - 1).start < position


@pytest.mark.parametrize("data", [b"", bytes(8), bytes(10_000), b"\0" * 7, b"\0\0\0\5"])
def test_an_index_without_entries_tells_nothing(data: bytes) -> None:
    assert parse_offset_index(data, "kafka", BASE, 10**6).span(BASE + 5) == (0, None, None)
    assert parse_offset_index(data, "takhin", BASE, 10**6).span(BASE + 5) == (0, None, None)
    assert parse_time_index(data, "kafka", BASE).around(TIME) == (None, None)
    assert parse_time_index(data, "takhin", BASE).around(TIME) == (None, None)


def test_preallocated_and_cut_off_indexes_are_the_same_with_fewer_entries() -> None:
    for more in (bytes(8), bytes(10_485_760 - 8), b"\0\0\1", b"\7\7\7"):
        assert parse_offset_index(bytes(LOG.index) + more, "kafka", BASE, len(LOG.data)) == INDEX
        assert parse_time_index(bytes(LOG.timeindex) + more, "kafka", BASE) == TIMES
    half = parse_offset_index(LOG.index[:-12], "kafka", BASE, len(LOG.data))
    assert len(half) == len(INDEX) - 2
    for offset in range(BASE, BATCHES[-1].last_offset):
        check(half, BATCHES, offset)


def test_one_wrong_entry_is_left_out() -> None:
    for at in range(len(INDEX)):
        for form, place, value in (
            (">i", 0, 2**31 - 1),
            (">i", 0, -5),
            (">i", 4, 2**31 - 1),
            (">i", 4, -1),
            (">q", 0, 0),
        ):
            data = bytearray(LOG.index)
            struct.pack_into(form, data, at * 8 + place, value)
            index = parse_offset_index(data, "kafka", BASE, len(LOG.data))
            assert len(index) >= len(INDEX) - 2
            for offset in range(BASE, BATCHES[-1].last_offset, 7):
                check(index, BATCHES, offset)


def test_entries_behind_the_end_of_the_log_are_left_out() -> None:
    middle = BATCHES[len(BATCHES) // 2]
    index = parse_offset_index(LOG.index, "kafka", BASE, middle.position)
    assert 0 < len(index) < len(INDEX)
    assert index.positions[-1] < middle.position


def test_an_index_can_be_used_up_to_a_place() -> None:
    position = INDEX.positions[5]
    assert list(INDEX.before(position).positions) == list(INDEX.positions[:5])
    assert len(INDEX.before(0)) == 0
    assert list(TIMES.before(TIMES.offsets[3]).offsets) == list(TIMES.offsets[:3])


def check_times(index: TimeIndex, batches: Sequence[Batch], timestamp: int) -> None:
    before, after = index.around(timestamp)
    if before is not None:
        older = [each for each in batches if each.last_offset <= before.offset]
        assert older
        assert max(each.max_timestamp for each in older) == before.timestamp < timestamp
    if after is not None:
        assert any(each.max_timestamp >= timestamp and each.base_offset <= after.offset for each in batches)


def test_all_before_a_time_entry_is_older() -> None:
    assert len(TIMES) > 10
    newest = max(each.max_timestamp for each in BATCHES)
    for timestamp in range(TIME + BASE * 10 - 500, newest + 3, 37):
        check_times(TIMES, BATCHES, timestamp)
    assert TIMES.around(newest)[1] is not None
    assert TIMES.around(newest + 1)[1] is None


def test_takhins_time_index_need_not_ascend() -> None:
    times = [50, 40, 70, 10, 60, 90]
    data = b"".join(struct.pack(">qq", time, BASE + n) for n, time in enumerate(times))
    for target in range(100):
        before, after = parse_time_index(data, "takhin", BASE).around(target)
        first = next((n for n, time in enumerate(times) if time >= target), None)
        assert (after.offset - BASE if after else None) == first
        assert (before.offset - BASE if before else None) == (
            len(times) - 1 if first is None else first - 1 if first else None
        )


def test_takhins_time_index_with_missing_entries_helps_while_it_ascends() -> None:
    entries = [(50, 0), (70, 4), (60, 6), (90, 9)]
    data = b"".join(struct.pack(">qq", time, BASE + offset) for time, offset in entries)
    index = parse_time_index(data, "takhin", BASE)
    assert list(index.offsets) == [BASE, BASE + 4]


def test_takhins_offset_index() -> None:
    data = b"".join(struct.pack(">qq", BASE + n, n * 100) for n in range(50))
    index = parse_offset_index(data + bytes(160), "takhin", BASE, 5000)
    assert index.span(BASE + 7) == (700, 800, 900)
    assert index.span(BASE + 49) == (4900, None, None)
    assert parse_offset_index(data, "takhin", BASE, 4900).span(BASE + 49).start == 4800


def test_of_takhins_large_indexes_some_entries_are_kept() -> None:
    count, dice = 300_000, random.Random(1)
    times = [TIME + n + dice.randint(-50, 50) for n in range(count)]
    data = b"".join(struct.pack(">qq", BASE + n, n * 100) for n in range(count))
    index = parse_offset_index(data, "takhin", BASE, count * 100)
    stamps = b"".join(struct.pack(">qq", time, BASE + n) for n, time in enumerate(times))
    parsed = parse_time_index(stamps, "takhin", BASE)
    assert len(index) == len(parsed) < 100_000
    for number in [0, 1, count - 1, *(dice.randrange(count) for _ in range(200))]:
        span = index.span(BASE + number)
        assert span.start <= number * 100
        assert span.end is None or number * 100 < span.end <= span.start + 2000
        before, after = parsed.around(times[number])
        first = next(n for n in range(max(0, number - 200), count) if times[n] >= times[number])
        assert before is None or (before.offset < BASE + first and before.timestamp == times[before.offset - BASE])
        assert after is None or after.offset >= BASE + first


@given(st.randoms(use_true_random=False), st.sampled_from(["kafka", "takhin"]))
def test_whatever_an_index_holds_its_entries_ascend_and_stand_in_the_log(dice: random.Random, form: str) -> None:
    data, times = bytearray(LOG.index), bytearray(LOG.timeindex)
    for _ in range(dice.randint(1, 12)):
        data[dice.randrange(len(data))] = dice.randrange(256)
        times[dice.randrange(len(times))] = dice.randrange(256)
    del data[dice.randint(0, len(data)) :]
    index = parse_offset_index(data, form, BASE, len(LOG.data))
    assert list(index.offsets) == sorted(set(index.offsets))
    assert list(index.positions) == sorted(set(index.positions))
    assert all(0 <= position < len(LOG.data) for position in index.positions)
    assert all(offset >= BASE for offset in index.offsets)
    parsed = parse_time_index(times, form, BASE)
    assert list(parsed.newest) == sorted(parsed.newest)
    assert list(parsed.offsets) == sorted(set(parsed.offsets))
    for target in (0, TIME, TIME + BASE * 10 + 500, 2**62):
        before, _ = parsed.around(target)
        assert before is None or before.timestamp < target


@given(st.binary(max_size=300), st.sampled_from(["kafka", "takhin"]))
def test_no_bytes_break_the_parsers(data: bytes, form: str) -> None:
    index = parse_offset_index(data, form, 0, 2**31)
    assert len(index) <= len(data) // 8
    assert len(parse_time_index(data, form, 0)) <= len(data) // 12
