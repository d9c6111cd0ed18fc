"""One daemon for a data directory: a lock that the kernel drops when its holder dies.

Two locks are taken, as two daemons could be given different state directories: one on the data
directory itself, which needs no file in it, and one on ``lock`` in the state directory, in which the
holder says who it is and where its API listens. Source: flock(2).
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

from takhin_tiered.disk.files import DataDir
from takhin_tiered.errors import HeldElsewhere

LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a data directory; ``api`` is the base address of its API, or empty."""

    pid: int
    host: str
    api: str = ""

    @property
    def words(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", which serves {self.api}" if self.api else "")


class DataDirLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, data_dir: DataDir, state_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = state_dir / LOCK_NAME
        self._fd = -1

    def acquire(self) -> None:
        """Take both locks, or raise `HeldElsewhere` naming the holder."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(fd)
            self._lock_directory()
        except BlockingIOError:
            holder = read_holder(self._path.parent)
            os.close(fd)
            raise HeldElsewhere(
                f"the data directory {self._data_dir.path} is held by {holder.words if holder else 'another daemon'}",
                hint="Stop that daemon first, or talk to it: one daemon for one data directory",
            ) from None
        self._fd = fd
        self.announce("")

    def announce(self, api: str) -> None:
        """Say who holds the lock, and where it listens."""
        data = json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), api))).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            fcntl.flock(self._data_dir.fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def _lock_directory(self) -> None:
        try:
            _lock(self._data_dir.fd)
        except BlockingIOError:
            raise
        except OSError:
            # Some network file systems lock no directories; the lock in the state directory stands.
            return


def _lock(fd: int) -> None:
    """Lock, or raise `BlockingIOError`; `read_holder` in another process may be in the way for an instant."""
    for _ in range(10):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    raise BlockingIOError


def read_holder(state_dir: Path) -> Holder | None:
    """The process that holds the lock now, or None: what a dead one wrote does not count."""
    try:
        fd = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _parse(os.pread(fd, 4096, 0))
    else:
        return None
    finally:
        os.close(fd)


def _parse(data: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return None
