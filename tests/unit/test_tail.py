"""Where a log ends: by its index, and without one that helps."""

from __future__ import annotations

import struct

import pytest

from takhin_tiered.formats.sample import make_segment
from takhin_tiered.formats.tail import last_offset
from tests import logs

SAMPLE = make_segment(1000, 60_000)


def end_of(log: bytes, index: bytes) -> int | None:
    def reader(data: bytes):  # type: ignore[no-untyped-def]
        return lambda position, length: data[position : position + length]

    return last_offset(reader(log), len(log), reader(index), len(index))


@pytest.mark.parametrize(
    "index",
    [SAMPLE.index, SAMPLE.index + bytes(10_000), b"", bytes(4096), b"\x00\x00\x00\x05\x00\x00\x00\x07", b"\xff" * 80],
    ids=["trimmed", "preallocated", "empty", "zeros", "wrong", "negative"],
)
def test_the_last_record_is_found_whatever_the_index_says(index: bytes) -> None:
    assert end_of(SAMPLE.log, index) == SAMPLE.next_offset - 1


def test_a_cut_tail_ends_at_the_last_whole_batch() -> None:
    found = end_of(SAMPLE.log[:-1], SAMPLE.index)
    assert found is not None
    assert 1000 < found < SAMPLE.next_offset - 1


@pytest.mark.parametrize("log", [b"", b"\x00" * 200, b"no log at all" * 50])
def test_what_is_no_log_has_no_end(log: bytes) -> None:
    assert end_of(log, SAMPLE.index) is None


@pytest.mark.parametrize("magic", [0, 1])
def test_the_end_of_message_sets_is_found(magic: int) -> None:
    log = b"".join(logs.messages(logs.rows(first, 10), magic, codec=1) for first in range(0, 100, 10))
    assert end_of(log, b"") == 99
    assert end_of(log, bytes(4096)) == 99
    assert end_of(logs.messages(logs.rows(0, 7), magic), b"") == 6


def test_the_end_of_takhins_log_is_found() -> None:
    log = logs.takhin(logs.rows(0, 50))
    last = len(logs.takhin(logs.rows(0, 49)))
    index = struct.pack(">qqqq", 48, 5, 49, last)
    assert end_of(log, index) == 49
    assert end_of(log, index[:16]) == 49
    assert end_of(log, b"") == 49
    assert end_of(log[:-1], index) == 48
