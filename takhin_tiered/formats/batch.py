"""Headers of Kafka's record batches (magic 2) and of the messages of message sets (magic 0 and 1).

Sources: Kafka protocol guide, "Record Batch" and "Message sets"; ``DefaultRecordBatch``, ``LegacyRecord``,
``AbstractLegacyRecordBatch``. All numbers are big-endian. Offset, length and magic stand at the same place in each.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from crc32c import crc32c

Bytes = bytes | bytearray | memoryview

HEADER = struct.Struct(">qiiBIhiqqqhii")
HEADER_SIZE = HEADER.size
LENGTH_ENDS_AT = 12
"""Bytes before those that the length counts."""
CRC_COVERS_FROM = 21
SMALLEST_LENGTH = HEADER_SIZE - LENGTH_ENDS_AT

MESSAGE = struct.Struct(">qiIBb")
INT, LONG = struct.Struct(">i"), struct.Struct(">q")
MESSAGE_CRC_COVERS_FROM = 16
KEY_AT = {0: 18, 1: 26}
SMALLEST_MESSAGE = {0: 26, 1: 34}
"""Bytes of a message without key and value."""
LARGEST_HEADER = HEADER_SIZE
MAGIC_AT = 16

_CODEC, LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_MESSAGE_CODECS = 0x03
TRANSACTIONAL_OR_CONTROL = _TRANSACTIONAL | _CONTROL
NO_PRODUCER = -1
NO_TIMESTAMP = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """The header of a record batch, or of a message, and its position. Timestamps are milliseconds.

    Of a compressed message ``base_offset`` is the last offset too: the header does not tell the first.
    """

    position: int
    size: int
    base_offset: int
    last_offset: int
    base_timestamp: int
    max_timestamp: int
    crc: int
    leader_epoch: int = -1
    records: int = 0
    magic: int = 2
    attributes: int = 0
    producer_id: int = NO_PRODUCER
    producer_epoch: int = -1

    @property
    def end(self) -> int:
        return self.position + self.size

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & _CODEC

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        return self.magic == 2 and bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return self.magic == 2 and bool(self.attributes & _CONTROL)

    @property
    def hides_first_offset(self) -> bool:
        """Whether its first offset stands in the compressed records only."""
        return self.magic < 2 and self.codec != 0


def batch_fields(data: Bytes, at: int = 0) -> tuple[int, ...] | None:
    """The fields of `HEADER`, of a batch of magic 2 that begins here; None if these bytes are not one."""
    if at + HEADER_SIZE > len(data):
        return None
    fields = HEADER.unpack_from(data, at)
    base, length, _, magic, _, _, last_delta, *_ = fields
    return None if magic != 2 or length < SMALLEST_LENGTH or base < 0 or last_delta < 0 else fields


def parse_batch(header: Bytes, position: int) -> Batch | None:
    """Parse the header of a batch of magic 2; None if these bytes are not one."""
    fields = batch_fields(header)
    if fields is None:
        return None
    base, length, epoch, magic, crc, attributes, last_delta, base_time, max_time, producer, producer_epoch, *_ = fields
    return Batch(
        position,
        length + LENGTH_ENDS_AT,
        base,
        base + last_delta,
        base_time,
        max_time,
        crc,
        epoch,
        fields[12],
        magic,
        attributes,
        producer,
        producer_epoch,
    )


def header_size(head: Bytes) -> int:
    """How many bytes the header takes whose first 17 bytes these are; 0 if they are not of one."""
    magic = head[MAGIC_AT]
    return HEADER_SIZE if magic == 2 else SMALLEST_MESSAGE.get(magic, 0)


def parse_message(header: Bytes, position: int) -> Batch | None:
    """Parse the header of a message of magic 0 or 1; None if these bytes are not one."""
    if len(header) < SMALLEST_MESSAGE[0]:
        return None
    offset, length, crc, magic, attributes = MESSAGE.unpack_from(header)
    smallest = SMALLEST_MESSAGE.get(magic)
    if smallest is None or len(header) < smallest or length + LENGTH_ENDS_AT < smallest or offset < 0:
        return None
    (key,) = INT.unpack_from(header, KEY_AT[magic])
    known = _MESSAGE_CODECS | (LOG_APPEND_TIME if magic == 1 else 0)
    if attributes & ~known or not -1 <= key <= length + LENGTH_ENDS_AT - smallest:
        return None
    time = int(LONG.unpack_from(header, MESSAGE.size)[0]) if magic == 1 else NO_TIMESTAMP
    return Batch(
        position,
        length + LENGTH_ENDS_AT,
        offset,
        offset,
        time,
        time,
        crc,
        records=1,
        magic=magic,
        attributes=attributes,
    )


def parse_any(header: Bytes, position: int) -> Batch | None:
    """Parse the header of a batch or a message, whichever it is; None if it is neither."""
    if len(header) <= MAGIC_AT:
        return None
    return parse_batch(header, position) if header[MAGIC_AT] == 2 else parse_message(header, position)


def adds_up(message: Batch, data: Bytes) -> bool | None:
    """Whether key and value fill a message exactly; None where ``data`` ends before that shows."""
    at = KEY_AT[message.magic]
    (key,) = INT.unpack_from(data, at)
    at += 4 + max(0, key)
    if at + 4 > len(data):
        return None
    (value,) = INT.unpack_from(data, at)
    return bool(value >= -1 and at + 4 + max(0, value) == message.size)


def start_crc(batch: Batch, begun: Bytes) -> int:
    """The CRC of the first bytes of a batch, its header at least."""
    if batch.magic == 2:
        return crc32c(begun[CRC_COVERS_FROM:])
    return zlib.crc32(begun[MESSAGE_CRC_COVERS_FROM:])


def extend_crc(batch: Batch, crc: int, more: Bytes) -> int:
    return crc32c(more, crc) if batch.magic == 2 else zlib.crc32(more, crc)


def has_right_crc(batch: Batch, data: Bytes) -> bool:
    """Whether these bytes, the whole batch, have the CRC that its header names."""
    return len(data) == batch.size and start_crc(batch, data) == batch.crc
