"""Segments in memory, as sources for a reader, that remember what was read of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from takhin_tiered.formats.kafka import LogWalk
from takhin_tiered.segments.names import FileKind, SegmentId
from tests.logs import Log


@dataclass
class File:
    data: bytes
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= self.size
        self.reads.append((start, end))
        return self.data[start:end]


@dataclass
class Source:
    """``format`` and offsets are unknown, as of a local segment, unless they are given."""

    id: SegmentId
    files: dict[FileKind, File]
    format: str = ""
    first_offset: int | None = None
    last_offset: int | None = None
    open_transactions: tuple[tuple[int, int], ...] | None = None

    def file(self, kind: FileKind) -> File | None:
        return self.files.get(kind)

    @property
    def log(self) -> File:
        return self.files[FileKind.LOG]


def source(base: int, log: bytes, index: bytes = b"", timeindex: bytes = b"", **more: bytes) -> Source:
    """As of a local segment."""
    found = {FileKind.LOG: log, FileKind.INDEX: index, FileKind.TIMEINDEX: timeindex}
    found |= {FileKind(kind): data for kind, data in more.items()}
    return Source(SegmentId("orders", 0, base), {kind: File(bytes(data)) for kind, data in found.items()})


def archived(base: int, log: bytes, index: bytes = b"", timeindex: bytes = b"", **more: bytes) -> Source:
    """With what a manifest says of it."""
    made, walk = source(base, log, index, timeindex, **more), LogWalk(len(log))
    walk.update(log)
    summary = walk.summary(b"")
    made.format, made.first_offset, made.last_offset = summary.format, summary.first_offset, summary.last_offset
    made.open_transactions = summary.open_transactions
    return made


def of_log(log: Log, *, is_archived: bool = True, **more: bytes) -> Source:
    make = archived if is_archived else source
    return make(log.base, bytes(log.data), bytes(log.index), bytes(log.timeindex), **more)


def total(reads: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in reads)
