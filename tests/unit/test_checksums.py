"""Checksums, against hashlib and the form that Amazon S3 gives them."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.codec.checksums import (
    READ_SIZE,
    Checksum,
    Hasher,
    bytes_source,
    checksum_of,
    header_to_hex,
    hex_to_header,
)
from takhin_tiered.vault.stored import part_size_for


def composite(data: bytes, part_size: int) -> str:
    """As S3 defines it: the digest of the digests of the parts, a dash, how many there are."""
    parts = [hashlib.sha256(data[at : at + part_size]).digest() for at in range(0, max(len(data), 1), part_size)]
    return f"{hashlib.sha256(b''.join(parts)).hexdigest()}-{len(parts)}"


@pytest.mark.parametrize("size", [0, 1, 1000, READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 3 * READ_SIZE + 7])
def test_a_whole_object_has_the_digest_of_its_bytes(size: int) -> None:
    data = os.urandom(size)
    found = checksum_of(bytes_source(data), size)
    assert found == Checksum(hashlib.sha256(data).hexdigest())
    assert found.parts == ()


@pytest.mark.parametrize("part_size", [1, 99, 100, 101, 200, 1 << 30])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 200, 201, 300])
def test_an_object_in_parts_has_the_digest_of_their_digests(size: int, part_size: int) -> None:
    data = os.urandom(size)
    found = checksum_of(bytes_source(data), size, part_size)
    assert found.sha256 == composite(data, part_size)
    assert found.part_size == part_size
    assert hashlib.sha256(b"".join(found.parts)).hexdigest() == found.sha256.partition("-")[0]
    assert f"{len(found.parts)}" == found.sha256.partition("-")[2]


def test_parts_larger_than_one_read_are_whole() -> None:
    data = os.urandom(5 * READ_SIZE + 11)
    part_size = 2 * READ_SIZE + 3
    assert checksum_of(bytes_source(data), len(data), part_size).sha256 == composite(data, part_size)


@given(st.binary(max_size=200), st.lists(st.integers(0, 60), max_size=10), st.sampled_from([0, 1, 7, 50]))
def test_how_the_bytes_are_cut_up_does_not_matter(data: bytes, cuts: list[int], part_size: int) -> None:
    hasher, at = Hasher(part_size), 0
    for length in [*cuts, len(data)]:
        hasher.update(data[at : at + length])
        at += length
    assert hasher.size == len(data)
    expected = composite(data, part_size) if part_size else hashlib.sha256(data).hexdigest()
    assert hasher.checksum().sha256 == expected


def test_the_header_is_base64_as_s3_writes_it() -> None:
    data = b"some bytes"
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert checksum_of(bytes_source(data), len(data)).header == digest
    parts = hashlib.sha256(hashlib.sha256(b"some ").digest() + hashlib.sha256(b"bytes").digest()).digest()
    assert checksum_of(bytes_source(data), len(data), 5).header == f"{base64.b64encode(parts).decode()}-2"


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", "-1", "-10000"]))
def test_a_header_is_read_as_it_is_written(digest: bytes, parts: str) -> None:
    assert header_to_hex(hex_to_header(digest.hex() + parts)) == digest.hex() + parts


def test_the_form_counts_in_a_comparison_and_the_parts_do_not() -> None:
    data = os.urandom(100)
    whole, in_parts = checksum_of(bytes_source(data), 100), checksum_of(bytes_source(data), 100, 100)
    assert whole != in_parts
    assert in_parts == Checksum(in_parts.sha256, 100)
    assert checksum_of(bytes_source(data), 100, 50) != in_parts


def test_a_source_that_ends_early_gives_the_checksum_of_what_is_there() -> None:
    assert checksum_of(bytes_source(b"short"), 100) == checksum_of(bytes_source(b"short"), 5)
    assert checksum_of(bytes_source(b"short"), 100, 3) == checksum_of(bytes_source(b"short"), 5, 3)


def test_no_more_is_read_than_was_asked_for() -> None:
    assert checksum_of(bytes_source(b"grown meanwhile"), 5) == checksum_of(bytes_source(b"grown"), 5)


def test_a_source_that_gives_little_at_a_time_is_read_to_the_end() -> None:
    data = os.urandom(1000)
    found = checksum_of(lambda at, length: data[at : at + min(length, 7)], 1000, 300)
    assert found.sha256 == composite(data, 300)


@pytest.mark.parametrize("size", [0, 64 << 20, (64 << 20) + 1, 1 << 30, 5 << 30, (5 << 30) + 1, 1 << 40])
def test_parts_are_at_most_ten_thousand_and_never_above_five_gib(size: int) -> None:
    part = part_size_for(size)
    assert (part == 0) == (size <= 64 << 20)
    assert part == 0 or (5 << 20 <= part <= 5 << 30 and -(-size // part) <= 10_000)
