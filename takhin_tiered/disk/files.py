"""The data directory, by descriptor: no symlink is followed, and no path leads outside it.

Everything here blocks, so the engine calls it in threads. An `OSError` goes up as it is: the engine
knows the segment and says what it means.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from takhin_tiered.segments.model import FileStat, LocalFiles, stamp
from takhin_tiered.segments.names import TEMP_SUFFIX, FileKind, SegmentId

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PIECE = 256 << 10
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def as_file_stat(status: os.stat_result) -> FileStat:
    return FileStat(status.st_size, status.st_mtime_ns, stamp(status.st_ino, status.st_ctime_ns))


def _advise(fd: int, advice: int) -> None:
    """Let a cold segment leave the page cache before what the broker's consumers read. Source: posix_fadvise(2)."""
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, advice)


class OpenFile(NamedTuple):
    """A regular file, open for reading: it stays the same file whatever happens to its name.

    ``found`` is how it stood when it was opened, ``mode`` its permission bits.
    """

    fd: int
    found: FileStat
    mode: int

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The first ``size`` bytes, in order, fewer where the file is shorter. A piece is good until the next one."""
        if size > _PIECE:
            _advise(self.fd, os.POSIX_FADV_NOREUSE)
        buffer, at = memoryview(bytearray(min(size, _PIECE))), 0
        while at < size and (got := os.preadv(self.fd, [buffer[: size - at]], at)):
            yield buffer[:got]
            at += got


class PartitionDir(NamedTuple):
    """An open partition directory."""

    fd: int
    name: str
    data_fd: int

    def stat(self, name: str) -> FileStat | None:
        """How a regular file of this name stands, or None: a symlink is none."""
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return as_file_stat(status) if stat.S_ISREG(status.st_mode) else None

    def stat_all(self, identity: SegmentId) -> LocalFiles:
        """How the files of a segment of this partition stand."""
        return LocalFiles(*[self.stat(identity.file(kind)) for kind in FileKind])

    def exists(self, name: str) -> bool:
        """Whether anything at all has this name."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def open(self, name: str) -> Iterator[OpenFile]:
        """A file to read through; the memory that it took is the broker's again when it is closed."""
        fd = os.open(name, _READ, dir_fd=self.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(f"{self.name}/{name} is not a regular file")
            yield OpenFile(fd, as_file_stat(status), stat.S_IMODE(status.st_mode))
        finally:
            _advise(fd, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def create_temp(self, name: str) -> int:
        """A new file to be renamed to ``name``; one that an earlier process left is taken away first."""
        with suppress(FileNotFoundError):
            os.unlink(name + TEMP_SUFFIX, dir_fd=self.fd)
        return os.open(name + TEMP_SUFFIX, _CREATE, 0o600, dir_fd=self.fd)

    def place_temp(self, name: str, *, replace: bool) -> None:
        """Give a finished temporary file its name; without ``replace``, never over another file."""
        temp = name + TEMP_SUFFIX
        if replace:
            os.rename(temp, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            return
        os.link(temp, name, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        # The file has its name now; its second one is tried again later.
        with suppress(OSError):
            os.unlink(temp, dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self.fd)

    def fsync(self) -> None:
        os.fsync(self.fd)

    def is_in_place(self) -> bool:
        """Whether the data directory still has this directory under its name."""
        try:
            there = os.stat(self.name, dir_fd=self.data_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        here = os.fstat(self.fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class DataDir:
    """The broker's segment directory, held open; ``fd`` where it is open already."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        # The directory that the operator names may be a link; nothing below it may.
        self.fd = fd if fd >= 0 else os.open(path.resolve(), _DIRECTORY)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def partition(self, name: str, *, create: bool = False) -> Iterator[PartitionDir]:
        """Open a partition; `FileNotFoundError` where there is none, `OSError` where it is a symlink."""
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self.fd)
                self._give_to_owner_of_data(name)
                os.fsync(self.fd)
        fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        try:
            yield PartitionDir(fd, name, self.fd)
        finally:
            os.close(fd)

    def free_bytes(self) -> int:
        status = os.fstatvfs(self.fd)
        return status.f_bavail * status.f_frsize

    def _give_to_owner_of_data(self, name: str) -> None:
        if os.geteuid() == 0:
            owner = os.fstat(self.fd)
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=self.fd, follow_symlinks=False)


def give_to_owner_of(partition: PartitionDir, fd: int) -> None:
    """Where this process is root: a restored file belongs to whoever owns its directory, the broker."""
    if os.geteuid() == 0:
        owner = os.fstat(partition.fd)
        os.fchown(fd, owner.st_uid, owner.st_gid)
