"""The files of one segment, with errors that name it. Everything here blocks, but for `read_local_checksum`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from takhin_tiered.codec.checksums import Hasher
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import DataDirs, DuplicatePartition, PartitionDir
from takhin_tiered.errors import DiskError, DiskFull, SegmentChanged
from takhin_tiered.segments.names import FileKind, SegmentId


@contextmanager
def disk_errors(identity: SegmentId) -> Iterator[None]:
    """What the file system says, as an error that names the segment."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SegmentChanged(
            f"the files of segment {identity.path} vanished while they were worked on",
            segment=identity.path,
            hint="If the broker deleted them, nothing is to be done",
        ) from error
    except DuplicatePartition as error:
        raise DiskError(
            f"segment {identity.path} cannot be worked on, as its partition is not sure: {error}",
            segment=identity.path,
            hint="Nothing is moved until one of them is gone; the broker knows which one it uses",
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(
                f"the disk filled up while segment {identity.path} was worked on",
                segment=identity.path,
                hint="It is whole in the archive, and nothing half done was left on the disk",
            ) from error
        name = os.strerror(error.errno) if error.errno else str(error)
        raise DiskError(
            f"the disk failed on segment {identity.path}: {name} ({error.filename or 'file'})",
            segment=identity.path,
            hint="What still stands there is whole; the next cycle tries again",
        ) from error


def require_in_place(data_dir: DataDirs) -> None:
    """`DiskError` where a data directory is not the one that was opened at the start."""
    for root in data_dir.roots:
        if not root.is_in_place():
            raise DiskError(
                f"storage.data.dir {root.path} is not the directory that it was at the start: it was moved away, "
                "made anew, or mounted over",
                hint="Nothing is moved or removed, in either. Restart the daemon to use the one that is there now",
            )


@contextmanager
def open_partition(data_dir: DataDirs, identity: SegmentId, *, create: bool = False) -> Iterator[PartitionDir]:
    """The directory of a segment's partition. `DiskError` or `SegmentChanged`."""
    require_in_place(data_dir)
    with disk_errors(identity), data_dir.partition(identity.directory, create=create) as partition:
        yield partition


def is_behind(partition: PartitionDir, identity: SegmentId, active: int) -> bool:
    """Whether the log that was active at the last scan is still there, and a later one than this segment's."""
    later = SegmentId(identity.topic, identity.partition, active)
    return active > identity.base_offset and partition.exists(later.file(FileKind.LOG))


async def read_local_checksum(data_dir: DataDirs, identity: SegmentId, kind: FileKind, part_size: int) -> str:
    """The SHA-256 of a local file, which is read to its end."""

    def read() -> str:
        with open_partition(data_dir, identity) as partition, partition.open(identity.file(kind)) as file:
            hasher = Hasher(part_size)
            for piece in file.pieces(file.found.size):
                hasher.update(piece)
            return hasher.checksum().sha256

    return await in_thread(read)
