"""Errors of the catalog's database, as `CatalogError` with what to do.

Missing permissions, a full disk, a lock and damage all surface as a database error. Only damage is repaired by moving
the file away, so each case gets its own message.
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
_PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM}
# The database needs room for its -wal and -shm files while it is open.
_MIN_FREE_BYTES = 64 << 10
# What unpacking raises for rows that this program did not write.
_UNREADABLE = (struct.error, ValueError, IndexError, KeyError, OverflowError)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Within: errors of the database or of its disk are raised as `CatalogError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explained(path, error) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The same, for code that also unpacks rows."""
    try:
        with translated(path):
            yield
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def explained(path: Path, error: sqlite3.Error | OSError) -> CatalogError:
    if isinstance(error, OSError):
        number = error.errno or 0
        reason = error.strerror or str(error)
        if number in _FULL:
            return _full(path)
        if number in _PERMISSION_ERRNOS:
            return _refused(path, reason)
        if number == errno.EROFS:
            return CatalogError(f"the catalog database {path} failed: {reason}", hint=f"Mount {path.parent} writable")
        return CatalogError(f"the catalog database {path} failed: {reason}", hint=f"Check that disk. {_UNTOUCHED}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} and _is_full(path)):
        return _full(path)
    if code in _PERMISSION:
        return _refused(path, str(error))
    if code in _LOCKED:
        return CatalogError(
            f"the catalog database {path} is locked by another process",
            hint="Nothing is damaged. Stop that process (fuser names it) or wait for it, then try again",
        )
    if code in _DAMAGED:
        return _damaged(path, error)
    return CatalogError(f"the catalog database {path} failed: {error}", hint=f"Check that disk. {_UNTOUCHED}")


_UNTOUCHED = "Segments and archive are not affected"


def _refused(path: Path, reason: str) -> CatalogError:
    return CatalogError(
        f"the catalog database {path} cannot be opened: {reason}", hint=f"{owner_hint(path)}. Nothing is damaged"
    )


def _full(path: Path) -> CatalogError:
    return CatalogError(
        f"the disk of the catalog database {path} is full",
        hint=f"Make room on the disk of {path.parent}, then try again. Nothing is damaged: keep the catalog",
    )


def _damaged(path: Path, error: Exception) -> CatalogError:
    return CatalogError(
        f"the catalog database {path} is damaged: {error}",
        hint=f"{_UNTOUCHED}. Stop the daemon, move {path.name}, {path.name}-wal and {path.name}-shm away, and "
        "run takhin-tiered rebuild: it builds the catalog again from the disk and the bucket",
    )


def _is_full(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _MIN_FREE_BYTES or (found.f_files > 0 and found.f_favail == 0)
