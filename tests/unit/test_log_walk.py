"""One pass over logs of other formats than record batches, and what it tells of transactions."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.formats.batch import parse_any
from takhin_tiered.formats.kafka import LogSummary, LogWalk
from takhin_tiered.formats.open_transactions import OpenTransactions
from takhin_tiered.formats.summary import MOST_OPEN_TRANSACTIONS
from tests import logs
from tests.logs import TIME, Row, marker, rows

UNKNOWN = LogSummary("unknown", open_transactions=None)


def look(log: bytes, timeindex: bytes = b"") -> LogSummary:
    """At once, and in small pieces, which is to tell the same."""
    whole = LogWalk(len(log))
    whole.update(log)
    for sizes in ([1], [1, 60, 3, 700], [5000]):
        walk, at = LogWalk(len(log)), 0
        for size in cycle(sizes):
            walk.update(memoryview(log)[at : at + size])
            at += size
            if at >= len(log):
                break
        assert walk.summary(timeindex) == whole.summary(timeindex)
    return whole.summary(timeindex)


@pytest.mark.parametrize(("magic", "codec"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)])
def test_message_sets_are_kafkas(magic: int, codec: int) -> None:
    log = b"".join(logs.messages(rows(first, 10), magic, codec=codec) for first in range(40, 140, 10))
    times = (TIME + 40, TIME + 139) if magic else (None, None)
    assert look(log) == LogSummary("kafka", 40, 139, *times)


def test_a_log_may_have_batches_of_all_formats() -> None:
    log = logs.messages(rows(0, 5), 0) + logs.messages(rows(5, 5), 1, codec=1) + logs.batch(rows(10, 5), codec=4)
    found = look(log)
    assert (found.format, found.first_offset, found.last_offset, found.problem) == ("kafka", 0, 14, "")
    assert (found.last_timestamp, found.has_gaps) == (TIME + 14, False)
    assert look(log + logs.messages(rows(15, 2), 1)).last_offset == 16


def test_gaps_between_messages_are_told() -> None:
    assert look(logs.messages(rows(0, 5, step=3), 1)).has_gaps
    assert not look(logs.messages(rows(0, 5), 1)).has_gaps


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1])
def test_a_flipped_byte_in_a_message_is_told(magic: int, codec: int) -> None:
    sets = [logs.messages(rows(first, 3), magic, codec=codec) for first in (0, 3, 6)]
    log = bytearray(b"".join(sets))
    at = len(sets[0]) + len(sets[1]) - 1
    log[at] ^= 1
    header = None
    position = 0
    while position <= at:
        header = parse_any(bytes(log[position:]), position)
        assert header is not None
        position = header.end
    assert header is not None
    found = look(bytes(log))
    assert found.problem == f"the batch at byte {header.position} of the log fails its CRC"
    assert (found.first_offset, found.last_offset, found.open_transactions) == (0, 8, None)


def test_a_truncated_message_set_is_told() -> None:
    log = logs.messages(rows(0, 10), 1)
    found = look(log[:-1])
    assert found.last_offset == 8
    assert "no whole batch stands at byte" in found.problem


def test_zeros_behind_the_last_message_hide_nothing() -> None:
    log = logs.messages(rows(0, 4), 1)
    found = look(log + bytes(5000))
    assert (found.last_offset, found.open_transactions) == (3, ())
    assert found.problem == f"no whole batch stands at byte {len(log)} of {len(log) + 5000} of the log"


@pytest.mark.parametrize("padding", [0, 4])
def test_takhins_format_is_told(padding: int) -> None:
    log = logs.takhin(rows(1000, 200), padding=padding)
    assert look(log) == LogSummary("takhin", 1000, 1199, TIME + 1000, TIME + 1199)
    for zeros in (1, 20, 24, 4096):
        assert look(log + bytes(zeros)) == look(log)
    size = len(log) + 4097
    assert look(log + bytes(4096) + b"x").problem == f"no whole record stands at byte {len(log)} of {size} of the log"
    assert look(log + bytes(4096) + b"x").last_offset == 1199
    assert look(log[:-1]).last_offset == 1198


def test_takhins_largest_timestamp_counts_not_the_last() -> None:
    assert look(logs.takhin([Row(0, TIME + 9), Row(1, TIME)])).last_timestamp == TIME + 9


def test_takhins_offsets_that_go_back_are_damage() -> None:
    first = logs.takhin(rows(0, 2))
    found = look(first + logs.takhin(rows(0, 1)))
    assert found.problem == f"the record at byte {len(first)} of the log has offset 0, and follows 1"
    assert look(first + logs.takhin(rows(5, 1))).has_gaps


def test_takhins_sizes_that_do_not_add_up_are_damage() -> None:
    log = bytearray(logs.takhin(rows(0, 20)))
    second = len(logs.takhin(rows(0, 1)))
    for at, change in ((second + 3, 1), (second + 23, 1), (second + 4, 0x80), (second, 0x40)):
        broken = bytearray(log)
        broken[at] ^= change
        found = look(bytes(broken))
        assert found.problem == f"no whole record stands at byte {second} of {len(log)} of the log"
        assert found.last_offset == 0


def test_large_offsets_do_not_confuse_the_formats() -> None:
    """A large base offset looks like a size, a record's offset like a length."""
    for base in (0, 30 << 32, (100 << 32) + 5, 2**62):
        assert look(logs.batch(rows(base, 3))).format == "kafka"
        assert look(logs.messages(rows(base, 3), 1)).format == "kafka"
        assert look(logs.takhin(rows(base, 3))).format == "takhin"
    for time in range(TIME, TIME + (3 << 24), 1 << 24):
        # The byte at which a magic stands is one of the timestamp's.
        assert look(logs.takhin(rows(500, 3, time=time))).format == "takhin"


