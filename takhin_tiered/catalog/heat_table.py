"""The table of reads, in the catalog's database: a packed row for each segment whose reads are known.

It is no part of the schema's version: an earlier release does without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from takhin_tiered.database import Database
from takhin_tiered.segments.names import SegmentId

CREATE = """
CREATE TABLE IF NOT EXISTS heat (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, label TEXT NOT NULL, base_offset INTEGER NOT NULL,
    record BLOB NOT NULL, PRIMARY KEY (topic, partition, label, base_offset)
) WITHOUT ROWID;
"""


_Statements = list[tuple[str, Iterable[tuple[Any, ...]]]]


async def rows_of_heat(database: Database) -> list[tuple[SegmentId, bytes]]:
    """All rows; none in a database that no process of this release wrote to."""
    cursor = await database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'heat'")
    if await cursor.fetchone() is None:
        return []
    cursor = await database.execute("SELECT topic, partition, base_offset, label, record FROM heat")
    return [(SegmentId(*row[:4]), bytes(row[4])) for row in await cursor.fetchall()]


def write_heat(changes: Mapping[SegmentId, bytes | None], meta: Iterable[tuple[str, str]]) -> _Statements:
    """The statements; None removes a row. ``meta`` are values that go with them."""
    gone = [(*identity.place, identity.base_offset) for identity, row in changes.items() if row is None]
    kept = [(*identity.place, identity.base_offset, row) for identity, row in changes.items() if row is not None]
    return [
        ("DELETE FROM heat WHERE topic = ? AND partition = ? AND label = ? AND base_offset = ?", gone),
        ("INSERT OR REPLACE INTO heat VALUES (?, ?, ?, ?, ?)", kept),
        ("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(meta)),
    ]
