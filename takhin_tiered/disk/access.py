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
    """Within: errors of the file system are raised as errors that name the segment."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SegmentChanged(
            f"the files of segment {identity.path} disappeared while they were in use",
            segment=identity.path,
            hint="If the broker deleted them, there is nothing to do",
        ) from error
    except DuplicatePartition as error:
        raise DiskError(
            f"segment {identity.path} is ambiguous: {error}",
            segment=identity.path,
            hint="Nothing of this partition is moved until only one is left: the one that the broker uses",
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(
                f"the disk became full while segment {identity.path} was written",
                segment=identity.path,
                hint="Make room on the disk. The segment is whole in the archive; no partial file was left on the disk",
            ) from error
        name = os.strerror(error.errno) if error.errno else str(error)
        raise DiskError(
            f"the disk failed on segment {identity.path}: {name} ({error.filename or 'file'})",
            segment=identity.path,
            hint="The segment's files on disk are whole. The next cycle tries again",
        ) from error


def require_in_place(data_dir: DataDirs) -> None:
    """`DiskError` if a data directory is not the one that was opened at the start."""
    for root in data_dir.roots:
        if not root.is_in_place():
            raise DiskError(
                f"storage.data.dir {root.path} is not the directory that was opened at the start: it was moved away, "
                "created again, or mounted over",
                hint="Nothing is moved or removed in either directory. Restart the daemon to use the present one",
            )


@contextmanager
def open_partition(data_dir: DataDirs, identity: SegmentId, *, create: bool = False) -> Iterator[PartitionDir]:
    """The directory of a segment's partition. `DiskError` or `SegmentChanged`."""
    require_in_place(data_dir)
    with disk_errors(identity), data_dir.partition(identity.directory, create=create) as partition:
        yield partition


def is_behind(partition: PartitionDir, identity: SegmentId, active: int) -> bool:
    """Whether the log that was active at the last scan is above this segment and still there."""
    later = SegmentId(identity.topic, identity.partition, active)
    return active > identity.base_offset and partition.exists(later.file(FileKind.LOG))


async def read_local_checksum(data_dir: DataDirs, identity: SegmentId, kind: FileKind, part_size: int) -> str:
    """The SHA-256 of a whole local file."""

    def read() -> str:
        with open_partition(data_dir, identity) as partition, partition.open(identity.file(kind)) as file:
            hasher = Hasher(part_size)
            for piece in file.pieces(file.found.size):
                hasher.update(piece)
            return hasher.checksum().sha256

    return await in_thread(read)
