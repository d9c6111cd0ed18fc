"""Catalogs of earlier releases: what they know of each segment is still known.

``catalog-e6a5cc4.db.xz`` is what that commit wrote, when one text told damage, a failure, or the cause of a quarantine.
"""

from __future__ import annotations

import lzma
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import FILE_NAME, open_journal
from takhin_tiered.errors import CatalogError
from takhin_tiered.segments.model import Archive, FileStat, Intent, LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId

WRITTEN = Path(__file__).resolve().parents[1] / "data" / "catalog-e6a5cc4.db.xz"
STAT = FileStat(5, 1_700_000_000_000_000_000, 7)
TRIPLE = LocalFiles(STAT, STAT, STAT)
ARCHIVE = Archive(1, 15, STAT.mtime_ns, 1_700_000_100.0, TRIPLE, 9)
CRC = "the batch at byte 61 of the log fails its CRC"
TAIL = "no whole batch stands at byte 90 of 100 of the log"
REFUSED = f"segment orders-0/00000000000000000003.log is damaged: {CRC}. It stays on disk"
GONE = "its manifest is gone from the archive, and it is not on disk"
UNKNOWN = "the archived copy is missing or damaged"


def named(base_offset: int, topic: str = "orders") -> SegmentId:
    return SegmentId(topic, 0, base_offset)


FEW = [
    Segment(named(0), TRIPLE, archive=ARCHIVE, damage=CRC),
    Segment(named(1), archive=ARCHIVE, damage=TAIL, last_access=3.0),
    Segment(named(2), TRIPLE, archive=ARCHIVE, last_failure="the store does not answer", lease_until=5.0),
    Segment(named(3), TRIPLE, last_failure=REFUSED),
    Segment(named(4), archive=ARCHIVE, quarantine=GONE),
    Segment(named(5), archive=ARCHIVE, quarantine=UNKNOWN),
    Segment(named(6), TRIPLE, active=True),
]
MARKED = {
    named(7, "many"): Segment(named(7, "many"), archive=ARCHIVE, damage=CRC),
    named(8, "many"): Segment(named(8, "many"), archive=ARCHIVE, last_failure="failed: Zürich"),
    named(9, "many"): Segment(named(9, "many"), archive=ARCHIVE, quarantine=UNKNOWN),
}
MANY = [MARKED.get(named(n, "many"), Segment(named(n, "many"), archive=ARCHIVE)) for n in range(100)]
INTENT = Intent("orders-0/00000000000000000000.log", named(0), 5, "ab-2", 3, 4.5)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / FILE_NAME).write_bytes(lzma.decompress(WRITTEN.read_bytes()))
    return tmp_path


def version(state: Path) -> int:
    with closing(sqlite3.connect(state / FILE_NAME)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("read_only", [True, False])
async def test_each_text_becomes_the_field_that_it_meant(state: Path, read_only: bool) -> None:
    before = version(state)
    # The second time as this release has written it.
    for _ in range(2):
        async with open_journal(state, read_only=read_only) as journal:
            assert journal is not None
            catalog = Catalog(journal)
            await catalog.load()
            assert list(catalog.segments()) == [*MANY, *FEW]
            assert (catalog.damaged, catalog.quarantined) == (3, 3)
    assert (version(state) == before) is read_only


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_catalog_without_sizes_of_encoded_objects_is_read_as_it_is(tmp_path: Path, read_only: bool) -> None:
    known = [Segment(named(0), TRIPLE, archive=ARCHIVE), Segment(named(1), archive=ARCHIVE, damage=TAIL)]
    async with open_journal(tmp_path) as journal:
        catalog = Catalog(journal)
        for segment in known:
            catalog.put(segment)
        catalog.intend([INTENT])
        await catalog.flush()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.execute("ALTER TABLE intents DROP COLUMN is_earlier")
        database.execute("PRAGMA user_version = 5")
        database.commit()
    async with open_journal(tmp_path, read_only=read_only) as journal:
        catalog = Catalog(journal)
        await catalog.load()
        assert list(catalog.segments()) == known
        # It may mean what this release keeps, also where the same object is intended anew.
        assert catalog.intents() == [replace(INTENT, is_earlier=True)]
        catalog.intend([INTENT])
        assert catalog.intents() == [replace(INTENT, is_earlier=True)]
    assert version(tmp_path) == (5 if read_only else 7)
    if not read_only:
        async with open_journal(tmp_path) as journal:
            catalog = Catalog(journal)
            await catalog.load()
            assert catalog.intents() == [replace(INTENT, is_earlier=True)]


async def test_a_catalog_that_is_damaged_is_told_and_stays_as_it_is(state: Path) -> None:
    with closing(sqlite3.connect(state / FILE_NAME)) as database:
        database.execute("UPDATE blocks SET rows = substr(rows, 1, 100)")
        database.commit()
    before = version(state)
    with pytest.raises(CatalogError, match="damaged"):
        async with open_journal(state):
            raise AssertionError
    assert version(state) == before
