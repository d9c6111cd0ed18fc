"""Aborted transactions in ``.txnindex``, and ongoing ones in a producer snapshot.

Sources: Apache Kafka, ``AbortedTxn``, ``TransactionIndex``, ``ProducerStateManager``. An aborted transaction stands in
the index of the segment that has its marker. All numbers are big-endian. Malformed bytes raise `ValueError`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from takhin_tiered.formats.batch import Bytes

_ABORTED = struct.Struct(">hqqqq")
_TXNINDEX_VERSION = 0
_SNAPSHOT_HEAD = struct.Struct(">hIi")
_SNAPSHOT_VERSION = 1
_SNAPSHOT_CRC_COVERS_FROM = 6
_PRODUCER = struct.Struct(">qhiqiqiq")


class AbortedTransaction(NamedTuple):
    """``last_offset`` is that of the abort marker. All below ``last_stable_offset`` was decided when it was written."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


class Producer(NamedTuple):
    """The state of a producer at the first offset of a segment; its transaction's first offset, -1 if none is open."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int
    coordinator_epoch: int
    transaction_first_offset: int


def parse_aborted(data: Bytes) -> tuple[AbortedTransaction, ...]:
    """The entries of a ``.txnindex`` file, in the order of their markers."""
    if len(data) % _ABORTED.size:
        raise ValueError(f"the transaction index has {len(data)} bytes, which are no whole number of entries")
    found: list[AbortedTransaction] = []
    for version, *fields in _ABORTED.iter_unpack(data):
        entry = AbortedTransaction(*fields)
        at = f"entry {len(found) + 1} of the transaction index"
        if version != _TXNINDEX_VERSION:
            raise ValueError(f"{at} has version {version}, which is unknown")
        if entry.producer_id < 0 or not 0 <= entry.first_offset < entry.last_offset or entry.last_stable_offset < 0:
            raise ValueError(f"{at} makes no sense: offsets {entry.first_offset} to {entry.last_offset}")
        if found and entry.last_offset <= found[-1].last_offset:
            raise ValueError(f"{at} has marker {entry.last_offset}, and follows marker {found[-1].last_offset}")
        found.append(entry)
    return tuple(found)


def parse_snapshot(data: Bytes) -> tuple[Producer, ...]:
    """The producers in a ``.snapshot`` file."""
    if len(data) < _SNAPSHOT_HEAD.size:
        raise ValueError(f"the producer snapshot has {len(data)} bytes, fewer than its head")
    version, crc, count = _SNAPSHOT_HEAD.unpack_from(data)
    if version != _SNAPSHOT_VERSION:
        raise ValueError(f"version {version} of the producer snapshot is unknown")
    if crc32c(memoryview(data)[_SNAPSHOT_CRC_COVERS_FROM:]) != crc:
        raise ValueError("the producer snapshot fails its CRC")
    entries = memoryview(data)[_SNAPSHOT_HEAD.size :]
    if count < 0 or len(entries) != count * _PRODUCER.size:
        raise ValueError(f"the producer snapshot has {len(entries)} bytes of entries, and names {count} of them")
    return tuple(Producer(*fields) for fields in _PRODUCER.iter_unpack(entries))


def ongoing(producers: tuple[Producer, ...]) -> dict[int, int]:
    """The first offset of each transaction that is open at a snapshot, by producer ID."""
    return {each.producer_id: each.transaction_first_offset for each in producers if each.transaction_first_offset >= 0}
