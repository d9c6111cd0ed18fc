"""The data directories, by descriptor: no symlink is followed, and no path leads outside it.

Everything here blocks, so the engine calls it in threads. An `OSError` goes up as it is: the engine
knows the segment and says what it means.
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
    """An open partition directory in ``root``; ``elsewhere`` are the data directories that it does not stand in."""

    fd: int
    name: str
    root: DataDir
    elsewhere: tuple[int, ...] = ()

    @property
    def data_fd(self) -> int:
        return self.root.fd

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

    def create_temp(self, name: str, mode: int = 0o600) -> int:
        """A new file to be renamed to ``name``; one that an earlier process left is taken away first."""
        with suppress(FileNotFoundError):
            os.unlink(name + TEMP_SUFFIX, dir_fd=self.fd)
        return os.open(name + TEMP_SUFFIX, _CREATE, mode, dir_fd=self.fd)

    def place_temp(self, name: str, *, replace: bool) -> None:
        """Give a finished temporary file its name; without ``replace``, never over another file."""
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
        """Whether the data directory still has this directory under its name, and no other one has that name."""
        if not self.root.is_in_place():
            return False
        there = _stat_of(self.data_fd, self.name)
        if there is None or any(_stat_of(fd, self.name) is not None for fd in self.elsewhere):
            return False
        here = os.fstat(self.fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class DuplicatePartition(OSError):
    """A partition's name stands in two data directories: nobody can say which one the broker means."""

    def __init__(self, name: str, roots: Iterable[DataDir]) -> None:
        super().__init__(f"it stands more than once: {' and '.join(str(root.path / name) for root in roots)}")


class DataDir:
    """One segment directory of the broker's, held open; ``fd`` where it is open already."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        # The directory that the operator names may be a link; nothing below it may.
        self.fd = fd if fd >= 0 else os.open(path.resolve(), _DIRECTORY)
        status = os.fstat(self.fd)
        self.device = status.st_dev
        self.place = (status.st_dev, status.st_ino)

    def is_in_place(self) -> bool:
        """Whether its path still leads to this very directory: it may have been moved away, or mounted over."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.place

    @property
    def roots(self) -> Sequence[DataDir]:
        """It alone: what takes several directories takes one as well."""
        return (self,)

    def root_of(self, name: str) -> DataDir | None:
        """Itself, if anything has this name in it."""
        return self if self.has(name) else None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def partition(self, name: str, *, create: bool = False, elsewhere: tuple[int, ...] = ()) -> Iterator[PartitionDir]:
        """Open a partition; `FileNotFoundError` where there is none, `OSError` where it is a symlink."""
        if create:
            self.make(name)
        fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        try:
            yield PartitionDir(fd, name, self, elsewhere)
        finally:
            os.close(fd)

    def make(self, name: str) -> None:
        """Make the directory of a partition, if there is none."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self.fd)
            with self.partition(name) as partition:
                filesystems.give_to_owner_of(self.fd, partition.fd)
            filesystems.sync_directory(self.fd)

    def has(self, name: str) -> bool:
        """Whether anything at all has this name."""
        return _stat_of(self.fd, name) is not None

    def names(self) -> list[str]:
        """The directories in it, whatever they are; `OSError`, which names it, where it cannot be read."""
        try:
            with os.scandir(self.fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            # By its descriptor nobody would know it.
            error.filename = str(self.path)
            raise

    def free_bytes(self) -> int:
        status = os.fstatvfs(self.fd)
        return status.f_bavail * status.f_frsize


class DataDirs:
    """All segment directories of one broker, Kafka's ``log.dirs``. A partition stands in one of them.

    A broker may move a partition from one to another at any time, so where it stands is asked anew each time.
    ``held`` are bytes of each file system, by device, that restores are about to take.
    """

    def __init__(self, roots: Sequence[DataDir]) -> None:
        self.roots = tuple(roots)
        self.held: Counter[int] = Counter()
        self._making = threading.Lock()
        # Where partitions that are not there yet will be made: the room was looked for in that place.
        self._chosen: dict[str, DataDir] = {}

    @classmethod
    def open(cls, paths: Iterable[Path]) -> DataDirs:
        """`OSError`, which names the directory, where one cannot be opened."""
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
        """The directory in which the partition stands, None if it stands nowhere; `DuplicatePartition`."""
        # Twice: what a broker moves between two looks must not seem to be nowhere.
        for _ in range(2 if len(self.roots) > 1 else 1):
            found = [root for root in self.roots if root.has(name)]
            if len(found) > 1:
                raise DuplicatePartition(name, found)
            if found:
                return found[0]
        return None

    def root_for(self, name: str) -> DataDir:
        """Where the partition stands, or else would be made: where most is free, and not held by others."""
        if (root := self.root_of(name)) is not None:
            return root
        root = max(self.roots, key=lambda each: each.free_bytes() - self.held[each.device])
        self._chosen[name] = root
        return root

    @contextmanager
    def partition(self, name: str, *, create: bool = False) -> Iterator[PartitionDir]:
        """Open a partition where it stands; like `DataDir.partition`, and `DuplicatePartition`."""
        if create:
            # One at a time: two that make the same partition must not choose two directories.
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
        """On the file system of this partition's directory, or of the one where it would be made; without a
        name on all of them."""
        return sum(self.free_by_device().values()) if name is None else self.root_for(name).free_bytes()

    def free_by_device(self) -> dict[int, int]:
        """Free bytes of each file system: two directories on one share them."""
        return {root.device: root.free_bytes() for root in self.roots}


def _stat_of(data_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=data_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