def test_a_key_longer_than_the_head_of_the_log() -> None:
    assert look(logs.takhin([Row(0, TIME, b"k" * 9000, b"v"), Row(1, TIME)])).last_offset == 1


def test_a_sound_message_that_cannot_be_decoded_is_no_damage() -> None:
    """As LZ4 in messages of magic 0, which Kafka framed in a way of its own: the CRC says that the bytes are right."""
    first = bytearray(logs.messages(rows(0, 5), 0, codec=1))
    first[17] = 3
    struct.pack_into(">I", first, 12, zlib.crc32(first[16:]))
    found = look(bytes(first) + logs.messages(rows(5, 5), 0))
    assert (found.format, found.problem, found.first_offset, found.last_offset) == ("kafka", "", None, 9)


@pytest.mark.parametrize("magic", [0, 1])
def test_other_bytes_that_look_like_one_large_message_have_no_known_format(magic: int) -> None:
    """Only a CRC could tell, and it says that this is none: nobody may refuse it as damaged."""
    log = bytearray(random.Random(magic).randbytes(30_000))
    struct.pack_into(">qiIBb", log, 0, 77, 20_000, 1, magic, 0)
    struct.pack_into(">i", log, 18 if magic == 0 else 26, 9_000)
    assert look(bytes(log)) == UNKNOWN


def test_other_bytes_that_look_like_a_huge_key_take_no_memory() -> None:
    size, piece = 64 << 20, random.Random(1).randbytes(1 << 20)
    head = struct.pack(">IqqI", size - 100, 5, TIME, 60 << 20)
    walk = LogWalk(size)
    tracemalloc.start()
    try:
        walk.update(head + piece[len(head) :])
        for _ in range(63):
            walk.update(piece)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert walk.summary(b"") == UNKNOWN


def test_transactions_without_a_marker_are_open() -> None:
    log = logs.batch(rows(0, 2), producer=1, transactional=True)
    log += logs.batch(rows(2, 2), producer=2, transactional=True)
    log += logs.batch(rows(4, 2), producer=3)
    log += logs.batch(rows(6, 2), producer=1, transactional=True)
    assert look(log).open_transactions == ((1, 0), (2, 2))
    log += marker(8, 1, commit=False)
    assert look(log).open_transactions == ((2, 2),)
    log += logs.batch(rows(9, 1), producer=1, transactional=True)
    assert look(log).open_transactions == ((2, 2), (1, 9))
    log += marker(10, 2, commit=True)
    assert look(log).open_transactions == ((1, 9),)
    # A marker of a transaction of an earlier segment.
    assert look(log + marker(11, 77, commit=True)).open_transactions == ((1, 9),)


def test_of_a_damaged_log_no_transactions_are_known() -> None:
    log = logs.batch(rows(0, 2), producer=1, transactional=True)
    assert look(log + bytes(100)).open_transactions == ((1, 0),)
    assert look(log + bytes(5)).open_transactions == ((1, 0),)
    assert look(log + bytes(100) + b"\1").open_transactions is None
    assert look(log + log[:-1]).open_transactions is None
    shrunk = LogWalk(len(log) + 10)
    shrunk.update(log)
    assert shrunk.summary(b"").open_transactions is None


@pytest.mark.long
def test_many_producers_stay_bounded() -> None:
    one = bytearray(logs.batch(rows(0, 1), producer=1, transactional=True))
    log = bytearray()
    for producer in range(10_000):
        struct.pack_into(">q", one, 43, producer)
        log += logs.sealed(one, producer)
    assert look(bytes(log)).open_transactions is None
    transactions = OpenTransactions()
    for producer in range(10_000):
        transactions.note(0x10, producer, producer)
        if producer >= 500:
            transactions.note(0x30, producer - 500, producer)
    assert transactions.found() == tuple((each, each) for each in range(9500, 10_000))
    assert len(transactions.found() or ()) < MOST_OPEN_TRANSACTIONS


LOGS = {
    "takhin": logs.takhin(rows(0, 30)),
    "takhin padded": logs.takhin(rows(0, 30), padding=4),
    "v0": logs.messages(rows(0, 30), 0),
    "v1": logs.messages(rows(0, 30), 1),
    "v1 gzip": logs.messages(rows(0, 15), 1, codec=1) + logs.messages(rows(15, 15), 1, codec=1),
}


@given(st.sampled_from(sorted(LOGS)), st.randoms(use_true_random=False))
def test_mutated_logs_never_break_the_walk(name: str, dice: random.Random) -> None:
    log = bytearray(LOGS[name])
    for _ in range(dice.randint(0, 2)):
        log[dice.randrange(len(log))] ^= 1 << dice.randrange(8)
    del log[dice.randint(1, len(log)) :]
    found = look(bytes(log))
    assert found.format in {"kafka", "takhin", "unknown"}
    if bytes(log) == LOGS[name]:
        assert (found.first_offset, found.last_offset, found.problem) == (0, 29, "")


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_have_no_known_format(data: bytes) -> None:
    assert look(data) == UNKNOWN
