"""Records from the bytes of whole batches, Kafka's by aiokafka's parser.

A batch whose CRC is wrong, or that does not parse, raises `Undecodable`, which names its position and offset.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from takhin_tiered.formats import takhin
from takhin_tiered.formats.batch import Batch, Bytes, adds_up, has_right_crc

CREATE_TIME, LOG_APPEND_TIME, NO_TIMESTAMP_TYPE = 0, 1, -1


class Record(NamedTuple):
    """A record. ``timestamp`` is milliseconds, -1 where the format has none, as has magic 0."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Undecodable(ValueError):
    """A batch that is damaged, or of a codec that is not known here."""

    def __init__(self, position: int, offset: int, reason: str) -> None:
        super().__init__(f"the batch at byte {position} of the log, offset {offset}, {reason}")
        self.position, self.offset = position, offset


def as_bytes(data: Bytes) -> bytes:
    """Without a copy, if it is a view of the whole of some."""
    if isinstance(data, memoryview) and type(data.obj) is bytes and len(data.obj) == len(data):
        return data.obj
    return bytes(data)


def decode(data: Bytes, batch: Batch) -> list[Record]:
    """The records of one whole batch, in order; none of a control batch. `Undecodable` if it is damaged."""
    return [*decoded(data, batch)]


def decoded(data: Bytes, batch: Batch) -> Iterator[Record]:
    """The same, one by one: to take the first ones of many costs less."""
    if batch.magic == takhin.MAGIC:
        yield _decode_takhin(data, batch)
        return
    if not has_right_crc(batch, data):
        raise Undecodable(batch.position, batch.base_offset, "fails its CRC")
    if batch.is_control:
        return
    lowest = 0 if batch.hides_first_offset else batch.base_offset
    try:
        plain = as_bytes(data)
        for record in _decode_batch(plain) if batch.magic == 2 else _decode_message(plain, batch):
            # Offsets stand outside the CRC of some formats, so their order is checked.
            if not lowest <= record.offset <= batch.last_offset:
                raise Undecodable(batch.position, batch.base_offset, f"has a record of offset {record.offset}")
            lowest = record.offset + 1
            yield record
    except Undecodable:
        raise
    except _malformed() as error:
        reason = f"does not decode: {str(error) or type(error).__name__}"
        raise Undecodable(batch.position, batch.base_offset, reason) from error


def first_of(data: bytes, batch: Batch) -> Record:
    """The first record of a batch that has one."""
    records = decode(data, batch)
    if not records:
        raise Undecodable(batch.position, batch.base_offset, "has no record")
    return records[0]


def _decode_takhin(data: Bytes, batch: Batch) -> Record:
    if len(data) != batch.size or not takhin.is_sound(batch, data):
        raise Undecodable(batch.position, batch.base_offset, "has a key and a value that do not fill it")
    key, value = takhin.key_and_value(data)
    return Record(batch.base_offset, batch.base_timestamp, CREATE_TIME, key, value, [])


@cache
def _malformed() -> tuple[type[Exception], ...]:
    """What the parser and the decompressors raise for malformed bytes; the parser's own errors are `RuntimeError`."""
    # Imported where records are decoded: a command that reads none does not wait for it, nor for the parser.
    import cramjam

    return (
        cramjam.DecompressionError,
        zlib.error,
        struct.error,
        AssertionError,
        EOFError,
        IndexError,
        NotImplementedError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
    )


def _decode_batch(data: bytes) -> Iterator[Record]:
    from aiokafka.record.default_records import DefaultRecordBatch

    for each in DefaultRecordBatch(data):
        yield Record(each.offset, each.timestamp, each.timestamp_type, each.key, each.value, each.headers)


def _decode_message(data: bytes, batch: Batch) -> Iterator[Record]:
    if not adds_up(batch, data):
        raise ValueError("key and value do not fill the message")
    from aiokafka.record.legacy_records import LegacyRecordBatch

    for each in LegacyRecordBatch(data, batch.magic):
        kind = NO_TIMESTAMP_TYPE if each.timestamp_type is None else each.timestamp_type
        time = -1 if each.timestamp is None else each.timestamp
        yield Record(each.offset, time, kind, each.key, each.value, [])
