"""Transaction indexes and producer snapshots."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.formats.transactions import AbortedTransaction, ongoing, parse_aborted, parse_snapshot

ENTRIES = [(7, 100, 120, 100), (8, 110, 130, 125), (7, 121, 140, 141)]


def txnindex(entries: list[tuple[int, int, int, int]], version: int = 0) -> bytes:
    return b"".join(struct.pack(">hqqqq", version, *entry) for entry in entries)


def snapshot(producers: list[tuple[int, ...]], version: int = 1) -> bytes:
    body = struct.pack(">i", len(producers)) + b"".join(struct.pack(">qhiqiqiq", *each) for each in producers)
    return struct.pack(">hI", version, crc32c(body)) + body


def test_a_transaction_index_lists_aborted_transactions() -> None:
    assert parse_aborted(txnindex(ENTRIES)) == tuple(AbortedTransaction(*entry) for entry in ENTRIES)
    assert parse_aborted(b"") == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (txnindex(ENTRIES)[:-1], "no whole number of entries"),
        (txnindex(ENTRIES, version=1), "entry 1 .* version 1"),
        (txnindex([*ENTRIES, ENTRIES[0]]), "entry 4 .* marker 120, and follows marker 140"),
        (txnindex([(7, 120, 100, 100)]), "offsets 120 to 100"),
        (txnindex([(-1, 100, 120, 100)]), "makes no sense"),
        (bytes(34), "makes no sense"),
    ],
)
def test_a_damaged_transaction_index_is_an_error(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_aborted(data)


def test_a_snapshot_lists_producers_and_their_open_transactions() -> None:
    data = snapshot([(7, 1, 5, 99, 4, 1_700_000_000_000, 3, 95), (8, 0, 2, 50, 0, 1_700_000_000_000, -1, -1)])
    producers = parse_snapshot(data)
    assert [(each.producer_id, each.epoch, each.last_offset) for each in producers] == [(7, 1, 99), (8, 0, 50)]
    assert ongoing(producers) == {7: 95}
    assert parse_snapshot(snapshot([])) == ()


@pytest.mark.parametrize("data", [b"", b"\0" * 9, bytes(40), snapshot([], version=2), b"producers at 5"])
def test_what_is_no_snapshot_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="producer snapshot"):
        parse_snapshot(data)


@given(st.integers(0, 101), st.integers(1, 255))
def test_a_mutated_snapshot_is_an_error(at: int, change: int) -> None:
    data = bytearray(snapshot([(7, 1, 5, 99, 4, 1, 3, 95), (8, 0, 2, 50, 0, 1, -1, -1)]))
    assert len(data) == 102
    data[at] ^= change
    with pytest.raises(ValueError, match="producer snapshot"):
        parse_snapshot(data)


@given(st.binary(max_size=200).filter(bool))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    with pytest.raises(ValueError, match="transaction index"):
        parse_aborted(data)
    with pytest.raises(ValueError, match="producer snapshot"):
        parse_snapshot(data)
