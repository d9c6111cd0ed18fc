"""Operations that some file systems do not support: owners, modes, times, hard links, flushing, locks.

None of them changes a file's content. If one is refused, there is a fallback or a warning, once per file system.
Errors that may mean lost bytes, such as EIO or ENOSPC, are raised unchanged. Everything here blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from takhin_tiered import logs

_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
_REFUSED = _UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.EOVERFLOW}
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EMLINK, errno.EXDEV}
_NO_SYNC_OF_DIRECTORIES = _UNSUPPORTED | {errno.EBADF, errno.EISDIR}
_NO_LOCKS = _UNSUPPORTED | {errno.ENOLCK, errno.EBADF, errno.EPERM}
_RENAME_NOREPLACE = 1
_FLOCK = "hhqqi4x"
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid."""
_EXCLUSIVE_SECONDS = 10.0
_UNNAMED = "unnamed-"

_warned: set[tuple[str, int]] = set()
_process_lock = threading.Lock()


def _warn(fd: int, what: str, error: OSError, hint: str) -> None:
    """Warn once per file system, not once for each of a thousand segments."""
    place = (what, os.fstat(fd).st_dev)
    if place not in _warned:
        _warned.add(place)
        logs.logger().warning(what, path=_path_of(fd), error=error.strerror or str(error), hint=hint)


def _path_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return "unknown"


def sync_file(fd: int) -> bool:
    """Flush a file to the disk; False, with a warning, if its file system does not support that."""
    return _sync(fd, _UNSUPPORTED, "the file system cannot flush files: a power cut may lose the latest writes")


def open_unnamed(directory: Path) -> int:
    """A new file that no name leads to: its bytes are gone once it is closed, or the process has ended."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # EISDIR: a kernel that does not know O_TMPFILE. Source: open(2).
        if error.errno not in _UNSUPPORTED | {errno.EISDIR}:
            raise
    for left in directory.glob(f"{_UNNAMED}*"):
        # A process was killed between the next two steps.
        left.unlink(missing_ok=True)
    fd, name = tempfile.mkstemp(prefix=_UNNAMED, dir=directory)
    Path(name).unlink()
    return fd


def can_flush(directory: Path) -> bool:
    """Whether files in this directory can be flushed to the disk, tried with a temporary file."""
    path = directory / f"flushed.{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return sync_file(fd)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def sync_directory(fd: int) -> None:
    """Flush a directory's entries. Network and FUSE file systems often do not support it."""
    what = "the file system cannot flush directories: a power cut may lose the latest names"
    _sync(fd, _NO_SYNC_OF_DIRECTORIES, what)


def _sync(fd: int, unknown: set[int], what: str) -> bool:
    try:
        os.fsync(fd)
        return True
    except OSError as error:
        if error.errno not in unknown and not (error.errno == errno.EROFS and _takes_changes(fd)):
            raise
        _warn(fd, what, error, "If you need this protection, put the directory on a local file system")
        return False


def _takes_changes(fd: int) -> bool:
    """After EROFS from a flush: whether the file system takes other changes, so that only the flush is unsupported.

    A file system that the kernel made read-only after an error returns EROFS too. It has lost bytes, and refuses every
    change.
    """
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return False
    try:
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))
    except OSError as error:
        return error.errno in _REFUSED
    return True


def set_mode(fd: int, mode: int) -> None:
    _attempt(
        fd, lambda: os.fchmod(fd, mode), "the file system cannot set permissions: restored files get those of the mount"
    )


def set_time(fd: int, mtime_ns: int) -> None:
    what = "the file system cannot set modification times: restored segments count as new, and become cold from now on"
    _attempt(fd, lambda: os.utime(fd, ns=(mtime_ns, mtime_ns)), what)


def _attempt(fd: int, change: Callable[[], None], what: str) -> None:
    try:
        change()
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _warn(fd, what, error, "The content is not affected. Run this as the owner of the data directory")


def give_to_owner_of(directory: int, fd: int) -> None:
    """Give a restored file to the owner of its directory, the broker; or at least to its group."""
    owner, found = os.fstat(directory), os.fstat(fd)
    if (found.st_uid, found.st_gid) == (owner.st_uid, owner.st_gid):
        return
    try:
        os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        with suppress(OSError):
            os.fchown(fd, -1, owner.st_gid)
        what = f"restored files cannot be given to user {owner.st_uid}, who owns the directory: they belong to user "
        hint = "Make sure that the broker can read them, or run this as the broker's user, or with CAP_CHOWN"
        _warn(fd, f"{what}{found.st_uid}", error, hint)


def move_to_free_name(old: str, new: str, *, source: int, target: int) -> None:
    """Move a file from one open directory to another, or within one, and never over another: `FileExistsError`."""
    try:
        os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_to_free_name(old, new, source, target)
        return
    # The file has its new name; the next attempt or cycle removes the old one.
    with suppress(OSError):
        os.unlink(old, dir_fd=source)


def _rename_to_free_name(old: str, new: str, source: int, target: int) -> None:
    try:
        _rename_without_replacing(old, new, source, target)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # Check and rename are not atomic, so a lock excludes other processes. A kill leaves one name or the other.
        with _exclusive(target):
            with suppress(FileNotFoundError):
                os.stat(new, dir_fd=target, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)


def _rename_without_replacing(old: str, new: str, source: int, target: int) -> None:
    """Source: rename(2), renameat2; Python has no function for it."""
    import ctypes  # Rarely needed, and slow to import.

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    ctypes.set_errno(0)
    if renameat2(source, os.fsencode(old), target, os.fsencode(new), ctypes.c_uint(_RENAME_NOREPLACE)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old, None, new)


@contextmanager
def _exclusive(directory: int) -> Iterator[None]:
    """Exclude other users of this directory: in this process, and, if it supports locks, in other processes."""
    with _process_lock:
        deadline, locked = time.monotonic() + _EXCLUSIVE_SECONDS, False
        while not locked:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                what = "the file system has neither hard links nor locks: only one process may write to this directory"
                _warn(directory, what, error, "Make sure that no other machine uses this directory")
                break
        try:
            yield
        finally:
            if locked:
                fcntl.flock(directory, fcntl.LOCK_UN)


class NoLocks(OSError):
    """The file system supports neither kind of lock."""


def lock(fd: int, *, shared: bool = False) -> None:
    """Lock a file until its descriptor is closed. `BlockingIOError` if another process holds it; `NoLocks`.

    Uses flock, or, if that is not supported, an open file description lock, released in the same way: fcntl(2).
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0))
        except OSError as second:
            if second.errno in {errno.EAGAIN, errno.EACCES}:
                raise BlockingIOError(second.errno, second.strerror) from second
            if second.errno not in _NO_LOCKS:
                raise
            raise NoLocks(second.errno, second.strerror) from second


def warn_no_locks(fd: int, error: OSError) -> None:
    what = "the file system has no locks: only a process ID in a file prevents a second daemon here"
    _warn(fd, what, error, "Set storage.tiered.state.dir to a directory on a local file system")
