"""One daemon per data directory: a lock that the kernel releases when its holder dies.

There are two locks, because two daemons could have different state directories: one on each data
directory itself, which needs no file in it, and one on ``lock`` in the state directory. In that file
the holder writes who it is and where its API listens. Source: flock(2).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from takhin_tiered import filesystems
from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.errors import HeldElsewhere

LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a data directory; ``api`` is the base address of its API, or empty."""

    pid: int
    host: str
    api: str = ""

    @property
    def description(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", which serves {self.api}" if self.api else "")


class DataDirLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, data_dir: DataDir | DataDirs, state_dir: Path) -> None:
        self._roots = data_dir.roots
        self._path = state_dir / LOCK_NAME
        self._fd = -1

    def acquire(self) -> None:
        """Take all locks, or none and raise `HeldElsewhere`, which names the holder."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        held: DataDir | None = None
        try:
            _lock_or_ask(fd)
            for held in self._roots:
                _lock_directory(held)
        except HeldElsewhere:
            os.close(fd)
            raise
        except BlockingIOError:
            # If only a data directory is locked, the holder uses another state directory, and our file says nothing.
            holder = read_holder(self._path.parent) if held is None else None
            self._unlock_directories()
            os.close(fd)
            where = ", ".join(str(root.path) for root in ([held] if held else self._roots))
            raise HeldElsewhere(
                f"the data directory {where} is held by {holder.description if holder else 'another daemon'}",
                hint="Stop that daemon first, or use it: a data directory can have one daemon only",
            ) from None
        self._fd = fd
        self.announce("")

    def announce(self, api: str) -> None:
        """Write who holds the lock, and where its API listens."""
        data = json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), api))).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            self._unlock_directories()
            os.close(self._fd)
            self._fd = -1

    def _unlock_directories(self) -> None:
        for root in self._roots:
            with suppress(OSError):
                fcntl.flock(root.fd, fcntl.LOCK_UN)


def _lock_directory(root: DataDir) -> None:
    try:
        _lock(root.fd)
    except BlockingIOError:
        raise
    except OSError:
        # Some network file systems cannot lock directories; the lock in the state directory still counts.
        return


def _lock_or_ask(fd: int) -> None:
    """Lock; if the file system has no locks, check whether the process named in the file is alive."""
    try:
        _lock(fd)
    except filesystems.NoLocks as error:
        filesystems.warn_no_locks(fd, error)
        if (holder := _living(fd)) is not None:
            raise HeldElsewhere(
                f"the state directory is held by {holder.description}, by its lock file: "
                "this file system supports no locks",
                hint="Stop that daemon first. If it is gone, empty the file named lock in the state directory",
            ) from error


def _lock(fd: int) -> None:
    """Lock, or raise `BlockingIOError`. Retries, because `read_holder` takes a shared lock for an instant."""
    for _ in range(10):
        with suppress(BlockingIOError):
            filesystems.lock(fd)
            return
        time.sleep(0.02)
    raise BlockingIOError


def read_holder(state_dir: Path) -> Holder | None:
    """The process that holds the lock now, or None; a record of a dead process does not count."""
    try:
        fd = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        filesystems.lock(fd, shared=True)
    except BlockingIOError:
        return _parse(os.pread(fd, 4096, 0))
    except filesystems.NoLocks:
        return _living(fd)
    else:
        return None
    finally:
        os.close(fd)


def _living(fd: int) -> Holder | None:
    """The process named in the file, if it is alive; a process of another machine counts as alive."""
    holder = _parse(os.pread(fd, 4096, 0))
    if holder is None or (holder.host == socket.gethostname() and not Path(f"/proc/{holder.pid}").exists()):
        return None
    return holder if holder.pid != os.getpid() else None


def _parse(data: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return None
