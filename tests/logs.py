"""Logs of every format, as brokers write them: batches, message sets, records of Takhin's, and their indexes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from crc32c import crc32c

from takhin_tiered.formats.batch import parse_any
from takhin_tiered.formats.records import Record

TIME = 1_700_000_000_000
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Headers = list[tuple[str, bytes | None]]


@dataclass
class Row:
    """A record to be written."""

    offset: int
    timestamp: int
    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: Headers = field(default_factory=list)


def rows(base: int, count: int, *, step: int = 1, time: int = TIME) -> list[Row]:
    return [Row(base + n * step, time + base + n * step, b"k%d" % n, b"value of %d " % n * 5) for n in range(count)]


def batch(
    records: Sequence[Row],
    *,
    codec: int = 0,
    producer: int = -1,
    transactional: bool = False,
    appended_at: int | None = None,
    base: int | None = None,
    last: int | None = None,
    epoch: int = 0,
) -> bytes:
    """A record batch. ``base`` and ``last`` are offsets of records that compaction took out of it."""
    base = records[0].offset if base is None else base
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=transactional,
        producer_id=producer,
        producer_epoch=0 if producer >= 0 else -1,
        base_sequence=0 if producer >= 0 else -1,
        batch_size=1 << 30,
    )
    for row in records:
        builder.append(
            row.offset - base, timestamp=row.timestamp, key=row.key, value=row.value, headers=list(row.headers)
        )
    made = bytearray(builder.build())
    if last is not None:
        struct.pack_into(">i", made, 23, last - base)
    if appended_at is not None:
        made[22] |= 0x08
        struct.pack_into(">q", made, 35, appended_at)
    return sealed(made, base, epoch)


def marker(offset: int, producer: int, *, commit: bool, time: int = TIME) -> bytes:
    """A control batch, as the transaction coordinator has it written."""
    key, value = struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 1)
    made = bytearray(batch([Row(offset, time, key, value)], producer=producer, transactional=True))
    made[22] |= 0x20
    return sealed(made, offset)


def sealed(made: bytearray, base: int, epoch: int = 0) -> bytes:
    struct.pack_into(">qii", made, 0, base, len(made) - 12, epoch)
    struct.pack_into(">I", made, 17, crc32c(bytes(made[21:])))
    return bytes(made)


def messages(records: Sequence[Row], magic: int, *, codec: int = 0, appended_at: int | None = None) -> bytes:
    """A message set; with a codec it is one message that holds the others."""
    if not codec:
        return b"".join(_message(row, magic, appended_at) for row in records)
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=1 << 30)
    for row in records:
        inner = row.offset - records[0].offset if magic == 1 else row.offset
        builder.append(inner, timestamp=row.timestamp, key=row.key, value=row.value)
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, records[-1].offset)
    if magic == 1:
        newest = max(row.timestamp for row in records) if appended_at is None else appended_at
        made[17] |= 0 if appended_at is None else 0x08
        struct.pack_into(">q", made, 18, newest)
    struct.pack_into(">I", made, 12, zlib.crc32(made[16:]))
    return bytes(made)


def _message(row: Row, magic: int, appended_at: int | None) -> bytes:
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=0, batch_size=1 << 30)
    time = row.timestamp if appended_at is None else appended_at
    builder.append(row.offset, timestamp=time, key=row.key, value=row.value)
    made = bytearray(builder.build())
    if appended_at is not None:
        made[17] |= 0x08
        struct.pack_into(">I", made, 12, zlib.crc32(made[16:]))
    return bytes(made)


def takhin(records: Iterable[Row], *, padding: int = 0) -> bytes:
    """Takhin's records; its own writer leaves four bytes of ``padding``."""
    made = bytearray()
    for row in records:
        key, value = row.key or b"", row.value or b""
        size = 24 + len(key) + len(value) + padding
        made += struct.pack(">IqqI", size, row.offset, row.timestamp, len(key)) + key
        made += struct.pack(">I", len(value)) + value + bytes(padding)
    return bytes(made)


@dataclass
class Log:
    """A log that grows by appends, with the indexes that Kafka's ``LogSegment.append`` writes beside it."""

    base: int
    interval: int = 4096
    data: bytearray = field(default_factory=bytearray)
    index: bytearray = field(default_factory=bytearray)
    timeindex: bytearray = field(default_factory=bytearray)
    since: int = 0
    newest: tuple[int, int] = (-1, 0)
    written: int = -1

    def append(self, *batches: bytes) -> None:
        position = len(self.data)
        for each in batches:
            header = parse_any(each, 0)
            assert header is not None
            assert header.size == len(each)
            if header.max_timestamp > self.newest[0]:
                self.newest = header.max_timestamp, header.last_offset
            last = header.last_offset
            self.data += each
        if self.since > self.interval:
            self.index += struct.pack(">ii", last - self.base, position)
            self._note_time()
            self.since = 0
        self.since += len(self.data) - position

    def close(self) -> Log:
        """What a broker writes when it rolls the segment."""
        self._note_time()
        return self

    def _note_time(self) -> None:
        if self.newest[0] > self.written:
            self.timeindex += struct.pack(">qi", self.newest[0], self.newest[1] - self.base)
            self.written = self.newest[0]


def as_records(written: Iterable[Row], kind: int = 0) -> list[Record]:
    """What a reader is to find of these rows."""
    return [Record(row.offset, row.timestamp, kind, row.key, row.value, list(row.headers)) for row in written]
