"""What a scan sees of a partition: each segment's files as packed bytes, the start of a catalog row.

A scan sees millions of files. Creating an object for each would take longer than its stat call.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from takhin_tiered.segments.model import NO_FILES, FileStat, LocalFiles
from takhin_tiered.segments.names import FileKind

# A row begins with flags: these two, and from `LOCAL_SHIFT` on one bit for each file that follows.
FLAGS = struct.Struct("<I")
ACTIVE, SETTLED = 1, 2
LOCAL_SHIFT = 7
KINDS = len(FileKind)
ALL_KINDS = (1 << KINDS) - 1
_HAS_LOG = 1 << LOCAL_SHIFT
_FILE = struct.Struct("<qqQ")
_HEADS = [FLAGS.pack(SETTLED | present << LOCAL_SHIFT) for present in range(ALL_KINDS + 1)]

pack_file = _FILE.pack
"""Pack the fields of a `FileStat`."""


def flags_of(row: bytes) -> int:
    flags: int = FLAGS.unpack_from(row)[0]
    return flags


def row_of(files: list[bytes]) -> bytes:
    """The row of a segment of which only its files are known: packed, or empty for an absent file."""
    log, index, timeindex, txnindex, snapshot = files
    present = (
        (1 if log else 0)
        | (2 if index else 0)
        | (4 if timeindex else 0)
        | (8 if txnindex else 0)
        | (16 if snapshot else 0)
    )
    return _HEADS[present] + log + index + timeindex + txnindex + snapshot


def pack_seen(files: LocalFiles) -> bytes:
    return row_of([b"" if stat is None else pack_file(*stat) for stat in files])


def pack_files(files: LocalFiles) -> bytes:
    return b"".join([pack_file(*stat) for stat in files if stat is not None])


def unpack_files(row: bytes, at: int, present: int) -> tuple[LocalFiles, int]:
    """The files of the bits ``present``, and where they end in the row."""
    if not present:
        return NO_FILES, at
    stats: list[FileStat | None] = []
    for bit in range(KINDS):
        if present >> bit & 1:
            stats.append(FileStat(*_FILE.unpack_from(row, at)))
            at += _FILE.size
        else:
            stats.append(None)
    return LocalFiles(*stats), at


def presence(files: LocalFiles) -> int:
    return sum(1 << place for place, stat in enumerate(files) if stat is not None)


def local_files(row: bytes) -> LocalFiles:
    """The local files of any row."""
    return unpack_files(row, FLAGS.size, flags_of(row) >> LOCAL_SHIFT & ALL_KINDS)[0]


def has_log(row: bytes) -> bool:
    return bool(row[0] & _HAS_LOG)


def has_local(row: bytes) -> bool:
    """Whether any of its files is on disk."""
    return bool(flags_of(row) >> LOCAL_SHIFT & ALL_KINDS)


NOTHING_SEEN = pack_seen(NO_FILES)


@dataclass(frozen=True, slots=True)
class PartitionListing:
    """The content of a partition directory; ``active`` is the highest base offset that has a log.

    ``written_later`` is the base offset of a lower log that was modified later, or None. It may be the one that the
    broker writes to: a segment that somebody placed above it makes it look closed.

    ``rows`` are those of `pack_seen`. ``unfinished`` are our temporary files, of a restore that is running or was
    killed. ``problem`` says why the directory could not be read; its content is unknown then. ``partial``: only some
    segments were read, because the directory is unchanged. ``topic_id`` is Kafka's, empty if absent or not read.
    """

    topic: str
    partition: int
    rows: dict[int, bytes]
    active: int | None
    unfinished: tuple[str, ...] = ()
    problem: str = ""
    partial: bool = False
    written_later: int | None = None
    topic_id: str = ""

    @property
    def directory(self) -> str:
        return f"{self.topic}-{self.partition}"

    def files(self, base_offset: int) -> LocalFiles:
        row = self.rows.get(base_offset)
        return NO_FILES if row is None else local_files(row)
