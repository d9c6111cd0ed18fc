"""Blocks of rows: what is read is what was written."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.catalog.block import SEGMENTS_AT_MOST, blocks, unpack_blocks
from takhin_tiered.segments.names import MAX_OFFSET

offsets = st.integers(0, MAX_OFFSET)


@given(st.dictionaries(offsets, st.binary(max_size=200), max_size=20))
def test_a_block_is_read_as_it_was_written(rows: dict[int, bytes]) -> None:
    assert unpack_blocks(blocks(rows)) == rows


@pytest.mark.parametrize("count", [0, 1, SEGMENTS_AT_MOST, SEGMENTS_AT_MOST + 1, 3 * SEGMENTS_AT_MOST])
def test_many_rows_take_several_blocks(count: int) -> None:
    rows = {offset: b"%d" % offset for offset in range(count)}
    packed = list(blocks(rows))
    assert len(packed) == -(-count // SEGMENTS_AT_MOST)
    assert unpack_blocks(packed) == rows


@given(st.binary(max_size=100))
def test_other_bytes_are_no_block_or_the_very_same(data: bytes) -> None:
    try:
        rows = unpack_blocks([data])
    except struct.error:
        return
    assert len(rows) <= len(data)
