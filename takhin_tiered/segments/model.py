"""A segment: its files on disk, its archived copy, its state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from takhin_tiered.segments.names import FileKind, SegmentId


class Tier(StrEnum):
    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


class State(StrEnum):
    """Where the whole segment is: on disk only, in both places, or in the archive only."""

    LOCAL = "local"
    COPIED = "copied"
    ARCHIVED = "archived"


class FileStat(NamedTuple):
    """The status of a file: bytes, nanoseconds, and its `stamp`."""

    size: int
    mtime_ns: int
    stamp: int


def stamp(inode: int, ctime_ns: int) -> int:
    """Inode number and change time in one number below 2**64.

    The inode detects a file that was replaced by another of the same name. The change time, which no program can
    set, detects a rewrite with the same size and modification time, and a reused inode.
    """
    return (inode * 0x9E3779B97F4A7C15 ^ ctime_ns) & 0xFFFF_FFFF_FFFF_FFFF


_PLACES = {kind: place for place, kind in enumerate(FileKind)}


class LocalFiles(NamedTuple):
    """The files of a segment on disk; None for an absent one.

    A named tuple, because a scan makes millions of them.
    """

    log: FileStat | None = None
    offset_index: FileStat | None = None
    time_index: FileStat | None = None
    transaction_index: FileStat | None = None
    producer_snapshot: FileStat | None = None

    def get(self, kind: FileKind) -> FileStat | None:
        return self[_PLACES[kind]]

    def with_file(self, kind: FileKind, stat: FileStat | None) -> LocalFiles:
        place = _PLACES[kind]
        return LocalFiles._make((*self[:place], stat, *self[place + 1 :]))

    def items(self) -> Iterator[tuple[FileKind, FileStat]]:
        return ((kind, stat) for kind, stat in zip(FileKind, self, strict=True) if stat is not None)

    @property
    def size(self) -> int:
        return sum(stat.size for stat in self if stat is not None)

    def __bool__(self) -> bool:
        return any(stat is not None for stat in self)


NO_FILES = LocalFiles()


@dataclass(frozen=True, slots=True)
class Archive:
    """The archived copy of a segment, in short; the manifest has the details.

    ``size`` is that of the files, which a restore takes of the disk; ``encoded_size`` is that of the objects, None
    where it is the same. ``proven`` is the status of the local files when they were last verified to equal the
    archived ones: a file that differs from it is never unlinked. ``last_offset`` is that of the last record, and
    ``last_timestamp`` the largest of all records, in milliseconds; -1 if unknown. ``held``: this daemon relies on it;
    else it is that of another replica, which may remove it at any time.
    """

    generation: int
    size: int
    mtime_ns: int
    archived_at: float
    proven: LocalFiles = NO_FILES
    last_offset: int = -1
    encoded_size: int | None = None
    last_timestamp: int = -1
    held: bool = True

    @property
    def stored_size(self) -> int:
        """Bytes in the store."""
        return self.size if self.encoded_size is None else self.encoded_size


@dataclass(frozen=True, slots=True)
class Intent:
    """An object that is about to be written. It identifies what an interrupted upload leaves.

    ``sha256`` and ``part_size`` are as in a manifest; an empty ``sha256`` matches any bytes. ``since`` is seconds
    since the epoch. ``is_earlier``: an earlier release may have written it, which meant to remove superseded
    generations without a manifest of their own. Those are kept.
    """

    key: str
    id: SegmentId
    size: int
    sha256: str
    part_size: int
    since: float
    is_earlier: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. Times are seconds since the epoch; ``lease_until`` is 0 for one never restored.
    ``lease_by`` says who asked for the lease, and by what.

    Three texts describe problems, each empty if there is none. ``damage`` was found in the bytes of the log, and stays
    with these bytes. ``last_failure`` is the last failed attempt; the next success clears it. ``quarantine``: the
    archived object is missing or damaged, and must not be used.
    """

    id: SegmentId
    local: LocalFiles = NO_FILES
    active: bool = False
    settled: bool = True
    archive: Archive | None = None
    lease_until: float = 0.0
    last_access: float = 0.0
    damage: str = ""
    last_failure: str = ""
    quarantine: str = ""
    lease_by: str = ""

    @property
    def in_archive(self) -> bool:
        """Whether the store has a whole copy."""
        return self.archive is not None and not self.quarantine

    @property
    def archive_only(self) -> bool:
        """Whether it is in the archive, and nothing of it is local."""
        return self.in_archive and not self.local

    @property
    def is_others(self) -> bool:
        """Whether nothing of it is local, and only other replicas rely on the archived copy."""
        return self.archive is not None and not self.archive.held and not self.local

    @property
    def is_proven(self) -> bool:
        """Whether every local file is verified to equal the archived one."""
        archive = self.archive
        return archive is not None and all(archive.proven.get(kind) == stat for kind, stat in self.local.items())

    @property
    def state(self) -> State:
        if self.archive is None:
            return State.LOCAL
        if self.local.log is None:
            return State.ARCHIVED
        return State.COPIED if self.is_proven else State.LOCAL

    @property
    def mtime(self) -> float:
        """Last modification of the local log, or else of the archived one."""
        if self.local.log is not None:
            return self.local.log.mtime_ns / 1e9
        return self.archive.mtime_ns / 1e9 if self.archive else 0.0

    @property
    def size(self) -> int:
        """Bytes of the segment, counted once, wherever it is."""
        if self.local.log is not None or self.archive is None:
            return self.local.size
        return self.archive.size

    @property
    def restored(self) -> bool:
        return self.lease_until > 0 and self.local.log is not None

    def lease_left(self, sure: float) -> float:
        """Seconds for which its lease still holds; 0 where it has ended, or there is none.

        ``sure`` is a time that has certainly passed (`Clock.sure_now`): a clock that jumps ahead ends no lease. Nothing
        else compares a lease with a time.
        """
        return max(0.0, self.lease_until - sure) if self.restored else 0.0
