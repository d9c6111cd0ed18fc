"""The file of committed offsets: SQLite, in the state directory. A damaged one is put aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.database import Database
from takhin_tiered.filesystems import can_flush

FILE_NAME = "kafka-offsets.db"
_VERSION = 1
_TABLES = f"""
CREATE TABLE IF NOT EXISTS groups (name TEXT PRIMARY KEY, used REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (
    name TEXT, topic TEXT, partition INTEGER, incarnation TEXT, offset INTEGER, epoch INTEGER, metadata TEXT,
    PRIMARY KEY (name, topic, partition)
) WITHOUT ROWID;
PRAGMA user_version={_VERSION};
"""
USED = "INSERT OR REPLACE INTO groups VALUES (?, ?)"
COMMITTED = "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?, ?, ?, ?)"
FORGOTTEN = ("DELETE FROM offsets WHERE name = ?", "DELETE FROM groups WHERE name = ?")
_GROUP = (str, (int, float))
_OFFSET = (str, str, int, str, int, int, str)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_MISMATCH}

Work = list[tuple[str, list[tuple[Any, ...]]]]
"""Statements, each with its parameter rows, in order."""


class _Unknown(sqlite3.DatabaseError):
    """It holds what this release does not write."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether only another file helps: not where the disk is full, gone, locked or refuses."""
    return isinstance(error, _Unknown) or (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED


class OffsetsDatabase:
    """An open file. Errors are `sqlite3.Error` and `OSError`."""

    def __init__(self, path: Path, database: Database) -> None:
        self._path, self._database = path, database

    @classmethod
    async def open(cls, state_dir: Path) -> OffsetsDatabase:
        """The file, or a new one in place of a damaged one."""
        path = (state_dir / FILE_NAME).absolute()
        state_dir.mkdir(parents=True, exist_ok=True)
        try:
            return await cls._open(path)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            await in_thread(_put_aside, path, error)
            return await cls._open(path)

    @classmethod
    async def _open(cls, path: Path) -> OffsetsDatabase:
        database = Database(partial(sqlite3.connect, path, timeout=5.0), iter_chunk_size=1000)
        await database
        try:
            # A commit that was answered survives a power cut, unless the file system cannot flush at all.
            synchronous = "FULL" if await in_thread(can_flush, path.parent) else "OFF"
            await database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};")
            cursor = await database.execute("PRAGMA user_version")
            row = await cursor.fetchone()
            if row is None or row[0] not in {0, _VERSION}:
                raise _Unknown(f"it is of another release: its version is {row and row[0]}")
            await database.executescript(_TABLES)
            cursor = await database.execute("PRAGMA quick_check(1)")
            row = await cursor.fetchone()
            if row is None or row[0] != "ok":
                raise _Unknown(f"{row and row[0]}")
            found = cls(path, database)
            await found.groups()
            await found.offsets()
        except BaseException:
            await database.close()
            raise
        return found

    async def groups(self) -> list[tuple[str, float]]:
        """With the time when each was used last."""
        return await self._rows("SELECT name, used FROM groups", _GROUP)

    async def offsets(self) -> list[tuple[str, str, int, str, int, int, str]]:
        """Group, topic, partition, incarnation, offset, leader epoch, metadata."""
        return await self._rows(
            "SELECT name, topic, partition, incarnation, offset, epoch, metadata FROM offsets", _OFFSET
        )

    async def write(self, work: Work) -> None:
        """One commit."""
        await self._database.transact(partial(_commit, work))

    async def replace(self, error: sqlite3.Error, work: Work) -> OffsetsDatabase:
        """Put this file aside for its damage, and begin a new one with ``work``."""
        await self.close()
        await in_thread(_put_aside, self._path, error)
        replaced = await self._open(self._path)
        try:
            await replaced.write(work)
        except BaseException:
            await replaced.close()
            raise
        return replaced

    async def close(self) -> None:
        # What was committed is there already.
        with suppress(sqlite3.Error):
            await self._database.close()

    async def _rows(self, query: str, types: tuple[Any, ...]) -> list[Any]:
        try:
            cursor = await self._database.execute(query)
        except sqlite3.OperationalError as error:
            # Its tables are others.
            raise _Unknown(str(error)) if error.sqlite_errorcode == sqlite3.SQLITE_ERROR else error from error
        rows = list(await cursor.fetchall())
        for row in rows:
            if not all(map(isinstance, row, types)):
                raise _Unknown("a row has values of other types")
        return rows


def _commit(work: Iterable[tuple[str, list[tuple[Any, ...]]]], database: sqlite3.Connection) -> None:
    try:
        for statement, rows in work:
            database.executemany(statement, rows)
        database.commit()
    except BaseException:
        # Otherwise the next commit would contain a part of this one.
        database.rollback()
        raise


def _put_aside(path: Path, error: sqlite3.Error) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    logs.logger().error(
        "the committed offsets of consumer groups cannot be read: begin a new file. Records are not affected",
        error=str(error),
        path=str(path),
        put_aside=str(aside),
        hint="consumers whose commits are lost begin by their auto.offset.reset; set offsets with seek() where needed",
    )
