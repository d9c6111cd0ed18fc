"""Partitions with everything that a log may have, and what Kafka's rules give of them, decoded by aiokafka."""

from __future__ import annotations

import os
import random
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c

from takhin_tiered.formats.records import Record
from tests.logs import TIME, Headers, Log, Row, batch, marker, messages, takhin

DAY = 86_400_000
ABORTED = struct.Struct(">hqqqq")
PRODUCER = struct.Struct(">qhiqiqiq")


class Known(NamedTuple):
    """A record as it stands in the log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    producer: int | None
    """Of a transaction."""
    is_control: bool


@dataclass
class Segment:
    base: int
    files: dict[str, bytes]


@dataclass
class Partition:
    """``end``: behind the last record of the closed segments."""

    name: str
    segments: list[Segment] = field(default_factory=list)
    end: int = 0

    def write(self, root: Path, *, age_hours: float = 200.0) -> list[str]:
        """All files, and an empty active segment behind them; returns the paths of the closed segments."""
        directory = root / self.name
        directory.mkdir(exist_ok=True)
        for segment in [*self.segments, Segment(self.end, {"log": b"", "index": b"", "timeindex": b""})]:
            write_segment(directory, segment, age_hours=age_hours)
        return [f"{self.name}/{segment.base:020d}.log" for segment in self.segments]

    def known(self) -> list[Known]:
        return [each for segment in self.segments for each in decoded(segment.files["log"])]


def write_segment(directory: Path, segment: Segment, *, age_hours: float = 200.0) -> None:
    for kind, content in segment.files.items():
        path = directory / f"{segment.base:020d}.{kind}"
        path.write_bytes(content)
        os.utime(path, (time.time() - age_hours * 3600,) * 2)


def decoded(log: bytes) -> list[Known]:
    found: list[Known] = []
    memory = MemoryRecords(log)
    while memory.has_next():
        each = memory.next_batch()
        is_control = bool(getattr(each, "is_control_batch", False))
        producer = each.producer_id if getattr(each, "is_transactional", False) else None
        found += [
            Known(
                record.offset,
                -1 if record.timestamp is None else record.timestamp,
                record.key,
                record.value,
                list(record.headers),
                producer,
                is_control,
            )
            for record in each
        ]
    return found


@dataclass
class Truth:
    """What Kafka gives of a log."""

    known: list[Known]
    end: int

    def visible(self, *, committed: bool, below: int | None = None) -> tuple[list[Known], int]:
        """The records in order, and the offset at which they end."""
        known = [each for each in self.known if each.offset < (self.end if below is None else below)]
        end = self.end if below is None else below
        if not committed:
            return [each for each in known if not each.is_control], end
        pending: dict[int, list[Known]] = {}
        aborted: set[int] = set()
        for each in known:
            if each.producer is None:
                continue
            if each.is_control:
                assert each.key is not None
                of_producer = pending.pop(each.producer, [])
                if struct.unpack(">hh", each.key)[1] == 0:
                    aborted |= {one.offset for one in of_producer}
            else:
                pending.setdefault(each.producer, []).append(each)
        end = min([end, *(ones[0].offset for ones in pending.values())])
        return [e for e in known if e.offset < end and e.offset not in aborted and not e.is_control], end

    def at_time(self, timestamp: int) -> int | None:
        """The first record that is not older, control records too."""
        return next((each.offset for each in self.known if each.timestamp >= timestamp), None)


def as_seen(records: list[Record]) -> list[tuple[object, ...]]:
    return [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in records]


def as_known(records: list[Known]) -> list[tuple[object, ...]]:
    return [tuple(each[:5]) for each in records]


def make_partition(
    name: str, seed: int, *, segments: int = 3, batches: int = 30, gaps: bool = True, transactions: bool = True
) -> Partition:
    """Batches of every codec, transactions that span segments, and times over weeks, out of order."""
    chance = random.Random(seed)
    made = Partition(name)
    offset, clock = 0, TIME
    opened: dict[int, int] = {}
    for number in range(segments):
        log, aborted = Log(offset, interval=chance.choice([200, 4096])), bytearray()
        snapshot = snapshot_of(opened)
        base = offset
        for _ in range(batches):
            clock += chance.randrange(0, DAY)
            if transactions and opened and chance.random() < 0.25:
                producer = chance.choice(list(opened))
                first, commit = opened.pop(producer), chance.random() < 0.5
                log.append(marker(offset, producer, commit=commit, time=clock))
                if not commit:
                    stable = min([offset + 1, *opened.values()])
                    aborted += ABORTED.pack(0, producer, first, offset, stable)
                offset += 1
                continue
            rows = _rows(chance, offset, clock)
            how = chance.random()
            if transactions and how < 0.4:
                producer = chance.randrange(1, 4)
                opened.setdefault(producer, offset)
                log.append(batch(rows, codec=chance.randrange(5), producer=producer, transactional=True))
            else:
                appended = clock if chance.random() < 0.1 else None
                log.append(batch(rows, codec=chance.randrange(5), appended_at=appended))
            offset = rows[-1].offset + 1
            if gaps and chance.random() < 0.15 and number < segments - 1:
                offset += chance.randrange(1, 4)
        if gaps:
            # The end of a segment is no gap.
            rows = _rows(chance, offset, clock)
            log.append(batch(rows))
            offset = rows[-1].offset + 1
        log.close()
        files = {"log": bytes(log.data), "index": bytes(log.index), "timeindex": bytes(log.timeindex)}
        if transactions:
            files |= {"txnindex": bytes(aborted), "snapshot": snapshot}
        made.segments.append(Segment(base, files))
    made.end = offset
    return made


def make_old_partition(name: str, seed: int, magic: int) -> Partition:
    """Message sets; ``magic`` -1: Takhin's records."""
    chance = random.Random(seed)
    made = Partition(name)
    offset, clock = 0, TIME
    for _ in range(3):
        log, base = Log(offset, interval=300), offset
        data, index, timeindex = bytearray(), bytearray(), bytearray()
        for _ in range(25):
            clock += chance.randrange(0, DAY)
            rows = [Row(r.offset, r.timestamp, r.key, r.value) for r in _rows(chance, offset, clock)]
            if magic < 0:
                rows = [Row(r.offset, r.timestamp, r.key or b"", r.value or b"") for r in rows]
                for row in rows:
                    index += struct.pack(">qq", row.offset, len(data))
                    timeindex += struct.pack(">qq", row.timestamp, row.offset)
                    data += takhin([row], padding=4)
            elif codec := chance.randrange(4 if magic else 3):
                log.append(messages(rows, magic, codec=codec))
            else:
                for row in rows:
                    log.append(messages([row], magic))
            offset = rows[-1].offset + 1
        log.close()
        files = {"log": bytes(log.data), "index": bytes(log.index), "timeindex": bytes(log.timeindex)}
        if magic < 0:
            files = {"log": bytes(data), "index": bytes(index), "timeindex": bytes(timeindex)}
        made.segments.append(Segment(base, files))
    made.end = offset
    return made


def snapshot_of(opened: dict[int, int]) -> bytes:
    """A producer snapshot with these transactions, by producer."""
    entries = b"".join(PRODUCER.pack(producer, 0, 0, 0, 0, TIME, 0, first) for producer, first in opened.items())
    covered = struct.pack(">i", len(opened)) + entries
    return struct.pack(">hI", 1, crc32c(covered)) + covered


def _rows(chance: random.Random, offset: int, clock: int) -> list[Row]:
    rows = []
    for n in range(chance.randrange(1, 6)):
        headers: Headers = [("h", chance.choice([None, b"", b"v"])) for _ in range(chance.randrange(3))]
        key = chance.choice([None, b"", b"key of %d" % chance.randrange(9)])
        value = chance.choice([None, b"", chance.randbytes(chance.randrange(900)), b"text " * chance.randrange(300)])
        rows.append(Row(offset + n, clock + chance.randrange(-DAY, DAY), key, value, headers))
    return rows
