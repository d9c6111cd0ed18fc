"""The bytes of objects that are to be stored: a local file as it is, or what it was encoded to.

Encoded bytes have to exist before they are sent: the store is told their size and checksum first, and a retry reads
them again. Those of large files are spooled, to a file without a name in the state directory: a kill leaves nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from takhin_tiered import filesystems, work
from takhin_tiered.codec.checksums import Checksum, Hasher
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.disk.files import OpenFile, as_file_stat
from takhin_tiered.errors import DiskError, DiskFull, SegmentChanged, TakhinError
from takhin_tiered.pace import Pace
from takhin_tiered.segments.chunks import Chunks, Encoding
from takhin_tiered.segments.manifest import MAX_PARTS
from takhin_tiered.segments.names import SegmentId

MULTIPART_THRESHOLD = 64 << 20
PART_SIZE = 16 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is to be written. ``data`` is all of a small one; ``file`` has the bytes of any other.

    With an ``encoding`` the file is a `Spool`'s.
    """

    size: int
    checksum: Checksum
    chunks: Chunks
    data: bytes | None
    file: OpenFile | None
    encoding: Encoding | None = None

    @property
    def is_spooled(self) -> bool:
        return self.encoding is not None and self.file is not None


class StoredSource:
    """An object's bytes, as an upload takes them.

    Why they cannot be read is kept, as an HTTP library reports only a broken connection. Encoded bytes are not counted
    as moved: those that they were encoded from are.
    """

    def __init__(self, identity: SegmentId, stored: Stored, pace: Pace) -> None:
        self._identity, self._stored, self._pace = identity, stored, pace
        self.in_memory = stored.data is not None and not pace.rate
        self.problem: TakhinError | None = None
        self.given = 0

    def __call__(self, offset: int, length: int) -> bytes:
        if self.in_memory and self._stored.data is not None:
            return self._stored.data[offset : offset + length]
        try:
            data = self._read(offset, length)
        except TakhinError as error:
            self.problem = error
            raise
        self._pace.spend_here(len(data))
        self.given += len(data)
        if self._stored.encoding is None:
            work.moved(len(data))
        return data

    def _read(self, offset: int, length: int) -> bytes:
        if self._stored.data is not None:
            return self._stored.data[offset : offset + length]
        assert self._stored.file is not None
        with disk_errors(self._identity):
            data = self._stored.file.read(offset, length)
        if length and not data:
            raise self._became_shorter()
        return data

    def fileno(self) -> int:
        """For the kernel, which may send from it by itself; -1 where it would be too fast."""
        return -1 if self._pace.rate or self._stored.data is not None or not self._stored.file else self._stored.file.fd

    def _became_shorter(self) -> TakhinError:
        path = self._identity.path
        if self._stored.encoding is not None:
            return DiskError(f"the encoded bytes of segment {path} were truncated during the upload", segment=path)
        return SegmentChanged(
            f"the files of segment {path} changed while it was uploaded: it became shorter",
            segment=path,
            hint="The local files stay, and nothing was archived; the next cycle tries again",
        )


class Spool:
    """A temporary file without a name. It leaves ``reserve`` bytes of its disk free. Its methods block."""

    def __init__(self, identity: SegmentId, directory: Path, reserve: int) -> None:
        self._identity, self._directory, self._reserve = identity, directory, reserve
        self.size = 0
        with self._errors():
            self._fd = filesystems.open_unnamed(directory)

    @property
    def file(self) -> OpenFile:
        return OpenFile(self._fd, as_file_stat(os.fstat(self._fd)), 0)

    def write(self, data: bytes) -> None:
        with self._errors():
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < len(data) + self._reserve:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view = memoryview(data)
            while view:
                count = os.pwrite(self._fd, view, self.size)
                view, self.size = view[count:], self.size + count

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._identity.path
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFull(
                    f"there is no room in the state directory {self._directory} for the encoded bytes of segment "
                    f"{path}, with {self._reserve} bytes held back by storage.tiered.restore.reserve.mb",
                    segment=path,
                    hint="The local files stay, and nothing of it was archived. Make room on that disk, or set "
                    "storage.tiered.state.dir to a directory on another one",
                ) from error
            raise DiskError(
                f"the encoded bytes of segment {path} cannot be kept in the state directory {self._directory}: "
                f"{error.strerror or error}",
                segment=path,
                hint="The local files stay, and nothing of it was archived. The next cycle tries again",
            ) from error


class StoredHasher:
    """The checksum of bytes whose number is known only at the end; ``most`` is what it may be."""

    def __init__(self, most: int, *, md5: bool) -> None:
        self._whole: Hasher | None = Hasher(0, md5=md5)
        self._parts: Hasher | None = Hasher(part_size_for(most), md5=md5) if part_size_for(most) else None

    def update(self, data: bytes) -> None:
        if self._parts is not None:
            self._parts.update(data)
            if self._parts.size > MULTIPART_THRESHOLD:
                self._whole = None
        if self._whole is not None:
            self._whole.update(data)

    def checksum(self) -> Checksum:
        hasher = self._whole or self._parts
        assert hasher is not None
        return hasher.checksum()


def part_size_for(size: int) -> int:
    """0 for one piece; else bytes in each part, so that there are at most 10,000 of them."""
    if size <= MULTIPART_THRESHOLD:
        return 0
    smallest = -(-size // MAX_PARTS)
    return max(PART_SIZE, -(-smallest // (1 << 20)) << 20)
