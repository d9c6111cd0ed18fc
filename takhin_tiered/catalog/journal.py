"""The catalog on disk, in SQLite, so that a restart knows every segment at once.

It is a cache of the disk and the bucket. `Journal.was_clean` is False after a crash, or if there was no
database: then the catalog is compared with the bucket before it is used.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import aiosqlite
from pydantic import TypeAdapter

from takhin_tiered.catalog.block import blocks, unpack_blocks
from takhin_tiered.catalog.database_errors import reading, translated
from takhin_tiered.catalog.events import EVENTS, EventRow, events_of, writing
from takhin_tiered.catalog.heat_table import CREATE, rows_of_heat, write_heat
from takhin_tiered.catalog.migration import EARLIER_SINCE, LABELS_SINCE, SCHEMA_VERSION, converter, migrate
from takhin_tiered.concurrency import in_thread
from takhin_tiered.database import Database
from takhin_tiered.errors import CatalogError
from takhin_tiered.filesystems import can_flush
from takhin_tiered.points import reached
from takhin_tiered.segments.events import SegmentEvent
from takhin_tiered.segments.lineage import Lineage
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import Partition, Place, SegmentId

FILE_NAME = "catalog.db"
INCARNATIONS = "incarnations"
"""Key in ``meta``: "unknown" while manifests have yet to be read for incarnations, otherwise "known" or absent."""
_READABLE_VERSION = 2
_ROWS_AT_ONCE = 20_000
_BLOCKS_AT_ONCE = 64
# A partition is rewritten as blocks once this many rows, and a quarter of all its rows, have changed.
_MANY_CHANGES = 64
_GONE = b""
_Work = list[tuple[str, Iterable[tuple[Any, ...]]]]
"""Statements, each with its parameter rows."""
_LINEAGE = TypeAdapter(Lineage)


class Journal:
    """An open database. Made by `open_journal`.

    ``blocks`` has each partition as of its last rewrite. ``segments`` has the rows that changed since, with
    an empty record for a removed segment.
    """

    def __init__(self, database: Database, path: Path, *, was_clean: bool, version: int = SCHEMA_VERSION) -> None:
        self._database = database
        self._path = path
        self._changed: Counter[Place] = Counter()
        self.was_clean = was_clean
        # A read-only journal is not migrated: rows of earlier releases are converted when they are read.
        self._version = version
        self._label = "label" if version >= LABELS_SINCE else "''"

    def reading(self) -> AbstractContextManager[None]:
        """Within: rows that cannot be unpacked are reported as damage of the database."""
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
        """The known incarnations of partitions."""
        if self._version < LABELS_SINCE:
            return {}
        with reading(self._path):
            cursor = await self._database.execute("SELECT topic, partition, incarnations FROM lineages")
            return {(topic, number): _LINEAGE.validate_json(text) async for topic, number, text in cursor}

    async def intents(self) -> list[Intent]:
        with reading(self._path):
            is_earlier = "is_earlier" if self._version >= EARLIER_SINCE else "1"
            fields = f"key, topic, partition, base_offset, {self._label}, size, sha256, part_size, since, {is_earlier}"
            cursor = await self._database.execute(f"SELECT {fields} FROM intents")  # noqa: S608
            rows = await cursor.fetchall()
        return [Intent(row[0], SegmentId(*row[1:5]), row[5], row[6], row[7], row[8], bool(row[9])) for row in rows]

    def should_rewrite(self, place: Place, changed: int, known: int) -> bool:
        """Whether to rewrite a place that has ``known`` segments, ``changed`` of them changed now."""
        return self._changed[place] + changed >= max(_MANY_CHANGES, known // 4)

    async def write(
        self,
        changes: Mapping[Place, Mapping[int, bytes | None]],
        wholes: Mapping[Place, Mapping[int, bytes]],
        intents: Mapping[str, Intent | None],
        lineages: Mapping[Partition, Lineage],
        events: Sequence[EventRow] = (),
    ) -> None:
        """Commit everything in one transaction; None removes a row. A committed change survives a kill."""
        changed = [(*place, base, row or _GONE) for place, rows in changes.items() for base, row in rows.items()]
        packed = ((*place, *block) for place, rows in wholes.items() for block in enumerate(blocks(rows)))
        work: _Work = [
            ("DELETE FROM blocks WHERE topic = ? AND partition = ? AND label = ?", wholes),
            ("DELETE FROM segments WHERE topic = ? AND partition = ? AND label = ?", wholes),
            # A generator: only one block is in memory.
            ("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", packed if wholes else ()),
            ("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)", changed),
            ("DELETE FROM intents WHERE key = ?", [(key,) for key, intent in intents.items() if intent is None]),
            (
                "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_intent_row(intent) for intent in intents.values() if intent is not None],
            ),
            (
                "INSERT OR REPLACE INTO lineages VALUES (?, ?, ?)",
                [(*partition, _LINEAGE.dump_json(lineage).decode()) for partition, lineage in lineages.items()],
            ),
            *writing(events),
        ]
        with translated(self._path):
            await self._database.transact(partial(_commit, work, lambda: reached("catalog.writing")))
        for place in wholes:
            del self._changed[place]
        self._changed.update({place: len(rows) for place, rows in changes.items()})
        reached("catalog.written")

    async def heat(self) -> list[tuple[SegmentId, bytes]]:
        """How segments are read: a packed row for each."""
        with reading(self._path):
            return await rows_of_heat(self._database)

    async def write_heat(self, changes: Mapping[SegmentId, bytes | None], meta: Mapping[str, str]) -> None:
        """Commit changes of these rows, and values of ``meta`` with them; None removes a row."""
        with translated(self._path):
            await self._database.transact(partial(_commit, write_heat(changes, meta.items()), lambda: None))

    async def events(self, place: Partition, base_offset: int) -> list[SegmentEvent]:
        """What is known to have happened to the segment, of whichever incarnation, in order."""
        with reading(self._path):
            return await events_of(self._database, place, base_offset)

    async def get_meta(self, name: str) -> str | None:
        with translated(self._path):
            cursor = await self._database.execute("SELECT value FROM meta WHERE name = ?", (name,))
            row = await cursor.fetchone()
        return str(row[0]) if row else None

    async def metas(self, prefix: str) -> dict[str, str]:
        """Every value whose name starts with the prefix."""
        with translated(self._path):
            query = "SELECT name, value FROM meta WHERE substr(name, 1, ?) = ? ORDER BY 1"
            cursor = await self._database.execute(query, (len(prefix), prefix))
            return {str(name): str(value) for name, value in await cursor.fetchall()}

    async def drop_meta(self, name: str) -> None:
        with translated(self._path):
            work: _Work = [("DELETE FROM meta WHERE name = ?", [(name,)])]
            await self._database.transact(partial(_commit, work, lambda: None))

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
    """Open the database, and create it if needed; read-only, yield None if there is none.

    Raises `CatalogError` if it cannot be read, or was written by a later release.
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
            # A power cut, unlike a kill, may lose the last commits. Then `was_clean` is False, and the bucket is read.
            synchronous = "NORMAL" if await in_thread(can_flush, state_dir) else "OFF"
            await database.executescript(f"PRAGMA synchronous={synchronous}; PRAGMA journal_mode=WAL;")
            with reading(path):
                await database.transact(partial(migrate, version))
                await database.executescript(CREATE)
                await database.executescript(EVENTS)
            journal = Journal(database, path, was_clean=False)
            journal.was_clean = await journal.get_meta("clean") == "yes"
            # Catalogs of earlier releases do not know incarnations: the manifests do.
            if 0 < version < LABELS_SINCE:
                await journal.set_meta(INCARNATIONS, "unknown")
            await journal.set_meta("clean", "no")
        yield journal
    finally:
        with translated(path):
            await database.close()


def _exists(path: Path) -> bool:
    """Unlike `Path.exists`, raises `OSError` if that cannot be determined."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


async def _connect(path: Path, *, read_only: bool) -> Database:
    if not read_only:
        return await _opened(f"{path.as_uri()}?mode=rwc")
    try:
        return await _opened(f"{path.as_uri()}?mode=ro")
    except sqlite3.OperationalError:
        # Even a reader needs to create files beside the database, which this user may not. If no process has the
        # database open it does not change, and can be read as immutable.
        if _exists(path.with_name(path.name + "-wal")):
            raise
        return await _opened(f"{path.as_uri()}?mode=ro&immutable=1")


async def _opened(where: str) -> Database:
    database = Database(partial(sqlite3.connect, where, uri=True), iter_chunk_size=_BLOCKS_AT_ONCE)
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
            f"the catalog database {path} is empty", hint="Start the daemon, or run takhin-tiered rebuild"
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
        # Otherwise the next write would commit a part of this one.
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
        intent.is_earlier,
    )
