"""What this node last wrote to the table, in a file of its own: the next sync writes only what differs.

The file has two digests for each segment, of its row in the catalog and of its item, so that memory stays flat and a
restart writes nothing again. It may be lost at any time: then the node's part of the table is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from takhin_tiered.database import Database
from takhin_tiered.errors import CatalogError

FILE_NAME = "fleet.db"

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, incarnation TEXT NOT NULL,
    UNIQUE (topic, partition, incarnation)
);
CREATE TABLE IF NOT EXISTS written (
    place INTEGER NOT NULL, base INTEGER NOT NULL, row BLOB NOT NULL, item BLOB NOT NULL, PRIMARY KEY (place, base)
) WITHOUT ROWID;
"""
_ALL_BASES = (-1, 2**63 - 1)
_Work = Callable[[sqlite3.Connection], None]


@dataclass(frozen=True, slots=True)
class Name:
    """A partition's incarnation, as keys in the table have it."""

    topic: str
    partition: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A segment as it was written. An empty ``row``: not by this catalog, or not known."""

    name: Name
    base: int
    row: bytes
    item: bytes


@dataclass(frozen=True, slots=True)
class Digests:
    row: bytes
    item: bytes


class Written:
    """Made by `open_written`."""

    def __init__(self, database: Database, path: Path | None) -> None:
        self._database, self._path = database, path

    async def get(self, name: str) -> str:
        """A note; empty where there is none."""
        found: list[str] = []

        def work(database: sqlite3.Connection) -> None:
            found.extend(row[0] for row in database.execute("SELECT value FROM meta WHERE name = ?", (name,)))

        await self._transact(work)
        return found[0] if found else ""

    async def set(self, name: str, value: str) -> None:
        def work(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

        await self._transact(work)

    async def forget(self) -> None:
        """Forget all segments and notes."""

        def work(database: sqlite3.Connection) -> None:
            for table in ("written", "places", "meta"):
                database.execute(f"DELETE FROM {table}")  # noqa: S608 - one of ours

        await self._transact(work)

    async def note(self, entries: Iterable[Entry], gone: Iterable[tuple[Name, int]] = ()) -> None:
        """Remember what was written, and what was deleted, in one transaction."""
        await self._transact(partial(_note, list(entries), list(gone)))

    async def count(self) -> int:
        found: list[int] = []

        def work(database: sqlite3.Connection) -> None:
            found.extend(row[0] for row in database.execute("SELECT count(*) FROM written"))

        await self._transact(work)
        return found[0]

    async def names(self) -> list[Name]:
        """Every incarnation with a segment that was written."""
        found: list[Name] = []

        def work(database: sqlite3.Connection) -> None:
            query = (
                "SELECT topic, partition, incarnation FROM places "
                "WHERE EXISTS (SELECT 1 FROM written WHERE place = places.id)"
            )
            found.extend(Name(*row) for row in database.execute(query))

        await self._transact(work)
        return found

    async def between(self, name: Name, bases: tuple[int, int] = _ALL_BASES, limit: int = -1) -> dict[int, Digests]:
        """The segments with these base offsets, from the first up to the last; at most ``limit``, if one is given."""
        found: dict[int, Digests] = {}

        def work(database: sqlite3.Connection) -> None:
            query = (
                "SELECT base, row, item FROM written WHERE place = (SELECT id FROM places WHERE topic = ? AND "
                "partition = ? AND incarnation = ?) AND base BETWEEN ? AND ? ORDER BY base LIMIT ?"
            )
            where = (name.topic, name.partition, name.incarnation, *bases, limit)
            found.update({base: Digests(row, item) for base, row, item in database.execute(query, where)})

        await self._transact(work)
        return found

    async def _transact(self, work: _Work) -> None:
        with _translated(self._path):
            await self._database.transact(partial(_commit, work))


@asynccontextmanager
async def open_written(path: Path | None) -> AsyncIterator[Written]:
    """Open or create the file; without a path, one that nobody sees and that ends with this.

    A damaged one, or one of another release, is begun anew. `CatalogError` where that is not possible.
    """
    with _translated(path):
        try:
            database = await _opened(path)
        except sqlite3.DatabaseError as error:
            if path is None or isinstance(error, sqlite3.OperationalError):
                raise
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            database = await _opened(path)
    try:
        yield Written(database, path)
    finally:
        with _translated(path):
            await database.close()


async def _opened(path: Path | None) -> Database:
    database = Database(partial(sqlite3.connect, "" if path is None else str(path)), iter_chunk_size=64)
    await database
    try:
        await database.transact(_prepare)
    except BaseException:
        await database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection) -> None:
    # What a power cut loses is written again.
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version not in {0, _VERSION}:
        database.executescript("DROP TABLE IF EXISTS meta; DROP TABLE IF EXISTS places; DROP TABLE IF EXISTS written;")
    database.executescript(f"{_SCHEMA} PRAGMA user_version={_VERSION};")


def _note(entries: Sequence[Entry], gone: Sequence[tuple[Name, int]], database: sqlite3.Connection) -> None:
    names = {entry.name for entry in entries} | {name for name, _ in gone}
    places = dict(_places(database, names))
    database.executemany(
        "INSERT OR REPLACE INTO written VALUES (?, ?, ?, ?)",
        [(places[entry.name], entry.base, entry.row, entry.item) for entry in entries],
    )
    database.executemany(
        "DELETE FROM written WHERE place = ? AND base = ?", [(places[name], base) for name, base in gone]
    )


def _places(database: sqlite3.Connection, names: Iterable[Name]) -> Iterator[tuple[Name, int]]:
    for name in names:
        row = (name.topic, name.partition, name.incarnation)
        database.execute("INSERT OR IGNORE INTO places (topic, partition, incarnation) VALUES (?, ?, ?)", row)
        query = "SELECT id FROM places WHERE topic = ? AND partition = ? AND incarnation = ?"
        yield name, database.execute(query, row).fetchone()[0]


def _commit(work: _Work, database: sqlite3.Connection) -> None:
    try:
        work(database)
        database.commit()
    except BaseException:
        database.rollback()
        raise


@contextmanager
def _translated(path: Path | None) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise CatalogError(
            f"{path or 'a temporary database'} failed: {error}. It notes what was written to the fleet's table",
            hint="Check that disk. The file can be deleted: then the table is read instead",
        ) from error
