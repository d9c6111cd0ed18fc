"""`HybridTables`: DynamoDB tables whose old items stand in the store, read and written as if they did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar, overload

import pydantic

from takhin_tiered.aws.dynamodb import DynamoDB, open_dynamodb
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.errors import ConfigError, TakhinError
from takhin_tiered.hybrid.archiving import ArchivalResult, Archiver
from takhin_tiered.hybrid.cache import ItemCache
from takhin_tiered.hybrid.estimate import Estimate, estimate
from takhin_tiered.hybrid.judging import DAY, Judge
from takhin_tiered.hybrid.keys import naming_of, require_apart
from takhin_tiered.hybrid.models import ModelShape, PlainItem, PlainShape, Shape, TypedShape, settings_of
from takhin_tiered.hybrid.parts import Parts, Shared
from takhin_tiered.hybrid.reading import READS_AT_ONCE, Hydrator, OnMissing, pages
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.hybrid.table import HybridTable
from takhin_tiered.hybrid.verifying import Verification
from takhin_tiered.pace import Pace
from takhin_tiered.store import open_store
from takhin_tiered.vault.codecs import Codecs, load_keys

Model = TypeVar("Model", bound=pydantic.BaseModel)
CACHE_BYTES = 64 << 20
_FILE_NAME = 255
_SHARE = 0.5
"""Of a table's provisioned capacity that archiving may use."""


