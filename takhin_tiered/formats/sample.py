"""Sample segments in Kafka's format: record batches, offset index, time index.

For the demo, the tests and the benchmarks. The bytes depend on the arguments only.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from takhin_tiered.formats.kafka import index_entry, timeindex_entry

_INDEX_INTERVAL = 4096
_RECORDS_IN_BATCH = 20


@dataclass(frozen=True, slots=True)
class SampleSegment:
    """The bytes of a triple, and the offset at which the next segment begins."""

    log: bytes
    index: bytes
    timeindex: bytes
    next_offset: int


def make_segment(
    base_offset: int, size: int, *, first_timestamp: int = 1_700_000_000_000, seed: int = 0
) -> SampleSegment:
    """A segment of at least ``size`` bytes; timestamps are milliseconds, one per record."""
    dice = random.Random(f"{seed}/{base_offset}")  # noqa: S311 - made-up data, not a secret
    log, index, timeindex = bytearray(), bytearray(), bytearray()
    offset, timestamp, since_entry = base_offset, first_timestamp, 0
    while len(log) < size:
        batch = _make_batch(dice, offset, timestamp)
        offset += _RECORDS_IN_BATCH
        timestamp += _RECORDS_IN_BATCH
        if since_entry > _INDEX_INTERVAL:
            index += index_entry(offset - 1 - base_offset, len(log))
            timeindex += timeindex_entry(timestamp - 1, offset - 1 - base_offset)
            since_entry = 0
        log += batch
        since_entry += len(batch)
    if offset > base_offset:
        timeindex += timeindex_entry(timestamp - 1, offset - 1 - base_offset)
    return SampleSegment(bytes(log), bytes(index), bytes(timeindex), offset)


def _make_batch(dice: random.Random, offset: int, timestamp: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for number in range(_RECORDS_IN_BATCH):
        key = f"customer-{dice.randrange(100_000):05d}".encode()
        value = b'{"order": %d, "note": "%s"}' % (offset + number, dice.randbytes(200).hex().encode())
        builder.append(number, timestamp=timestamp + number, key=key, value=value, headers=[])
    batch = bytes(builder.build())
    # The CRC does not cover the base offset: brokers overwrite it, and so may we.
    return struct.pack(">q", offset) + batch[8:]
