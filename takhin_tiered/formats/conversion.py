"""Records as a batch of Kafka's format, magic 2, for consumers who know no other.

Source: Kafka protocol guide, "Record Batch". aiokafka's builder writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from takhin_tiered.formats.records import Record

_BASE_OFFSET = struct.Struct(">q")
_LARGEST = (1 << 31) - 1
_VARINTS = 40
"""Bytes that the numbers of a record take at most."""


def size_as_record(record: Record) -> int:
    """Bytes that a record takes in a batch, at most."""
    return _VARINTS + len(record.key or b"") + len(record.value or b"")


def as_batch(records: Sequence[Record]) -> bytes:
    """One batch, not compressed, of records in ascending order, which has their offsets. Blocking."""
    # Imported here: few archives need it, and every command would load it.
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, _LARGEST)
    base = records[0].offset
    for record in records:
        builder.append(record.offset - base, record.timestamp, record.key, record.value, list(record.headers))
    batch = builder.build()
    # It stands before what the CRC covers.
    _BASE_OFFSET.pack_into(batch, 0, base)
    return bytes(batch)
