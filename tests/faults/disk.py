"""A disk that fails: `os`, as the program's modules see it, with faults below one directory."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BY_PATH = {"open", "unlink", "mkdir"}
_BY_TWO_PATHS = {"rename": "src_dir_fd", "link": "src_dir_fd"}
_BY_FD = {"pread", "preadv", "pwrite", "fsync", "fchmod", "fchown", "utime", "ftruncate"}


@dataclass
class DiskFault:
    """An operation that fails on names with this ending; directories end in the name of the partition.

    The first ``skip`` that match succeed; then ``count`` of them fail, or all where it is None.
    """

    operation: str
    ending: str
    errno: int
    skip: int = 0
    count: int | None = None
    hits: int = 0
    _passed: int = 0

    def strike(self, operation: str, path: str) -> None:
        if operation != self.operation or not path.endswith(self.ending):
            return
        if self.count is not None and self.hits >= self.count:
            return
        if self._passed < self.skip:
            self._passed += 1
            return
        self.hits += 1
        raise OSError(self.errno, os.strerror(self.errno), path)


class FaultyOs:
    """Stands in a module for `os`. Paths and descriptors outside ``root`` never fail."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self.faults: list[DiskFault] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in _BY_PATH | _BY_FD | set(_BY_TWO_PATHS):
            return real

        def call(first: Any, *arguments: Any, **named: Any) -> Any:
            if name in _BY_FD:
                self._meet(name, _path_of(first))
            else:
                directory = named.get(_BY_TWO_PATHS.get(name, "dir_fd"))
                path = str(first) if directory is None else f"{_path_of(directory)}/{first}"
                self._meet(name, path)
            return real(first, *arguments, **named)

        return call

    def _meet(self, operation: str, path: str) -> None:
        if path.startswith(self._root):
            for fault in self.faults:
                fault.strike(operation, path)


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES, "EROFS": errno.EROFS}
