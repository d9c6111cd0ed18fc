"""The catalog's tables, and the migration of earlier ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from takhin_tiered.catalog.block import blocks, unpack_blocks
from takhin_tiered.catalog.record import from_schema_2, from_schema_4

SCHEMA_VERSION = 7
"""7 tells intents of earlier releases apart.

6 has rows with a size of encoded objects, which a release before would misread; rows of 5 are as they were.
"""
LABELS_SINCE, EARLIER_SINCE = 4, 7
_FILES_SINCE, _TEXTS_SINCE = 3, 5
_OLD_TABLES = ("segments", "blocks", "intents")
_TABLES = """
CREATE TABLE IF NOT EXISTS segments (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, label TEXT NOT NULL, base_offset INTEGER NOT NULL,
    record BLOB NOT NULL, PRIMARY KEY (topic, partition, label, base_offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, label TEXT NOT NULL, number INTEGER NOT NULL, rows BLOB NOT NULL,
    PRIMARY KEY (topic, partition, label, number)
);
CREATE TABLE IF NOT EXISTS intents (
    key TEXT PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, label TEXT NOT NULL,
    base_offset INTEGER NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, part_size INTEGER NOT NULL,
    since REAL NOT NULL, is_earlier INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lineages (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, incarnations TEXT NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def migrate(version: int, database: sqlite3.Connection) -> None:
    """Migrate the tables and rows of an earlier release, in one transaction.

    A database of version 1 lacks the table ``blocks``.
    """
    if version == SCHEMA_VERSION:
        return
    try:
        database.execute("BEGIN IMMEDIATE")
        if version >= LABELS_SINCE:
            _convert(version, database)
            database.execute("ALTER TABLE intents ADD COLUMN is_earlier INTEGER NOT NULL DEFAULT 1")
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            database.commit()
            return
        old = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        old &= set(_OLD_TABLES)
        for table in old:
            database.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        for statement in filter(str.strip, _TABLES.split(";")):
            database.execute(statement)
        if old:
            _take_over(version, old, database)
        for table in old:
            database.execute(f"DROP TABLE old_{table}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.commit()
    except BaseException:
        database.rollback()
        raise


def _take_over(version: int, old: set[str], database: sqlite3.Connection) -> None:
    """Fill the new tables from the old ones, which had no labels."""
    into_form = converter(version) or _as_it_is
    if "blocks" in old:
        for *place, packed in database.execute("SELECT topic, partition, number, rows FROM old_blocks").fetchall():
            rows = {offset: into_form(row) for offset, row in unpack_blocks([packed]).items()}
            new = [(place[0], place[1], place[2], block) for block in blocks(rows)]
            database.executemany("INSERT INTO blocks VALUES (?, ?, '', ?, ?)", new)
    if "segments" in old:
        found = database.execute("SELECT topic, partition, base_offset, record FROM old_segments")
        changed = [(*place, into_form(row)) for *place, row in found.fetchall()]
        database.executemany("INSERT INTO segments VALUES (?, ?, '', ?, ?)", changed)
    if "intents" in old:
        database.execute(
            "INSERT INTO intents SELECT key, topic, partition, '', base_offset, size, sha256, part_size, since, 1 "
            "FROM old_intents"
        )


def _convert(version: int, database: sqlite3.Connection) -> None:
    """Convert the rows of an earlier release in place."""
    convert = converter(version) or _as_it_is
    here = "topic = ? AND partition = ? AND label = ?"
    for *place, packed in database.execute("SELECT topic, partition, label, number, rows FROM blocks").fetchall():
        known = unpack_blocks([packed])
        new = {offset: convert(row) for offset, row in known.items()}
        if new != known:
            (whole,) = blocks(new)
            database.execute(f"UPDATE blocks SET rows = ? WHERE {here} AND number = ?", (whole, *place))  # noqa: S608
    found = database.execute("SELECT topic, partition, label, base_offset, record FROM segments").fetchall()
    changed = [(into, *at) for *at, row in found if (into := convert(row)) != row]
    database.executemany(f"UPDATE segments SET record = ? WHERE {here} AND base_offset = ?", changed)  # noqa: S608


def converter(version: int) -> Callable[[bytes], bytes] | None:
    """The function that converts a row of that schema version; None if none is needed."""
    if version < _FILES_SINCE:
        return lambda row: from_schema_4(from_schema_2(row))
    return from_schema_4 if version < _TEXTS_SINCE else None


def _as_it_is(row: bytes) -> bytes:
    return row
