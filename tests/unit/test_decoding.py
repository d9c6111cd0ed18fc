"""Records out of batches of every format and codec."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.formats.batch import parse_any
from takhin_tiered.formats.records import Record, Undecodable, decode
from takhin_tiered.formats.takhin import parse_record
from tests import logs
from tests.logs import CODECS, TIME, Row, as_records, rows

WEEK = 7 * 24 * 3600 * 1000
VARIED = [
    Row(100, TIME, None, b"no key"),
    Row(101, TIME + 5 * WEEK, b"no value", None),
    Row(102, TIME - 3 * WEEK, b"", b"", [("trace", b"\x00\xff"), ("empty", b""), ("null", None), ("trace", b"again")]),
    Row(105, TIME + 1, b"k" * 300, b"v" * 70_000),
]


def decoded(data: bytes) -> list[Record]:
    header = parse_any(data, 4096)
    assert header is not None
    return decode(data, header)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_batch_of_every_codec(codec: int) -> None:
    data = logs.batch(VARIED, codec=codec)
    header = parse_any(data, 0)
    assert header is not None
    assert header.codec == codec
    assert decoded(data) == as_records(VARIED)


@pytest.mark.parametrize(("magic", "codec"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)])
def test_message_sets_of_every_codec(magic: int, codec: int) -> None:
    written = [Row(row.offset, row.timestamp if magic else -1, row.key, row.value) for row in VARIED]
    data, found = logs.messages(written, magic, codec=codec), []
    while data:
        header = parse_any(data, 0)
        assert header is not None
        assert (header.magic, header.codec) == (magic, codec)
        found += decode(data[: header.size], header)
        data = data[header.size :]
    assert found == as_records(written, 0 if magic else -1)


@pytest.mark.parametrize("codec", [0, 1])
def test_log_append_time_is_the_time_of_every_record(codec: int) -> None:
    written = rows(7, 5)
    for data in (
        logs.batch(written, codec=codec, appended_at=TIME + 9),
        logs.messages(written, 1, codec=1, appended_at=TIME + 9),
    ):
        found = decoded(data)
        assert {(each.timestamp, each.timestamp_type) for each in found} == {(TIME + 9, 1)}
        assert [each.offset for each in found] == [7, 8, 9, 10, 11]


def test_a_compacted_batch_keeps_its_offsets() -> None:
    kept = [rows(20, 10)[2], rows(20, 10)[7]]
    data = logs.batch(kept, base=20, last=29, codec=4)
    header = parse_any(data, 0)
    assert header is not None
    assert (header.base_offset, header.last_offset) == (20, 29)
    assert decoded(data) == as_records(kept)


def test_a_batch_that_compaction_emptied_has_no_records() -> None:
    made = bytearray(logs.batch(rows(20, 1))[:61])
    struct.pack_into(">i", made, 57, 0)
    assert decoded(logs.sealed(made, 20)) == []


def test_a_control_batch_gives_no_records_and_tells_what_it_is() -> None:
    data = logs.marker(50, 7, commit=False)
    header = parse_any(data, 0)
    assert header is not None
    assert (header.is_control, header.is_transactional, header.producer_id, header.last_offset) == (True, True, 7, 50)
    assert decoded(data) == []


@pytest.mark.parametrize("padding", [0, 4])
def test_takhins_records(padding: int) -> None:
    row = Row(9, TIME, b"key", b"value")
    data = logs.takhin([row], padding=padding)
    header = parse_record(data, 0)
    assert header is not None
    assert decode(data, header) == as_records([row])
    for broken in (bytearray(data), bytearray(data)):
        broken[23] ^= 3
        with pytest.raises(Undecodable, match="offset 9"):
            decode(broken, header)


def test_damage_is_named_by_position_and_offset() -> None:
    data = bytearray(logs.batch(rows(100, 3)))
    data[80] ^= 1
    with pytest.raises(Undecodable, match="the batch at byte 4096 of the log, offset 100, fails its CRC"):
        decoded(bytes(data))


def test_what_has_a_right_crc_and_is_no_batch_is_an_error() -> None:
    made = bytearray(logs.batch(rows(100, 3)))
    made[61:] = b"\xff" * (len(made) - 61)
    with pytest.raises(Undecodable, match="does not decode"):
        decoded(logs.sealed(made, 100))
    for codec in range(1, 8):
        made = bytearray(logs.batch(rows(100, 3)))
        made[22] |= codec
        with pytest.raises(Undecodable, match="does not decode"):
            decoded(logs.sealed(made, 100))


SOURCES: dict[str, Any] = {
    **{f"v2 {name}": logs.batch(VARIED, codec=codec) for name, codec in CODECS.items()},
    **{f"v1 {codec}": logs.messages(rows(5, 9), 1, codec=codec) for codec in (1, 2, 3)},
    "v0 gzip": logs.messages(rows(5, 9), 0, codec=1),
    "v0": logs.messages(rows(5, 1), 0),
}


@given(st.sampled_from(sorted(SOURCES)), st.randoms(use_true_random=False))
def test_a_mutated_batch_is_an_error_and_never_other_records(name: str, dice: random.Random) -> None:
    data = bytearray(SOURCES[name])
    right = decoded(bytes(data))
    # Behind the first twelve bytes, offset and length, of which no CRC is kept: the caller compares these.
    for _ in range(dice.randint(1, 3)):
        data[dice.randrange(12, len(data))] ^= 1 << dice.randrange(8)
    header = parse_any(bytes(data), 0)
    if header is None:
        return
    try:
        found = decode(bytes(data[: header.size]), header)
    except Undecodable:
        return
    # The leader epoch may differ: of a batch it is outside the CRC too.
    assert found == right


@given(st.binary(min_size=40, max_size=400), st.sampled_from([0, 1, 2]), st.integers(0, 7), st.integers(0, 4))
def test_no_bytes_with_a_right_crc_break_the_parser(body: bytes, magic: int, codec: int, count: int) -> None:
    if magic == 2:
        made = bytearray(61) + body
        made[16], made[22] = magic, codec
        struct.pack_into(">i", made, 57, count)
        data = logs.sealed(made, 5)
    else:
        made = bytearray(logs.messages([Row(5, TIME, None, body)], magic))
        made[17] |= codec & 3
        struct.pack_into(">I", made, 12, zlib.crc32(made[16:]))
        data = bytes(made)
    header = parse_any(data, 0)
    assert header is not None
    try:
        found = decode(data, header)
    except Undecodable:
        return
    assert all(0 <= each.offset <= header.last_offset for each in found)
