"""How an incoming file is cut into ranges."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.codec.checksums import Hasher, sha256_of_parts
from takhin_tiered.engine.incoming import ranges_of

MIB = 1 << 20


@given(
    st.integers(0, 1 << 42), st.integers(1, 1 << 33) | st.just(16 * MIB), st.integers(1, 64 * MIB) | st.just(4 * MIB)
)
def test_ranges_are_all_of_the_file_in_whole_parts_and_chunks(size: int, part_size: int, chunk_size: int) -> None:
    ranges = ranges_of(size, part_size, chunk_size)
    assert 1 <= len(ranges) <= 4
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(start % part_size == 0 for start, _ in ranges)
    assert all(start % chunk_size == 0 for start, _ in ranges)
    assert all(start < end for start, end in ranges) or size == 0


def test_what_is_small_or_has_no_parts_comes_in_one() -> None:
    assert ranges_of(1 << 40, 0) == [(0, 1 << 40)]
    assert ranges_of(63 * MIB, 16 * MIB) == [(0, 63 * MIB)]
    assert ranges_of(65 * MIB, 16 * MIB) == [(0, 48 * MIB), (48 * MIB, 65 * MIB)]
    assert ranges_of(65 * MIB, 16 * MIB, 4 * MIB) == [(0, 48 * MIB), (48 * MIB, 65 * MIB)]
    assert ranges_of(200 * MIB, 16 * MIB, 3 * MIB) == [(0, 96 * MIB), (96 * MIB, 192 * MIB), (192 * MIB, 200 * MIB)]
    assert ranges_of(200 * MIB, 16 * MIB, 4 * MIB + 1) == [(0, 200 * MIB)]


@given(st.integers(1, 40), st.integers(1, 60))
def test_digests_of_ranges_are_those_of_the_whole(part_size: int, size: int) -> None:
    data = os.urandom(size)
    whole = Hasher(part_size)
    whole.update(data)
    step = 2 * part_size
    digests: list[bytes] = []
    for start in range(0, size, step):
        hasher = Hasher(part_size)
        hasher.update(data[start : start + step])
        digests += hasher.checksum().parts
    assert sha256_of_parts(digests) == whole.checksum().sha256
    assert digests[0] == hashlib.sha256(data[:part_size]).digest()
