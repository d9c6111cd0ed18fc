"""The data directories, by descriptor: no symlink is followed, and no path leads outside.

Everything here blocks, so the engine calls it in threads. An `OSError` is raised unchanged: the engine
knows the segment and adds it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from takhin_tiered import filesystems
from takhin_tiered.segments.model import FileStat, LocalFiles, stamp
from takhin_tiered.segments.names import TEMP_SUFFIX, FileKind, SegmentId

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PIECE = 256 << 10
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def as_file_stat(status: os.stat_result) -> FileStat:
    return FileStat(status.st_size, status.st_mtime_ns, stamp(status.st_ino, status.st_ctime_ns))


def _advise(fd: int, advice: int) -> None:
    """Keep cold segments from evicting the broker's hot data from the page cache. Source: posix_fadvise(2)."""
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, advice)


class OpenFile(NamedTuple):
    """A regular file, open for reading: it stays the same file whatever happens to its name.

    ``found`` is its status when it was opened, ``mode`` its permission bits.
    """

    fd: int
    found: FileStat
    mode: int

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """How many bytes were read: 0 at the end of the file."""
        return os.preadv(self.fd, [buffer], offset)

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The first ``size`` bytes in order, fewer if the file is shorter. The buffer is reused for each piece."""
        if size > _PIECE:
            _advise(self.fd, os.POSIX_FADV_NOREUSE)
        buffer, at = memoryview(bytearray(min(size, _PIECE))), 0
        while at < size and (got := os.preadv(self.fd, [buffer[: size - at]], at)):
            yield buffer[:got]
            at += got


class PartitionDir(NamedTuple):
    """An open partition directory in ``root``; ``elsewhere`` are the other data directories."""

    fd: int
    name: str
    root: DataDir
    elsewhere: tuple[int, ...] = ()

    @property
    def data_fd(self) -> int:
        return self.root.fd

    def stat(self, name: str) -> FileStat | None:
        """The status of a regular file of this name, or None; also None for a symlink."""
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return as_file_stat(status) if stat.S_ISREG(status.st_mode) else None

    def stat_all(self, identity: SegmentId) -> LocalFiles:
        """The status of a segment's files."""
        return LocalFiles(*[self.stat(identity.file(kind)) for kind in FileKind])

    def exists(self, name: str) -> bool:
        """Whether there is an entry of this name, of any type."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def open(self, name: str, *, keep_pages: bool = False) -> Iterator[OpenFile]:
        """Open a file for one pass; closing it drops its pages from the page cache, unless others may read it too."""
        fd = os.open(name, _READ, dir_fd=self.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(f"{self.name}/{name} is not a regular file")
            yield OpenFile(fd, as_file_stat(status), stat.S_IMODE(status.st_mode))
        finally:
            if not keep_pages:
                _advise(fd, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def create_temp(self, name: str, mode: int = 0o600) -> int:
        """Create the temporary file for ``name``, after removing one that an earlier process left."""
        with suppress(FileNotFoundError):
            os.unlink(name + TEMP_SUFFIX, dir_fd=self.fd)
        return os.open(name + TEMP_SUFFIX, _CREATE, mode, dir_fd=self.fd)

    def place_temp(self, name: str, *, replace: bool) -> None:
        """Rename a finished temporary file to ``name``; without ``replace``, never over another file."""
        temp = name + TEMP_SUFFIX
        if replace:
            os.rename(temp, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            return
        filesystems.move_to_free_name(temp, name, source=self.fd, target=self.fd)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self.fd)

    def fsync(self) -> None:
        filesystems.sync_directory(self.fd)

    def is_in_place(self) -> bool:
        """Whether this is still the directory of that name in its data directory, and in no other data directory."""
        if not self.root.is_in_place():
            return False
        there = _stat_of(self.data_fd, self.name)
        if there is None or any(_stat_of(fd, self.name) is not None for fd in self.elsewhere):
            return False
        here = os.fstat(self.fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class DuplicatePartition(OSError):
    """A partition is in two data directories: it is unknown which one the broker uses."""

    def __init__(self, name: str, roots: Iterable[DataDir]) -> None:
        super().__init__(f"it is in several data directories: {' and '.join(str(root.path / name) for root in roots)}")


class DataDir:
    """One data directory of the broker, held open; pass ``fd`` if it is open already."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        # The configured path may be a symlink; nothing below it may.
        self.fd = fd if fd >= 0 else os.open(path.resolve(), _DIRECTORY)
        status = os.fstat(self.fd)
        self.device = status.st_dev
        self.place = (status.st_dev, status.st_ino)

    def is_in_place(self) -> bool:
        """Whether its path still leads to this directory: it may have been moved, or mounted over."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.place

    @property
    def roots(self) -> Sequence[DataDir]:
        """Itself, as for `DataDirs`."""
        return (self,)

    def root_of(self, name: str) -> DataDir | None:
        """Itself, if it has an entry of this name."""
        return self if self.has(name) else None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def partition(self, name: str, *, create: bool = False, elsewhere: tuple[int, ...] = ()) -> Iterator[PartitionDir]:
        """Open a partition; `FileNotFoundError` if there is none, `OSError` if it is a symlink."""
        if create:
            self.make(name)
        fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        try:
            yield PartitionDir(fd, name, self, elsewhere)
        finally:
            os.close(fd)

    def make(self, name: str) -> None:
        """Create the directory of a partition, if there is none."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self.fd)
            with self.partition(name) as partition:
                filesystems.give_to_owner_of(self.fd, partition.fd)
            filesystems.sync_directory(self.fd)

    def has(self, name: str) -> bool:
        """Whether there is an entry of this name, of any type."""
        return _stat_of(self.fd, name) is not None

    def names(self) -> list[str]:
        """All directories in it; `OSError`, with its path, if it cannot be read."""
        try:
            with os.scandir(self.fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            # scandir of a descriptor reports the number instead of the path.
            error.filename = str(self.path)
            raise

    def free_bytes(self) -> int:
        return self.room()[0]

    def room(self) -> tuple[int, int]:
        """Bytes of its file system: free for us, and all."""
        status = os.fstatvfs(self.fd)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


class DataDirs:
    """All data directories of one broker, Kafka's ``log.dirs``. A partition is in one of them.

    A broker may move a partition between them at any time, so it is located again for each operation. ``held`` are
    the bytes that running restores have reserved, by device.
    """

    def __init__(self, roots: Sequence[DataDir]) -> None:
        self.roots = tuple(roots)
        self.held: Counter[int] = Counter()
        self._making = threading.Lock()
        # Where new partitions will be created: room was reserved there.
        self._chosen: dict[str, DataDir] = {}

    @classmethod
    def open(cls, paths: Iterable[Path]) -> DataDirs:
        """`OSError`, with the path, if one cannot be opened."""
        with ExitStack() as stack:
            roots = []
            for path in paths:
                try:
                    roots.append(DataDir(path))
                except OSError as error:
                    error.filename = str(path)
                    raise
                stack.callback(roots[-1].close)
            stack.pop_all()
            return cls(roots)

    def __str__(self) -> str:
        return ", ".join(str(root.path) for root in self.roots)

    def close(self) -> None:
        for root in self.roots:
            root.close()

    def root_of(self, name: str) -> DataDir | None:
        """The data directory that has the partition, or None. Raises `DuplicatePartition`."""
        # Twice: a partition that the broker moves between two checks must not seem to be absent.
        for _ in range(2 if len(self.roots) > 1 else 1):
            found = [root for root in self.roots if root.has(name)]
            if len(found) > 1:
                raise DuplicatePartition(name, found)
            if found:
                return found[0]
        return None

    def root_for(self, name: str) -> DataDir:
        """The data directory that has the partition, or else the one with most free and unreserved space."""
        if (root := self.root_of(name)) is not None:
            return root
        root = max(self.roots, key=lambda each: each.free_bytes() - self.held[each.device])
        self._chosen[name] = root
        return root

    @contextmanager
    def partition(self, name: str, *, create: bool = False) -> Iterator[PartitionDir]:
        """Open a partition where it is, as `DataDir.partition`. Raises `DuplicatePartition` too."""
        if create:
            # One at a time: two callers that create the same partition must not choose different directories.
            with self._making:
                root = self.root_of(name) or self._chosen.get(name) or self.root_for(name)
                root.make(name)
                self._chosen.pop(name, None)
        else:
            root = self.root_of(name) or self.roots[0]
        elsewhere = tuple(other.fd for other in self.roots if other is not root)
        with root.partition(name, elsewhere=elsewhere) as partition:
            yield partition

    def free_bytes(self, name: str | None = None) -> int:
        """Free bytes on the file system of this partition, or of the directory that would get it; without a name on
        all file systems."""
        return sum(self.free_by_device().values()) if name is None else self.root_for(name).free_bytes()

    def free_by_device(self) -> dict[int, int]:
        """Free bytes by file system, which several directories may share."""
        return {root.device: root.free_bytes() for root in self.roots}


def _stat_of(data_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=data_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
