"""What the catalog's database says when it fails, in words that tell what to do.

A user who may not read it, a full disk, another process, and damage look alike to whoever sees only that the database
failed; but only damage is mended by moving the file away.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from takhin_tiered.errors import CatalogError
from takhin_tiered.users import owner_hint

_PERMISSION = {sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_MISMATCH}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MAY_NOT = {errno.EACCES, errno.EPERM}
# What is too little for the files that the database keeps beside itself while it is open.
_TOO_LITTLE = 64 << 10
# What unpacking of rows raises that were not written by this program.
_NO_ROWS = (struct.error, ValueError, IndexError, KeyError, OverflowError)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Within: what the database, or the disk under it, says comes as `CatalogError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explained(path, error) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The same, where rows are unpacked too."""
    try:
        with translated(path):
            yield
    except _NO_ROWS as error:
        raise _damaged(path, error) from error


def explained(path: Path, error: sqlite3.Error | OSError) -> CatalogError:
    if isinstance(error, OSError):
        number = error.errno or 0
        words = error.strerror or str(error)
        if number in _FULL:
            return _full(path)
        if number in _MAY_NOT:
            return _refused(path, words)
        if number == errno.EROFS:
            return CatalogError(f"the catalog database {path} failed: {words}", hint=f"Mount {path.parent} writable")
        return CatalogError(f"the catalog database {path} failed: {words}", hint="Look at that disk. " + _UNTOUCHED)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} and _is_full(path)):
        return _full(path)
    if code in _PERMISSION:
        return _refused(path, str(error))
    if code in _LOCKED:
        return CatalogError(
            f"the catalog database {path} is locked by another process",
            hint="Nothing is damaged. End that process (fuser names it), or wait for it, and try again",
        )
    if code in _DAMAGED:
        return _damaged(path, error)
    return CatalogError(f"the catalog database {path} failed: {error}", hint="Look at that disk. " + _UNTOUCHED)


_UNTOUCHED = "Segments and archive are not touched by this"


def _refused(path: Path, words: str) -> CatalogError:
    return CatalogError(
        f"the catalog database {path} cannot be opened: {words}", hint=f"{owner_hint(path)}. Nothing is damaged"
    )


def _full(path: Path) -> CatalogError:
    return CatalogError(
        f"the disk of the catalog database {path} is full",
        hint=f"Make room on the disk of {path.parent}, and try again. Nothing is damaged: leave the catalog there",
    )


def _damaged(path: Path, error: Exception) -> CatalogError:
    return CatalogError(
        f"the catalog database {path} is damaged: {error}",
        hint=f"{_UNTOUCHED}. With no daemon running, move {path.name}, {path.name}-wal and {path.name}-shm away, and "
        "run takhin-tiered rebuild: the catalog is made anew from the disk and the bucket",
    )


def _is_full(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _TOO_LITTLE or (found.f_files > 0 and found.f_favail == 0)
