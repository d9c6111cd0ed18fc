"""The history of segments in the catalog's database: written in the transaction of the change that it tells of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiosqlite

from takhin_tiered.segments.events import SegmentEvent
from takhin_tiered.segments.names import Partition, SegmentId

# Not of the schema's version: a release that does not know it leaves it alone.
EVENTS = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, base_offset INTEGER NOT NULL,
    label TEXT NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL, verb TEXT NOT NULL,
    correlation TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_segments ON events (topic, partition, base_offset);
"""
MOST = 500_000
"""Events kept, the latest: about 100 MB."""
_SHOWN = 1000


class EventRow(NamedTuple):
    """``at`` is in seconds since the epoch."""

    id: SegmentId
    at: float
    event: str
    detail: str
    verb: str
    correlation: str


def writing(events: Sequence[EventRow]) -> list[tuple[str, Iterable[tuple[Any, ...]]]]:
    """Statements, each with its parameter rows."""
    if not events:
        return []
    rows = [(*each.id.place.partition, each.id.base_offset, each.id.label, *each[1:]) for each in events]
    insert = "INSERT INTO events (topic, partition, base_offset, label, at, event, detail, verb, correlation) "
    return [
        (f"{insert} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows),
        ("DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", [(MOST,)]),
    ]


async def events_of(database: aiosqlite.Connection, partition: Partition, base_offset: int) -> list[SegmentEvent]:
    cursor = await database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'events'")
    if await cursor.fetchone() is None:
        return []
    cursor = await database.execute(
        "SELECT at, event, detail, verb, correlation, label FROM events "
        "WHERE topic = ? AND partition = ? AND base_offset = ? ORDER BY number DESC LIMIT ?",
        (*partition, base_offset, _SHOWN),
    )
    return [SegmentEvent(_iso(at), *others) for at, *others in reversed(list(await cursor.fetchall()))]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
