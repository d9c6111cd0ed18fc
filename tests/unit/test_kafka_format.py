"""Kafka's format, against the reader of aiokafka, which is not ours."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.formats.kafka import HEADER_SIZE, Batch, LogSummary, LogWalk, parse_batch
from takhin_tiered.formats.sample import make_segment

BASE = 1_000
FIRST_TIME = 1_700_000_000_000
UNKNOWN = LogSummary("unknown", open_transactions=None)
SAMPLE = make_segment(BASE, 60_000, first_timestamp=FIRST_TIME)


def look(log: bytes, timeindex: bytes = b"") -> LogSummary:
    """At once, and in small pieces, which is to tell the same."""
    told = in_pieces(log, [len(log)]).summary(timeindex)
    assert in_pieces(log, [1, 60, 3, 700]).summary(timeindex) == told
    return told


def in_pieces(log: bytes, sizes: list[int]) -> LogWalk:
    walked, at = LogWalk(len(log)), 0
    for size in cycle(sizes):
        walked.update(memoryview(log)[at : at + size])
        at += size
        if at >= len(log):
            return walked
    raise AssertionError


def walk(log: bytes) -> list[Batch]:
    found: list[Batch] = []
    position = 0
    while (batch := parse_batch(log[position:], position)) is not None:
        found.append(batch)
        position += batch.size
    return found


def build(base: int, records: int, *, compression: int = 0, transactional: bool = False, size: int = 50) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=transactional,
        producer_id=7 if transactional else -1,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 24,
    )
    for number in range(records):
        builder.append(number, timestamp=FIRST_TIME + base + number, key=b"k", value=os.urandom(size), headers=[])
    return struct.pack(">q", base) + bytes(builder.build())[8:]


def others_view(log: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """First and last offset, largest timestamp, CRC: of each batch, as aiokafka reads it."""
    records = MemoryRecords(log)
    while batch := records.next_batch():
        sound = batch.validate_crc()
        found = [(record.offset, record.timestamp) for record in batch]
        yield found[0][0], found[-1][0], max(time for _, time in found), sound


def test_every_batch_is_the_one_that_kafkas_reader_sees() -> None:
    ours = [(batch.base_offset, batch.last_offset, batch.max_timestamp, True) for batch in walk(SAMPLE.log)]
    assert ours == list(others_view(SAMPLE.log))
    assert len(ours) > 3


def test_batches_stand_one_after_the_other_to_the_end() -> None:
    position = 0
    for batch in walk(SAMPLE.log):
        assert batch.position == position
        position += batch.size
    assert position == len(SAMPLE.log)


def test_a_log_is_summarized_as_kafkas_reader_sees_it() -> None:
    seen = list(others_view(SAMPLE.log))
    assert look(SAMPLE.log, SAMPLE.timeindex) == LogSummary(
        "kafka", seen[0][0], seen[-1][1], FIRST_TIME, max(time for _, _, time, _ in seen), ""
    )
    assert seen[-1][1] == SAMPLE.next_offset - 1
    assert look(SAMPLE.log) == look(SAMPLE.log, SAMPLE.timeindex)


def test_made_up_segments_follow_from_their_arguments() -> None:
    assert make_segment(BASE, 60_000, first_timestamp=FIRST_TIME) == SAMPLE
    assert make_segment(BASE, 60_000, first_timestamp=FIRST_TIME, seed=1).log != SAMPLE.log
    assert make_segment(BASE, 0).log == b""
    assert make_segment(BASE, 0).next_offset == BASE


def test_made_up_indexes_point_at_batches() -> None:
    by_position = {batch.position: batch for batch in walk(SAMPLE.log)}
    entries = list(struct.iter_unpack(">ii", SAMPLE.index))
    assert len(entries) > 3
    for relative, position in entries:
        # As Kafka has it: the last offset of the batch at that position.
        assert by_position[position].last_offset == BASE + relative
    times = list(struct.iter_unpack(">qi", SAMPLE.timeindex))
    assert times == sorted(times)
    assert times[-1] == (FIRST_TIME + SAMPLE.next_offset - 1 - BASE, SAMPLE.next_offset - 1 - BASE)


@pytest.mark.parametrize("how", [{"compression": 1}, {"transactional": True}, {"size": 3_000_000}], ids=repr)
def test_compressed_transactional_and_large_batches_are_read(how: dict[str, Any]) -> None:
    log = build(5, 3, **how) + build(8, 2, **how)
    still_open = ((7, 5),) if "transactional" in how else ()
    assert look(log) == LogSummary("kafka", 5, 9, FIRST_TIME + 5, FIRST_TIME + 9, "", open_transactions=still_open)
    assert [(batch.base_offset, batch.last_offset) for batch in walk(log)] == [
        (first, last) for first, last, _, _ in others_view(log)
    ]


def test_offsets_may_have_holes_as_after_compaction() -> None:
    log = build(5, 1) + build(1 << 40, 1)
    assert (look(log).first_offset, look(log).last_offset, look(log).problem) == (5, 1 << 40, "")


def test_the_largest_timestamp_counts_not_the_last() -> None:
    assert look(build(100, 1) + build(5, 1)).last_timestamp == FIRST_TIME + 100


def test_an_empty_log_is_empty() -> None:
    assert look(b"") == LogSummary("empty")
    assert look(b"", SAMPLE.timeindex) == LogSummary("empty")


@pytest.mark.parametrize("cut", [1, 7, 8, 12, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1, 500])
def test_a_truncated_tail_is_told_with_its_place(cut: int) -> None:
    last = walk(SAMPLE.log)[-1]
    log = SAMPLE.log[: last.position + cut]
    found = look(log)
    assert found.problem == f"no whole batch stands at byte {last.position} of {len(log)} of the log"
    assert (found.format, found.first_offset, found.last_offset) == ("kafka", BASE, last.base_offset - 1)


def test_zeros_after_the_last_batch_are_told() -> None:
    found = look(SAMPLE.log + bytes(4096))
    assert found.problem == f"no whole batch stands at byte {len(SAMPLE.log)} of {len(SAMPLE.log) + 4096} of the log"
    assert found.last_offset == SAMPLE.next_offset - 1


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_flipped_byte_is_told_with_the_batch_that_it_is_in(number: int) -> None:
    batch = walk(SAMPLE.log)[number]
    for at in (21, HEADER_SIZE, batch.size - 1):
        log = bytearray(SAMPLE.log)
        log[batch.position + at] ^= 0x10
        if at == 21:  # the attributes: covered by the CRC, not looked at
            assert parse_batch(bytes(log[batch.position :]), 0) is not None
        found = look(bytes(log))
        assert found.problem == f"the batch at byte {batch.position} of the log fails its CRC"
        # Damage in the records does not hide what stands behind it.
        assert (found.first_offset, found.last_offset) == (BASE, SAMPLE.next_offset - 1)
        assert [sound for *_, sound in others_crc(bytes(log))].count(False) == 1


def others_crc(log: bytes) -> Iterator[tuple[int, bool]]:
    records = MemoryRecords(log)
    number = 0
    while batch := records.next_batch():
        yield number, batch.validate_crc()
        number += 1


def test_the_first_of_several_damaged_batches_is_named() -> None:
    walked = walk(SAMPLE.log)
    log = bytearray(SAMPLE.log[:-3])
    for batch in walked[1:3]:
        log[batch.position + 100] ^= 1
    assert look(bytes(log)).problem == f"the batch at byte {walked[1].position} of the log fails its CRC"


@pytest.mark.parametrize(
    "log",
    [
        b"\0",
        b"\0" * 5000,
        b"\xff" * 5000,
        b"no batch at all" * 400,
        SAMPLE.log[:HEADER_SIZE],
        SAMPLE.log[: HEADER_SIZE - 1],
        SAMPLE.log[1:],
        SAMPLE.index,
        SAMPLE.timeindex,
    ],
    ids=lambda log: f"{log[:4]!r}x{len(log)}",
)
def test_what_does_not_begin_with_a_batch_is_of_no_known_format(log: bytes) -> None:
    assert look(log, SAMPLE.timeindex) == UNKNOWN


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [(0, ">q", -1), (8, ">i", -1), (8, ">i", 48), (8, ">i", 2**31 - 1), (16, ">b", 3), (23, ">i", -1)],
)
def test_a_header_that_makes_no_sense_ends_the_log_there(at: int, form: str, value: int) -> None:
    second = walk(SAMPLE.log)[1]
    log = bytearray(SAMPLE.log)
    struct.pack_into(form, log, second.position + at, value)
    found = look(bytes(log))
    assert found.problem == f"no whole batch stands at byte {second.position} of {len(log)} of the log"
    assert found.last_offset == second.base_offset - 1


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_no_bytes_at_all_break_the_reader(data: bytes, timeindex: bytes) -> None:
    assert look(data, timeindex).format == ("empty" if not data else "unknown")
    found = look(SAMPLE.log + data, timeindex)
    assert (found.format, found.first_offset, found.last_offset) == ("kafka", BASE, SAMPLE.next_offset - 1)
    assert bool(found.problem) is bool(data)


@given(st.lists(st.integers(1, 9_000), min_size=1))
def test_the_size_of_the_pieces_makes_no_difference(sizes: list[int]) -> None:
    assert in_pieces(SAMPLE.log, sizes).summary(SAMPLE.timeindex) == look(SAMPLE.log, SAMPLE.timeindex)


def test_a_file_that_shrank_meanwhile_is_told() -> None:
    last = walk(SAMPLE.log)[-1]
    walked = LogWalk(len(SAMPLE.log))
    walked.update(SAMPLE.log[: last.position + 100])
    assert f"no whole batch stands at byte {last.position}" in walked.summary(b"").problem
