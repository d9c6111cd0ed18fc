"""The catalog on disk: SQLite, so that a restart knows every segment at once.

It is a cache of what the disk and the bucket say. `Journal.was_clean` is False after a crash, or where
there was no database: then the catalog is compared with the bucket before it is relied on.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import aiosqlite

from takhin_tiered.catalog.block import blocks, unpack_blocks
from takhin_tiered.catalog.record import from_schema_2
from takhin_tiered.errors import CatalogError
from takhin_tiered.points import reached
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import Partition, SegmentId

FILE_NAME = "catalog.db"
_SCHEMA_VERSION = 3
_READABLE_VERSION = 2
_ROWS_AT_ONCE = 20_000
_BLOCKS_AT_ONCE = 64
# A partition is written whole when so many of its rows, and a fourth of them, have changed since it was.
_MANY_CHANGES = 64
_GONE = b""
_Work = list[tuple[str, Iterable[tuple[Any, ...]]]]
"""Statements, each with the rows that it is carried out for."""
_TABLES = """
CREATE TABLE IF NOT EXISTS segments (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, base_offset INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (topic, partition, base_offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, number INTEGER NOT NULL, rows BLOB NOT NULL,
    PRIMARY KEY (topic, partition, number)
);
CREATE TABLE IF NOT EXISTS intents (
    key TEXT PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, base_offset INTEGER NOT NULL,
    size INTEGER NOT NULL, sha256 TEXT NOT NULL, part_size INTEGER NOT NULL, since REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class _Database(aiosqlite.Connection):
    async def transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """A whole transaction in one turn of the database's thread, where each statement would take one.

        The library's every call is one `_execute`, the only method that takes more than one statement.
        """
        await self._execute(work, self._conn)  # type: ignore[no-untyped-call]  # the library gives this one no types


class Journal:
    """An open database. Made by `open_journal`.

    A partition stands in `blocks`, as it was when it was last written whole; what changed since stands row
    by row in ``segments``, an empty record for a segment that is gone.
    """

    def __init__(self, database: _Database, path: Path, *, was_clean: bool, version: int = _SCHEMA_VERSION) -> None:
        self._database = database
        self._path = path
        self._changed: Counter[Partition] = Counter()
        self.was_clean = was_clean
        # A reader changes nothing, so it takes an earlier release's rows as they stand.
        self._is_old = version < _SCHEMA_VERSION

    async def partitions(self) -> AsyncIterator[tuple[Partition, dict[int, bytes]]]:
        """Every partition, with the rows of all its segments by base offset."""
        with _translated(self._path):
            changes = await self._changes()
            cursor = await self._database.execute("SELECT topic, partition, rows FROM blocks ORDER BY 1, 2, number")
            partition, rows = None, dict[int, bytes]()
            while batch := await cursor.fetchmany(_BLOCKS_AT_ONCE):
                for found, packed in groupby(batch, key=lambda row: (row[0], row[1])):
                    if partition is not None and found != partition:
                        yield partition, _with_changes(rows, changes.pop(partition, {}))
                        rows = {}
                    partition = found
                    rows |= self._in_form(unpack_blocks(row[2] for row in packed))
            if partition is not None:
                yield partition, _with_changes(rows, changes.pop(partition, {}))
        for partition, changed in changes.items():
            yield partition, _with_changes({}, changed)

    async def intents(self) -> list[Intent]:
        with _translated(self._path):
            cursor = await self._database.execute("SELECT * FROM intents")
            rows = await cursor.fetchall()
        return [Intent(row[0], SegmentId(row[1], row[2], row[3]), *row[4:]) for row in rows]

    def wants_whole(self, partition: Partition, changed: int, known: int) -> bool:
        """Whether a partition of so many segments, of which so many changed, is to be written whole."""
        return self._changed[partition] + changed >= max(_MANY_CHANGES, known // 4)

    async def write(
        self,
        changes: Mapping[Partition, Mapping[int, bytes | None]],
        wholes: Mapping[Partition, Mapping[int, bytes]],
        intents: Mapping[str, Intent | None],
    ) -> None:
        """Commit all of these, or none; None removes a row. What is committed outlives a kill."""
        changed = [(*place, base, row or _GONE) for place, rows in changes.items() for base, row in rows.items()]
        packed = ((*place, *block) for place, rows in wholes.items() for block in enumerate(blocks(rows)))
        work: _Work = [
            ("DELETE FROM blocks WHERE topic = ? AND partition = ?", wholes),
            ("DELETE FROM segments WHERE topic = ? AND partition = ?", wholes),
            # Packed one block at a time.
            ("INSERT INTO blocks VALUES (?, ?, ?, ?)", packed if wholes else ()),
            ("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)", changed),
            ("DELETE FROM intents WHERE key = ?", [(key,) for key, intent in intents.items() if intent is None]),
            (
                "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_intent_row(intent) for intent in intents.values() if intent is not None],
            ),
        ]
        with _translated(self._path):
            await self._database.transact(partial(_commit, work, lambda: reached("catalog.writing")))
        for partition in wholes:
            del self._changed[partition]
        self._changed.update({partition: len(rows) for partition, rows in changes.items()})
        reached("catalog.written")

    async def get_meta(self, name: str) -> str | None:
        with _translated(self._path):
            cursor = await self._database.execute("SELECT value FROM meta WHERE name = ?", (name,))
            row = await cursor.fetchone()
        return str(row[0]) if row else None

    async def set_meta(self, name: str, value: str) -> None:
        with _translated(self._path):
            work: _Work = [("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, value)])]
            await self._database.transact(partial(_commit, work, lambda: None))

    async def _changes(self) -> dict[Partition, dict[int, bytes]]:
        found: dict[Partition, dict[int, bytes]] = {}
        cursor = await self._database.execute("SELECT topic, partition, base_offset, record FROM segments")
        while batch := await cursor.fetchmany(_ROWS_AT_ONCE):
            for topic, number, base_offset, row in batch:
                found.setdefault((topic, number), {})[base_offset] = row
        self._changed = Counter({partition: len(rows) for partition, rows in found.items()})
        return {partition: self._in_form(rows) for partition, rows in found.items()}

    def _in_form(self, rows: dict[int, bytes]) -> dict[int, bytes]:
        return {offset: from_schema_2(row) for offset, row in rows.items()} if self._is_old else rows


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
        where = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"
        database = _Database(partial(sqlite3.connect, where, uri=True), iter_chunk_size=_BLOCKS_AT_ONCE)
        await database
    try:
        with _translated(path):
            version = await _require_known_version(database, path, read_only=read_only)
            if read_only:
                yield Journal(database, path, was_clean=True, version=version)
                return
            # Of a power cut, unlike of a kill, the last commits may be lost: `was_clean` tells, the bucket knows.
            await database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_TABLES}")
            await database.transact(partial(_migrate, version))
            journal = Journal(database, path, was_clean=False)
            journal.was_clean = await journal.get_meta("clean") == "yes"
            await journal.set_meta("clean", "no")
        yield journal
    finally:
        with _translated(path):
            await database.close()


async def _require_known_version(database: aiosqlite.Connection, path: Path, *, read_only: bool) -> int:
    """The version, 0 for a new database."""
    cursor = await database.execute("PRAGMA user_version")
    row = await cursor.fetchone()
    version = row[0] if row else 0
    if version > _SCHEMA_VERSION:
        raise CatalogError(f"{path} was written by a later release", hint="Use that release, or a later one")
    if read_only and version < _READABLE_VERSION:
        raise CatalogError(f"{path} was written by an earlier release", hint="Start the daemon of this release once")
    return int(version)


def _migrate(version: int, database: sqlite3.Connection) -> None:
    """Bring the rows of an earlier release into the present form, all or none.

    A database of version 1 lacks the table of blocks: made empty, it leaves all rows to be changes.
    """
    if version == _SCHEMA_VERSION:
        return
    try:
        if version:
            for rowid, packed in database.execute("SELECT rowid, rows FROM blocks").fetchall():
                rows = {offset: from_schema_2(row) for offset, row in unpack_blocks([packed]).items()}
                database.executemany("UPDATE blocks SET rows = ? WHERE rowid = ?", [(b, rowid) for b in blocks(rows)])
            changed = database.execute("SELECT topic, partition, base_offset, record FROM segments").fetchall()
            database.executemany(
                "UPDATE segments SET record = ? WHERE topic = ? AND partition = ? AND base_offset = ?",
                [(from_schema_2(row), *place) for *place, row in changed],
            )
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        database.commit()
    except BaseException:
        database.rollback()
        raise


def _commit(work: _Work, before: Callable[[], None], database: sqlite3.Connection) -> None:
    try:
        for statement, rows in work:
            if rows:
                database.executemany(statement, rows)
        before()
        database.commit()
    except BaseException:
        # Else the half of it would be committed with the next write.
        database.rollback()
        raise


def _with_changes(rows: dict[int, bytes], changed: Mapping[int, bytes]) -> dict[int, bytes]:
    rows.update(changed)
    for offset, row in changed.items():
        if row == _GONE:
            del rows[offset]
    return rows


def _intent_row(intent: Intent) -> tuple[str | int | float, ...]:
    identity = intent.id
    place = (identity.topic, identity.partition, identity.base_offset)
    return (intent.key, *place, intent.size, intent.sha256, intent.part_size, intent.since)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, struct.error, OSError) as error:
        raise CatalogError(
            f"the catalog database {path} failed: {error}",
            hint="Segments and archive are not touched by this. If the file is damaged, move it away and start "
            "again: the catalog is rebuilt from the disk and the bucket",
        ) from error
