"""A directory as the object store: a second disk, or an NFS mount.

An object is a file under its key. It is written under a temporary name, flushed to the disk, and given
its name only when its checksum is right; a conditional write links it, which the file system refuses
where the name is taken, or renames it in a way that does the same.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from threading import Event

from aiofiles.threadpool import wrap

from takhin_tiered import filesystems
from takhin_tiered.codec.checksums import READ_SIZE, Checksum, Hasher, Source
from takhin_tiered.concurrency import in_bulk_thread, in_thread
from takhin_tiered.cost.usage import Kind
from takhin_tiered.errors import (
    BucketMissing,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreChanged,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from takhin_tiered.store.base import NotSupported, ObjectInfo, StoreTime
from takhin_tiered.store.counting import RequestCounter
from takhin_tiered.store.landing import Seen, unseen, write_sparse
from takhin_tiered.store.unfinished import is_left, new_name
from takhin_tiered.users import owner_hint

_TEMP_DIR = ".takhin-tmp"
_FETCH_SIZE = 256 << 10


class DirectoryStore:
    """``root`` must exist: a mount that is not there must not become a directory on the root disk.

    One ``to_read`` may be mounted read-only.
    """

    def __init__(self, root: Path, *, to_read: bool = False, counter: RequestCounter | None = None) -> None:
        self._counter = counter or RequestCounter()
        self._root = root
        self._known: tuple[int, int] | None = None
        self._needs = os.R_OK | os.X_OK | (0 if to_read else os.W_OK)

    @property
    def address(self) -> str:
        return str(self._root)

    async def check(self) -> None:
        def look() -> None:
            self._require_mount()
            if not os.access(self._root, self._needs):
                verbs = "read and write" if self._needs & os.W_OK else "read"
                raise StoreDenied(f"no permission to {verbs} {self._root}")

        with _translated(""):
            await in_thread(look)

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        """By descriptor, so that it is one directory that is looked at, whatever is mounted meanwhile."""

        def look() -> bytes | None:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                data = _read_at(fd, key)
                if is_known(data):
                    self._known = _place_of(os.fstat(fd))
                return data
            finally:
                os.close(fd)

        with _translated(key):
            try:
                return await in_thread(look)
            except (FileNotFoundError, NotADirectoryError):
                raise self._not_there() from None

    async def now(self) -> StoreTime | None:
        """By a file's time: on a network file system it is the server's. Nobody can say whether it is another clock."""

        def look() -> StoreTime:
            self._require_mount()
            temp = self._temp()
            try:
                temp.touch()
                return StoreTime(temp.stat().st_mtime, is_independent=False)
            finally:
                temp.unlink(missing_ok=True)

        with _translated(""):
            return await in_thread(look)

    async def wants_md5(self) -> bool:
        return False

    async def capabilities(self) -> None:
        return None

    async def put(
        self,
        key: str,
        body: Source,
        *,
        size: int,
        checksum: Checksum,
        if_absent: bool = False,
        storage_class: str = "",  # noqa: ARG002 - there are none
    ) -> ObjectInfo:
        given_up = Event()

        def read(offset: int, length: int) -> bytes:
            if given_up.is_set():
                raise StoreUnavailable("the write was given up", key=key)
            return body(offset, length)

        self._counter.requested(Kind.PUT)
        with _translated(key):
            return await in_bulk_thread(given_up.set, self._put, key, read, size, checksum, if_absent)

    def _put(self, key: str, body: Source, size: int, checksum: Checksum, if_absent: bool) -> ObjectInfo:
        self._require_mount()
        path = self._path(key)
        if if_absent and path.exists():
            raise ObjectExists("there is an object already", key=key)
        temp = self._temp()
        try:
            written = _copy(body, size, temp, checksum.part_size)
            if written.size != size or written.checksum() != checksum:
                raise ObjectCorrupt("the bytes are not those of the checksum", key=key)
            _make_directories(path.parent)
            if if_absent:
                _give_free_name(temp, path)
            else:
                temp.replace(path)
            _fsync_directory(path.parent)
            # Unmounted meanwhile, it went to the mount point.
            self._require_mount()
        except FileExistsError as error:
            raise ObjectExists("there is an object already", key=key) from error
        finally:
            temp.unlink(missing_ok=True)
        return ObjectInfo(key, size, checksum.sha256, time.time())

    async def head(self, key: str) -> ObjectInfo | None:
        def look() -> ObjectInfo | None:
            self._require_mount()
            try:
                status = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return ObjectInfo(key, status.st_size, None, status.st_mtime)

        self._counter.requested(Kind.GET)
        with _translated(key):
            return await in_thread(look)

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        # The stack closes it even where the caller is cancelled while a thread opens it.
        with _translated(key), ExitStack() as stack:
            file = wrap(await in_thread(lambda: stack.enter_context(self._open(key))))
            data = bytes(await file.read(limit))
        self._counter.requested(Kind.GET)
        self._counter.received(len(data))
        return data

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with ExitStack() as stack:
            with _translated(key):
                file = await in_thread(lambda: stack.enter_context(self._open(key)))
            at = start
            self._counter.requested(Kind.GET)
            while end is None or at < end:
                with _translated(key):
                    wanted = READ_SIZE if end is None else min(READ_SIZE, end - at)
                    piece = await in_thread(os.pread, file.fileno(), wanted, at)
                if not piece:
                    return
                at += len(piece)
                self._counter.received(len(piece))
                yield piece

    async def fetch_into(
        self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
    ) -> None:
        given_up, came = Event(), 0

        def work() -> None:
            nonlocal came
            at, buffer = start, memoryview(bytearray(_FETCH_SIZE))
            with _translated(key):
                source = self._open(key)
            with source:
                while not given_up.is_set() and (end is None or at < end):
                    room = buffer if end is None else buffer[: end - at]
                    # Not what happens to the file that is written to.
                    with _translated(key):
                        count = os.preadv(source.fileno(), [room], at)
                    if not count:
                        return
                    came += count
                    seen(room[:count])
                    write_sparse(file, room[:count], at)
                    at += count

        self._counter.requested(Kind.GET)
        try:
            await in_bulk_thread(given_up.set, work)
        finally:
            self._counter.received(came)

    def _open(self, key: str) -> FileIO:
        self._require_mount()
        try:
            return FileIO(self._path(key))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissing("there is no such object", key=key) from error

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        self._counter.requested(Kind.LIST)
        with _translated(""):
            for info in await in_thread(self._list, prefix):
                yield info

    def _list(self, prefix: str) -> Sequence[ObjectInfo]:
        self._require_mount()
        found: list[ObjectInfo] = []
        for folder, folders, names in os.walk(self._root / prefix.rpartition("/")[0]):
            folders[:] = [name for name in folders if name != _TEMP_DIR]
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix):
                    with suppress(FileNotFoundError):
                        status = path.stat()
                        found.append(ObjectInfo(key, status.st_size, None, status.st_mtime))
        return sorted(found, key=lambda info: info.key)

    async def retrieve(self, key: str, *, days: int, tier: str) -> None:  # noqa: ARG002
        raise NotSupported("there are no storage classes here", key=key)

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:  # noqa: ARG002
        raise NotSupported("there are no storage classes here", key=key)

    async def delete(self, keys: Sequence[str]) -> None:
        def remove() -> None:
            self._require_mount()
            for key in keys:
                path = self._path(key)
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                    _fsync_directory(path.parent)

        self._counter.requested(Kind.DELETE, number=len(keys))
        with _translated(""):
            await in_thread(remove)

    async def remove_stale_uploads(
        self,
        older_than: float,
        ours: Callable[[str], bool] = lambda _: True,  # noqa: ARG002 - a name tells the writer, and no key
        begun: Sequence[str] = (),  # noqa: ARG002
    ) -> int:
        def remove() -> int:
            removed = 0
            self._require_mount()
            with suppress(FileNotFoundError):
                for path in list((self._root / _TEMP_DIR).iterdir()):
                    with suppress(FileNotFoundError):
                        if is_left(path.name, time.time() - path.stat().st_mtime, older_than):
                            path.unlink()
                            removed += 1
            return removed

        with _translated(""):
            return await in_thread(remove)

    def _path(self, key: str) -> Path:
        if not key or key.startswith("/") or {"..", ".", "", _TEMP_DIR} & set(key.split("/")):
            raise ObjectMissing(f"{key!r} is not a key of this store")
        return self._root / key

    def _temp(self) -> Path:
        temp = self._root / _TEMP_DIR / new_name()
        # Not its parents: a mount that is gone must not become a directory.
        temp.parent.mkdir(exist_ok=True)
        return temp

    def _require_mount(self) -> None:
        """The directory is there, and is the one that was recognised."""
        try:
            status = self._root.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise self._not_there() from None
        if not stat.S_ISDIR(status.st_mode):
            raise self._not_there()
        if self._known is not None and _place_of(status) != self._known:
            raise StoreChanged(
                f"the store directory {self._root} is another one than it was",
                hint="Is it mounted? Nothing is archived until its ID is found there again, and local files stay",
            )

    def _not_there(self) -> BucketMissing:
        return BucketMissing(
            f"the store directory {self._root} is not there",
            hint="Create it or mount it; nothing is archived until then, and local files stay",
        )


def _copy(body: Source, size: int, temp: Path, part_size: int) -> Hasher:
    hasher = Hasher(part_size)
    with temp.open("xb", buffering=0) as file:
        while hasher.size < size:
            chunk = body(hasher.size, min(READ_SIZE, size - hasher.size))
            if not chunk:
                break
            hasher.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        filesystems.sync_file(file.fileno())
    return hasher


def _place_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _read_at(directory: int, name: str) -> bytes | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    with FileIO(fd) as file:
        return file.read(1 << 20)


def _make_directories(path: Path) -> None:
    """Like ``mkdir -p``, and sure to be there after a power cut."""
    if not path.is_dir():
        _make_directories(path.parent)
        path.mkdir(exist_ok=True)
        _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    with _opened(path) as fd:
        filesystems.sync_directory(fd)


def _give_free_name(temp: Path, path: Path) -> None:
    with _opened(temp.parent) as source, _opened(path.parent) as target:
        filesystems.move_to_free_name(temp.name, path.name, source=source, target=target)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """The file system's errors, as this project's."""
    try:
        yield
    except PermissionError as error:
        where = Path(os.fsdecode(error.filename)) if error.filename else Path()
        raise StoreDenied(f"the store directory refuses: {error}", key=key, hint=owner_hint(where)) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            hint = "Make room there. What is not archived yet stays on disk"
            raise StoreFull(f"the store directory is full: {error}", key=key, hint=hint) from error
        raise StoreUnavailable(f"the store directory failed: {error}", key=key) from error
