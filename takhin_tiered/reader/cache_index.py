"""The index of the disk cache: which chunks there are, in SQLite. Losing it loses nothing but time."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiosqlite

from takhin_tiered.reader.memory import ChunkName

FILE_NAME = "index.db"
_VERSION = 1
_MOST_PROOFS = 100_000
_TABLES = """
CREATE TABLE IF NOT EXISTS chunks (
    object TEXT, number INTEGER, size INTEGER, crc32c INTEGER, protected INTEGER, used INTEGER,
    PRIMARY KEY (object, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proofs (id INTEGER PRIMARY KEY, object TEXT UNIQUE, checksums BLOB);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """``used`` is higher for a chunk that was used later."""

    name: ChunkName
    size: int
    crc: int
    is_protected: bool
    used: int


class CacheIndex:
    """An open index. Errors are those of `sqlite3`."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    @classmethod
    async def open(cls, directory: Path) -> CacheIndex:
        """A damaged one, or one of another release, is replaced by an empty one."""
        path = directory / FILE_NAME
        try:
            return await cls._open(path)
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in {
                0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH
            }:  # fmt: skip
                raise
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(FILE_NAME + suffix).unlink()
        return await cls._open(path)

    @classmethod
    async def _open(cls, path: Path) -> CacheIndex:
        database = await aiosqlite.connect(path)
        try:
            # After a power cut it may lack the last rows, or be damaged. What it says is checked when it is used.
            await database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
            cursor = await database.execute("PRAGMA user_version")
            row = await cursor.fetchone()
            version = int(row[0]) if row else 0
            if version not in {0, _VERSION}:
                raise sqlite3.DatabaseError(f"version {version} is not known")
            await database.executescript(_TABLES + f"PRAGMA user_version={_VERSION};")
            cursor = await database.execute("PRAGMA quick_check(1)")
            row = await cursor.fetchone()
            if row is None or row[0] != "ok":
                raise sqlite3.DatabaseError("it is damaged")
        except BaseException:
            await database.close()
            raise
        return cls(database)

    async def close(self) -> None:
        await self._database.close()

    async def rows(self) -> list[Row]:
        """Those used longest ago first; what makes no sense is left out."""
        cursor = await self._database.execute(
            "SELECT object, number, size, crc32c, protected, used FROM chunks ORDER BY used"
        )
        found = await cursor.fetchall()
        return [
            Row((row[0], row[1]), row[2], row[3], bool(row[4]), row[5])
            for row in found
            if isinstance(row[0], str) and all(isinstance(value, int) and value >= 0 for value in row[1:])
        ]

    async def write(self, gone: Iterable[ChunkName], rows: Iterable[Row]) -> None:
        """One commit."""
        database = self._database
        try:
            await database.executemany("DELETE FROM chunks WHERE object = ? AND number = ?", list(gone))
            await database.executemany(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?)",
                [(*row.name, row.size, row.crc, row.is_protected, row.used) for row in rows],
            )
            await database.commit()
        except BaseException:
            await database.rollback()
            raise

    async def checksums(self, name: str) -> tuple[int, ...] | None:
        """Those of an object that was proven as a whole."""
        cursor = await self._database.execute("SELECT checksums FROM proofs WHERE object = ?", (name,))
        row = await cursor.fetchone()
        if row is None or not isinstance(row[0], bytes) or len(row[0]) % 4:
            return None
        return tuple(array("I", row[0]))

    async def put_checksums(self, name: str, checksums: tuple[int, ...]) -> None:
        database = self._database
        await database.execute(
            "INSERT OR REPLACE INTO proofs (object, checksums) VALUES (?, ?)", (name, array("I", checksums).tobytes())
        )
        await database.execute("DELETE FROM proofs WHERE id <= (SELECT max(id) FROM proofs) - ?", (_MOST_PROOFS,))
        await database.commit()
