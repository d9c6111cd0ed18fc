"""The files of a segment, held open: what is read and sent are their bytes, whatever becomes of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from takhin_tiered.codec.checksums import Checksum, Hasher
from takhin_tiered.codec.chunks import ChunkSums, chunk_size_for
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import OpenFile, PartitionDir
from takhin_tiered.disk.kafka import read_partition
from takhin_tiered.formats.kafka import TIMEINDEX_ENTRY_SIZE, LogSummary, LogWalk
from takhin_tiered.formats.transactions import ongoing, parse_snapshot
from takhin_tiered.segments.chunks import Chunks
from takhin_tiered.segments.model import NO_FILES
from takhin_tiered.segments.names import FileKind, SegmentId

SMALL = 256 << 10
"""Bytes, up to which a file is held in memory."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one pass over each file told; ``small`` has the bytes of small ones, which need not be read again."""

    checksums: dict[FileKind, Checksum]
    chunks: dict[FileKind, Chunks]
    summary: LogSummary
    small: dict[FileKind, bytes]


class OpenSegment:
    """Not open at first. Its methods block; `open` and `read` raise `OSError`.

    ``stats`` is how the files stood when they were opened, ``topic_id`` the topic's in
    Kafka, or empty. ``content`` is there from then on where all of it is
    small, which saves a turn in a thread, with the MD5 in any case; else it is None.
    """

    def __init__(self, identity: SegmentId, chunk_size: int) -> None:
        self.identity = identity
        self.files: dict[FileKind, OpenFile] = {}
        self.stats = NO_FILES
        self.topic_id = ""
        self.content: Content | None = None
        self._chunk_size = chunk_size
        self._stack = ExitStack()

    def open(self, partition: PartitionDir) -> None:
        for kind in FileKind:
            with suppress(FileNotFoundError):
                file = self.files[kind] = self._stack.enter_context(partition.open(self.identity.file(kind)))
                self.stats = self.stats.with_file(kind, file.found)
        self.topic_id = read_partition(partition.fd).topic_id
        if self.stats.size <= SMALL:
            self.content = self.read(dict.fromkeys(self.files, 0), with_md5=True)

    def close(self) -> None:
        """Close the files, if they are open. Errors are ignored: the files were only read."""
        with suppress(OSError):
            self._stack.close()
        self.files, self.stats, self.content = {}, NO_FILES, None

    def read(self, part_sizes: Mapping[FileKind, int], *, with_md5: bool) -> Content:
        """One pass over each file, for checksums in parts of so many bytes, 0 for one piece.

        Of a file that became shorter there are fewer chunks than its size says: what is stored of it is refused.
        """
        checksums: dict[FileKind, Checksum] = {}
        chunks: dict[FileKind, Chunks] = {}
        small: dict[FileKind, bytes] = {}
        open_before = self._ongoing()
        walk = LogWalk(self.size(FileKind.LOG), open_before or {})
        for kind, file in self.files.items():
            size = self.size(kind)
            chunk_size = chunk_size_for(size, self._chunk_size)
            hasher, sums = Hasher(part_sizes[kind], md5=with_md5), ChunkSums(chunk_size)
            for piece in file.pieces(size):
                hasher.update(piece)
                sums.update(piece)
                if kind is FileKind.LOG:
                    walk.update(piece)
                if len(piece) == size <= SMALL:
                    small[kind] = bytes(piece)
            checksums[kind] = hasher.checksum()
            chunks[kind] = Chunks(chunk_size, sums.checksums())
        summary = walk.summary(self._end_of_timeindex())
        if open_before is None:
            summary = replace(summary, open_transactions=None)
        return Content(checksums, chunks, summary, small)

    def size(self, kind: FileKind) -> int:
        stat = self.stats.get(kind)
        return stat.size if stat is not None else 0

    def _ongoing(self) -> Mapping[int, int] | None:
        """The transactions that are open at the beginning; None if the producer snapshot is malformed."""
        file = self.files.get(FileKind.SNAPSHOT)
        try:
            return {} if file is None else ongoing(parse_snapshot(file.read(0, self.size(FileKind.SNAPSHOT))))
        except ValueError:
            return None

    def _end_of_timeindex(self) -> bytes:
        file = self.files.get(FileKind.TIMEINDEX)
        whole = self.size(FileKind.TIMEINDEX) // TIMEINDEX_ENTRY_SIZE * TIMEINDEX_ENTRY_SIZE
        return file.read(whole - TIMEINDEX_ENTRY_SIZE, TIMEINDEX_ENTRY_SIZE) if file and whole else b""


async def close_all(opened: Sequence[OpenSegment]) -> None:
    """In one thread call, if any is open: to free much memory takes the kernel some time."""

    def close() -> None:
        for each in opened:
            each.close()

    if any(each.files for each in opened):
        await in_thread(close)