@dataclass(slots=True)
class HybridTables:
    """Made by `HybridTables.open`. ``clock`` tells seconds since the epoch."""

    _settings: Settings
    _shared: Shared
    _clock: Callable[[], float] = time.time
    _parts: dict[str, Parts] = field(default_factory=dict)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        *,
        on_missing: OnMissing = "raise",
        cache_bytes: int = CACHE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> AsyncIterator[HybridTables]:
        """``on_missing``: what a read gives for an item whose object is gone from the store. `ConfigError`."""
        if not settings.has_store:
            raise ConfigError(
                "hybrid tables need a store",
                hint="Set storage.tiered.s3.bucket or storage.tiered.directory.path",
            )
        if on_missing not in {"raise", "pointer", "skip"}:
            raise ValueError(f"on_missing is raise, pointer or skip, not {on_missing!r}")
        codecs = Codecs()
        codecs.apply(settings, await in_thread(load_keys, settings))
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(settings))
            region = settings.fleet_region or settings.s3_region
            db = await stack.enter_async_context(open_dynamodb(region, settings.fleet_endpoint))
            shelf = Shelf(store, codecs)
            reading = asyncio.Semaphore(READS_AT_ONCE)
            hydrator = Hydrator(db, shelf, ItemCache(cache_bytes), reading, on_missing)
            tables = cls(settings, Shared(db, shelf, hydrator, reading), clock)
            for each in settings.hybrid_tables:
                tables._add(each)
            yield tables

    @property
    def db(self) -> DynamoDB:
        return self._shared.db

    @property
    def names(self) -> list[str]:
        """Of the configured tables, and of those that a class was asked for."""
        return list(self._parts)

    @overload
    def table(self, which: type[Model]) -> HybridTable[Model]: ...

    @overload
    def table(self, which: str, *, typed: Literal[False] = False) -> HybridTable[PlainItem]: ...

    @overload
    def table(self, which: str, *, typed: Literal[True]) -> HybridTable[Item]: ...

    def table(self, which: Any, *, typed: bool = False) -> HybridTable[Any]:
        """By a class with `hybrid_table`, or by the name of a configured table: then items are dicts. `ConfigError`.

        ``typed``: their values have DynamoDB's types, ``{"S": "x"}``; else they are plain ones.
        """
        if isinstance(which, str):
            shape: Shape[Any] = TypedShape() if typed else PlainShape()
            return HybridTable(self.parts(which), shape)
        return HybridTable(self._add(settings_of(which)), ModelShape(which))

    def parts(self, name: str) -> Parts:
        """`ConfigError` where there is no such table."""
        if name not in self._parts:
            known = ", ".join(self._parts) or "none"
            raise ConfigError(f"there is no hybrid table {name!r}", hint=f"In storage.tiered.hybrid.tables: {known}")
        return self._parts[name]

    async def archive_old_data(
        self,
        dry_run: bool = False,
        *,
        table: str = "",
        capacity: float | None = None,
        sweep: bool = False,
        progress: Callable[[ArchivalResult], None] = lambda _: None,
    ) -> ArchivalResult:
        """Move what is old enough in all tables, or in one, to the store; a dry run only counts it.

        ``capacity``: units a second, of reads and of writes each; by default half of what is provisioned, and no limit
        for a table on demand. ``sweep``: look for objects that no item names too. A table that fails is in ``errors``.
        """
        total = ArchivalResult(dry_run=dry_run)
        for name in [table] if table else self.names:
            if self.stopping.is_set():
                total.is_complete = False
                break
            parts = self.parts(name)
            archiver: Archiver | None = None
            try:
                archiver = await self._archiver(parts, capacity, partial(_tell, progress, total))
                archiver.named = set() if sweep else None
                await (archiver.look() if dry_run else archiver.run())
                if sweep and not dry_run:
                    await self._sweep(parts, archiver.named)
            except TakhinError as error:
                if table:
                    raise
                total.failed_with(f"{name}: {error}")
                total.is_complete = False
            finally:
                # Of one that failed too: what it moved is moved.
                if archiver is not None:
                    total.add(archiver.result)
        return total

    async def estimate(self, *, table: str = "") -> tuple[ArchivalResult, Estimate]:
        """What an archive of all tables, or of one, would do now, cost and save: by a dry run, which reads them."""
        found = await self.archive_old_data(dry_run=True, table=table)
        scanned = 0
        for name in [table] if table else self.names:
            scanned += (await self.parts(name).schema()).size
        return found, estimate(
            items=found.items_archived,
            size=found.bytes_archived,
            kept=found.bytes_kept,
            sizes=found.sizes,
            scanned=max(scanned, found.bytes_archived),
            now=datetime.fromtimestamp(self._clock(), UTC),
        )

    async def verify(self, *, table: str = "") -> Verification:
        """Compare every pointer with its object, and remove objects that no pointer names."""
        total = Verification()
        for name in [table] if table else self.names:
            parts = self.parts(name)
            schema = await parts.schema()
            await parts.records.require_same_table(schema.arn)
            parameters = {"TableName": schema.table, "ConsistentRead": True}
            async with aclosing(pages(self.db, "scan", parameters)) as all_pages:
                total.add(await (await parts.verifier()).verify(all_pages))
        return total

    async def _sweep(self, parts: Parts, named: set[str] | None) -> None:
        """``named`` None: not the whole table was looked at, so that only what was announced is removed."""
        if named is None:
            await (await parts.remover()).settle()
        else:
            await (await parts.verifier()).sweep(named, Verification())

    async def _archiver(
        self, parts: Parts, capacity: float | None, progress: Callable[[ArchivalResult], None]
    ) -> Archiver:
        schema = await parts.schema_now()
        before = self._clock() - parts.settings.archive_after_days * DAY
        return Archiver(
            self.db,
            self._shared.shelf,
            parts.records,
            schema,
            parts.naming,
            await parts.remover(),
            Judge(schema, parts.settings.timestamp, before),
            Pace(schema.read_units * _SHARE if capacity is None else capacity),
            Pace(schema.write_units * _SHARE if capacity is None else capacity),
            self.stopping,
            progress,
        )

    def _add(self, settings: HybridTableSettings) -> Parts:
        known = self._parts.get(settings.name)
        if known is not None and known.settings == settings:
            return known
        is_directory = self._settings.directory_path is not None
        prefix = "" if is_directory else self._settings.s3_prefix
        naming = naming_of(settings, prefix=prefix, part=_FILE_NAME if is_directory else 0)
        others = [parts.naming for name, parts in self._parts.items() if name != settings.name]
        require_apart([*others, naming])
        made = self._parts[settings.name] = Parts(settings, naming, self._shared)
        return made


def _tell(progress: Callable[[ArchivalResult], None], before: ArchivalResult, now: ArchivalResult) -> None:
    """All tables so far, with the one that is archived now."""
    together = ArchivalResult(dry_run=now.dry_run)
    together.add(before)
    together.add(now)
    progress(together)
