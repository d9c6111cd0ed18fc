"""The catalog on disk: SQLite, so that a restart knows every segment at once.

It is a cache of what the disk and the bucket say. `Journal.was_clean` is False after a crash, or where
there was no database: then the catalog is compared with the bucket before it is relied on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import aiosqlite

from takhin_tiered.errors import CatalogError
from takhin_tiered.points import reached
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import SegmentId

FILE_NAME = "catalog.db"
_SCHEMA_VERSION = 1
_ROWS_AT_ONCE = 20_000
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS segments (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, base_offset INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (topic, partition, base_offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intents (
    key TEXT PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, base_offset INTEGER NOT NULL,
    size INTEGER NOT NULL, sha256 TEXT NOT NULL, part_size INTEGER NOT NULL, since REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_SCHEMA_VERSION};
"""
Row = tuple[str, int, int, bytes]


class Journal:
    """An open database. Made by `open_journal`."""

    def __init__(self, database: aiosqlite.Connection, path: Path, *, was_clean: bool) -> None:
        self._database = database
        self._path = path
        self.was_clean = was_clean

    async def rows(self) -> AsyncIterator[Iterable[Row]]:
        """Every segment, many at a time, those of a partition one after the other."""
        with _translated(self._path):
            cursor = await self._database.execute("SELECT topic, partition, base_offset, record FROM segments")
            while batch := await cursor.fetchmany(_ROWS_AT_ONCE):
                yield cast(list[Row], batch)

    async def intents(self) -> list[Intent]:
        with _translated(self._path):
            cursor = await self._database.execute("SELECT * FROM intents")
            rows = await cursor.fetchall()
        return [Intent(row[0], SegmentId(row[1], row[2], row[3]), *row[4:]) for row in rows]

    async def write(
        self, changes: Mapping[SegmentId, bytes | None], intents: Mapping[str, Intent | None] | None = None
    ) -> None:
        """Commit all of these, or none; None removes a row. What is committed outlives a kill."""
        done = [(key,) for key, intent in (intents or {}).items() if intent is None]
        begun = [_intent_row(intent) for intent in (intents or {}).values() if intent is not None]
        gone = [(i.topic, i.partition, i.base_offset) for i, record in changes.items() if record is None]
        kept = [(i.topic, i.partition, i.base_offset, record) for i, record in changes.items() if record is not None]
        with _translated(self._path):
            try:
                if gone:
                    await self._database.executemany(
                        "DELETE FROM segments WHERE topic = ? AND partition = ? AND base_offset = ?", gone
                    )
                if kept:
                    await self._database.executemany("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)", kept)
                if done:
                    await self._database.executemany("DELETE FROM intents WHERE key = ?", done)
                if begun:
                    await self._database.executemany(
                        "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?)", begun
                    )
                reached("catalog.writing")
                await self._database.commit()
            except BaseException:
                # Else the half of it would be committed with the next write.
                await self._database.rollback()
                raise
        reached("catalog.written")

    async def get_meta(self, name: str) -> str | None:
        with _translated(self._path):
            cursor = await self._database.execute("SELECT value FROM meta WHERE name = ?", (name,))
            row = await cursor.fetchone()
        return str(row[0]) if row else None

    async def set_meta(self, name: str, value: str) -> None:
        with _translated(self._path):
            await self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
            await self._database.commit()


@asynccontextmanager
async def open_journal(state_dir: Path, *, read_only: bool = False) -> AsyncIterator[Journal | None]:
    """Open the database, made if need be; read-only, None where there is none.

    Raises `CatalogError` where it cannot be read, or was written by a later release.
    """
    path = state_dir / FILE_NAME
    if read_only and not path.exists():
        yield None
        return
    with _translated(path):
        if not read_only:
            state_dir.mkdir(parents=True, exist_ok=True)
        database = await aiosqlite.connect(f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}", uri=True)
    try:
        with _translated(path):
            await _require_known_version(database, path)
            if read_only:
                yield Journal(database, path, was_clean=True)
                return
            # Of a power cut, unlike of a kill, the last commits may be lost: `was_clean` tells, the bucket knows.
            await database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")
            journal = Journal(database, path, was_clean=False)
            journal.was_clean = await journal.get_meta("clean") == "yes"
            await journal.set_meta("clean", "no")
        yield journal
    finally:
        with _translated(path):
            await database.close()


async def _require_known_version(database: aiosqlite.Connection, path: Path) -> None:
    cursor = await database.execute("PRAGMA user_version")
    row = await cursor.fetchone()
    if row and row[0] > _SCHEMA_VERSION:
        raise CatalogError(f"{path} was written by a later release", hint="Use that release, or a later one")


def _intent_row(intent: Intent) -> tuple[str | int | float, ...]:
    identity = intent.id
    place = (identity.topic, identity.partition, identity.base_offset)
    return (intent.key, *place, intent.size, intent.sha256, intent.part_size, intent.since)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise CatalogError(
            f"the catalog database {path} failed: {error}",
            hint="Segments and archive are not touched by this. If the file is damaged, move it away and start "
            "again: the catalog is rebuilt from the disk and the bucket",
        ) from error
