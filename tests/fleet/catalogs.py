"""Catalogs of many segments, without their files."""

from __future__ import annotations

from typing import Any

from takhin_tiered import TieredStorage
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import open_journal
from takhin_tiered.config import Settings
from takhin_tiered.fleet.entities import Node
from takhin_tiered.fleet.local import node_entity
from takhin_tiered.fleet.migration import Migrated, Migrator
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.service import facts_of
from takhin_tiered.fleet.transforms import name_of
from takhin_tiered.fleet.verification import Deviation, verify
from takhin_tiered.segments.model import Archive, Segment
from takhin_tiered.segments.names import SegmentId

PARTITIONS = 20
_BEGAN = 1_700_000_000


def archived(number: int, *, generation: int = 1) -> Segment:
    """The segment of this number, in the archive only."""
    partition, place = number % PARTITIONS, number // PARTITIONS
    archive = Archive(
        generation=generation,
        size=1_000_000 + number,
        mtime_ns=(_BEGAN + number) * 1_000_000_000,
        archived_at=_BEGAN + 86400.0 + number,
        last_offset=place * 1000 + 999,
        last_timestamp=(_BEGAN + number) * 1000,
    )
    return Segment(SegmentId("orders", partition, place * 1000), archive=archive)


async def fill(settings: Settings, count: int, **more: Any) -> None:
    """Make the catalog of a state directory that was closed in order."""
    async with open_journal(settings.state_dir) as journal:
        assert journal is not None
        catalog = Catalog(journal)
        await catalog.load()
        for number in range(count):
            catalog.put(archived(number, **more))
        await catalog.flush()
        await journal.set_meta("clean", "yes")


async def migrate(settings: Settings, table: Table, *entities: str, holder: str = "", **how: Any) -> Migrated:
    async with TieredStorage.open(settings, read_only=True) as storage:
        migrator = Migrator(table, storage, node_of(storage), holder)
        return await migrator.run(entities or ("Segment", "Node"), **how)


def node_of(storage: TieredStorage) -> Node:
    """What its daemon tells of itself."""
    return node_entity(facts_of(storage.settings, storage.store_address), storage.stats())


async def deviations(settings: Settings, table: Table) -> list[Deviation]:
    async with TieredStorage.open(settings, read_only=True) as storage:
        return [each async for each in verify(table, storage, node_of(storage))]


async def everything(table: Table) -> dict[str, Item]:
    """All items, by their keys."""
    pages = table.database.pages("scan", TableName=table.name, ConsistentRead=True, Limit=500)
    return {name_of(item): item async for page in pages for item in page["Items"]}


def without_epoch(items: dict[str, Item]) -> dict[str, Item]:
    """A migration lets a node's daemon know that something was written."""
    return {name: {**item, "ep": {"S": ""}} if "ep" in item else item for name, item in items.items()}
