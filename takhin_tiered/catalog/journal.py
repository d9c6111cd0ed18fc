"""The catalog on disk: SQLite, so that a restart knows every segment at once.

It is a cache of what the disk and the bucket say. `Journal.was_clean` is False after a crash, or where
there was no database: then the catalog is compared with the bucket before it is relied on.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import aiosqlite
from pydantic import TypeAdapter

from takhin_tiered.catalog.block import blocks, unpack_blocks
from takhin_tiered.catalog.database_errors import reading, translated
from takhin_tiered.catalog.migration import LABELS_SINCE, SCHEMA_VERSION, converter, migrate
from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import CatalogError
from takhin_tiered.filesystems import can_flush
from takhin_tiered.points import reached
from takhin_tiered.segments.lineage import Lineage
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import Partition, Place, SegmentId

FILE_NAME = "catalog.db"
INCARNATIONS = "incarnations"
"""The name, in ``meta``, of whether manifests have yet to be read for them: "unknown", else "known" or nothing."""
_READABLE_VERSION = 2
_ROWS_AT_ONCE = 20_000
_BLOCKS_AT_ONCE = 64
# A partition is written whole when so many of its rows, and a fourth of them, have changed since it was.
_MANY_CHANGES = 64
_GONE = b""
_Work = list[tuple[str, Iterable[tuple[Any, ...]]]]
"""Statements, each with the rows that it is carried out for."""
_LINEAGE = TypeAdapter(Lineage)


class _Database(aiosqlite.Connection):
    async def _connect(self) -> aiosqlite.Connection:
        """To its end, and closed where the caller is cancelled: its thread would answer to a loop that is gone."""
        opening = asyncio.ensure_future(super()._connect())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await self.close()
            raise

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

    def __init__(self, database: _Database, path: Path, *, was_clean: bool, version: int = SCHEMA_VERSION) -> None:
        self._database = database
        self._path = path
        self._changed: Counter[Place] = Counter()
        self.was_clean = was_clean
        # A reader changes nothing, so it takes an earlier release's rows as they stand.
        self._version = version
        self._label = "label" if version >= LABELS_SINCE else "''"

    def reading(self) -> AbstractContextManager[None]:
        """Within: rows that cannot be understood are damage, as what the database itself calls so."""
        return reading(self._path)

    async def places(self) -> AsyncIterator[tuple[Place, dict[int, bytes]]]:
        """Every partition's incarnation, with the rows of all its segments by base offset."""
        with reading(self._path):
            changes = await self._changes()
            query = f"SELECT topic, partition, {self._label}, rows FROM blocks ORDER BY 1, 2, 3, number"  # noqa: S608
            cursor = await self._database.execute(query)
            place, rows = None, dict[int, bytes]()
            while batch := await cursor.fetchmany(_BLOCKS_AT_ONCE):
                for found, packed in groupby(batch, key=lambda row: Place(*row[:3])):
                    if place is not None and found != place:
                        yield place, _with_changes(rows, changes.pop(place, {}))
                        rows = {}
                    place = found
                    rows |= self._in_form(unpack_blocks(row[3] for row in packed))
            if place is not None:
                yield place, _with_changes(rows, changes.pop(place, {}))
        for place, changed in changes.items():
            yield place, _with_changes({}, changed)

    async def lineages(self) -> dict[Partition, Lineage]:
        """What is known of the incarnations of partitions, where it is anything."""
        if self._version < LABELS_SINCE:
            return {}
        with reading(self._path):
            cursor = await self._database.execute("SELECT topic, partition, incarnations FROM lineages")
            return {(topic, number): _LINEAGE.validate_json(text) async for topic, number, text in cursor}

    async def intents(self) -> list[Intent]:
        with reading(self._path):
            fields = f"key, topic, partition, base_offset, {self._label}, size, sha256, part_size, since"
            cursor = await self._database.execute(f"SELECT {fields} FROM intents")  # noqa: S608
            rows = await cursor.fetchall()
        return [Intent(row[0], SegmentId(*row[1:5]), *row[5:]) for row in rows]

    def should_rewrite(self, place: Place, changed: int, known: int) -> bool:
        """Whether a place of so many segments, of which so many changed, is to be written whole."""
        return self._changed[place] + changed >= max(_MANY_CHANGES, known // 4)

    async def write(
        self,
        changes: Mapping[Place, Mapping[int, bytes | None]],
        wholes: Mapping[Place, Mapping[int, bytes]],
        intents: Mapping[str, Intent | None],
        lineages: Mapping[Partition, Lineage],
    ) -> None:
        """Commit all of these, or none; None removes a row. What is committed outlives a kill."""
        changed = [(*place, base, row or _GONE) for place, rows in changes.items() for base, row in rows.items()]
        packed = ((*place, *block) for place, rows in wholes.items() for block in enumerate(blocks(rows)))
        work: _Work = [
            ("DELETE FROM blocks WHERE topic = ? AND partition = ? AND label = ?", wholes),
            ("DELETE FROM segments WHERE topic = ? AND partition = ? AND label = ?", wholes),
            # Packed one block at a time.
            ("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", packed if wholes else ()),
            ("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)", changed),
            ("DELETE FROM intents WHERE key = ?", [(key,) for key, intent in intents.items() if intent is None]),
            (
                "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_intent_row(intent) for intent in intents.values() if intent is not None],
            ),
            (
                "INSERT OR REPLACE INTO lineages VALUES (?, ?, ?)",
                [(*partition, _LINEAGE.dump_json(lineage).decode()) for partition, lineage in lineages.items()],
            ),
        ]
        with translated(self._path):
            await self._database.transact(partial(_commit, work, lambda: reached("catalog.writing")))
        for place in wholes:
            del self._changed[place]
        self._changed.update({place: len(rows) for place, rows in changes.items()})
        reached("catalog.written")

    async def get_meta(self, name: str) -> str | None:
        with translated(self._path):
            cursor = await self._database.execute("SELECT value FROM meta WHERE name = ?", (name,))
            row = await cursor.fetchone()
        return str(row[0]) if row else None

    async def set_meta(self, name: str, value: str) -> None:
        with translated(self._path):
            work: _Work = [("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, value)])]
            await self._database.transact(partial(_commit, work, lambda: None))

    async def _changes(self) -> dict[Place, dict[int, bytes]]:
        found: dict[Place, dict[int, bytes]] = {}
        query = f"SELECT topic, partition, {self._label}, base_offset, record FROM segments"  # noqa: S608
        cursor = await self._database.execute(query)
        while batch := await cursor.fetchmany(_ROWS_AT_ONCE):
            for topic, number, label, base_offset, row in batch:
                found.setdefault(Place(topic, number, label), {})[base_offset] = row
        self._changed = Counter({place: len(rows) for place, rows in found.items()})
        return {place: self._in_form(rows) for place, rows in found.items()}

    def _in_form(self, rows: dict[int, bytes]) -> dict[int, bytes]:
        convert = converter(self._version)
        return {offset: convert(row) for offset, row in rows.items()} if convert else rows


@asynccontextmanager
async def open_journal(state_dir: Path, *, read_only: bool = False) -> AsyncIterator[Journal | None]:
    """Open the database, made if need be; read-only, None where there is none.

    Raises `CatalogError` where it cannot be read, or was written by a later release.
    """
    path = (state_dir / FILE_NAME).absolute()
    with translated(path):
        if not read_only:
            state_dir.mkdir(parents=True, exist_ok=True)
        database = None if read_only and not _exists(path) else await _connect(path, read_only=read_only)
    if database is None:
        yield None
        return
    try:
        with translated(path):
            version = await _require_known_version(database, path, read_only=read_only)
            if read_only:
                yield Journal(database, path, was_clean=True, version=version)
                return
            # Of a power cut, unlike of a kill, the last commits may be lost: `was_clean` tells, the bucket knows.
            synchronous = "NORMAL" if await in_thread(can_flush, state_dir) else "OFF"
            await database.executescript(f"PRAGMA synchronous={synchronous}; PRAGMA journal_mode=WAL;")
            with reading(path):
                await database.transact(partial(migrate, version))
            journal = Journal(database, path, was_clean=False)
            journal.was_clean = await journal.get_meta("clean") == "yes"
            # The catalogs of earlier releases do not tell incarnations apart: manifests do.
            if 0 < version < LABELS_SINCE:
                await journal.set_meta(INCARNATIONS, "unknown")
            await journal.set_meta("clean", "no")
        yield journal
    finally:
        with translated(path):
            await database.close()


def _exists(path: Path) -> bool:
    """Unlike `Path.exists`, raises `OSError` where that cannot be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


async def _connect(path: Path, *, read_only: bool) -> _Database:
    if not read_only:
        return await _opened(f"{path.as_uri()}?mode=rwc")
    try:
        return await _opened(f"{path.as_uri()}?mode=ro")
    except sqlite3.OperationalError:
        # A reader too keeps files beside the database, which not every user may write. Where nobody has it open it
        # stands still, and can be read without.
        if _exists(path.with_name(path.name + "-wal")):
            raise
        return await _opened(f"{path.as_uri()}?mode=ro&immutable=1")


async def _opened(where: str) -> _Database:
    database = _Database(partial(sqlite3.connect, where, uri=True), iter_chunk_size=_BLOCKS_AT_ONCE)
    await database
    try:
        await (await database.execute("PRAGMA user_version")).close()
    except BaseException:
        await database.close()
        raise
    return database


async def _require_known_version(database: aiosqlite.Connection, path: Path, *, read_only: bool) -> int:
    """The version, 0 for a new database."""
    cursor = await database.execute("PRAGMA user_version")
    row = await cursor.fetchone()
    version = row[0] if row else 0
    if version > SCHEMA_VERSION:
        raise CatalogError(f"{path} was written by a later release", hint="Use that release, or a later one")
    if read_only and version == 0:
        raise CatalogError(
            f"{path} is empty: no catalog was written to it yet", hint="Start the daemon, or run takhin-tiered rebuild"
        )
    if read_only and version < _READABLE_VERSION:
        raise CatalogError(f"{path} was written by an earlier release", hint="Start the daemon of this release once")
    return int(version)


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
    return (
        intent.key,
        *identity.place,
        identity.base_offset,
        intent.size,
        intent.sha256,
        intent.part_size,
        intent.since,
    )
