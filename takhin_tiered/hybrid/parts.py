"""What the handles of one table share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from takhin_tiered.aws.dynamodb import DynamoDB
from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.errors import TableRejected
from takhin_tiered.hybrid.keys import Naming
from takhin_tiered.hybrid.reading import Hydrator
from takhin_tiered.hybrid.records import Records
from takhin_tiered.hybrid.removing import Remover
from takhin_tiered.hybrid.schema import ALL, Index, Schema, schema_of
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.hybrid.verifying import Verifier
from takhin_tiered.hybrid.writing import Writer


@dataclass(frozen=True, slots=True)
class Shared:
    """Of all tables."""

    db: DynamoDB
    shelf: Shelf
    hydrator: Hydrator
    reading: asyncio.Semaphore


@dataclass(slots=True)
class Parts:
    """Of one table. What DynamoDB says of it is asked once."""

    settings: HybridTableSettings
    naming: Naming
    shared: Shared
    _schema: Schema | None = None
    _records: Records | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def schema(self, *, fresh: bool = False) -> Schema:
        """`TableError` and `ConfigError`."""
        if self._schema is not None and not fresh:
            return self._schema
        async with self._asking:
            if self._schema is None or fresh:
                answer = await self.shared.db.call("describe_table", TableName=self.settings.name)
                self._schema = schema_of(answer["Table"], self.settings)
            return self._schema

    async def schema_now(self) -> Schema:
        """As the table is now: of an index that was made since, the attributes stay too, and so does that of its TTL,
        as a pointer has to go when its item would have gone.
        """
        schema = await self.schema(fresh=True)
        try:
            answer = await self.shared.db.call("describe_time_to_live", TableName=self.settings.name)
        except TableRejected:
            # A server that knows no such request has no TTL.
            return schema
        attribute = (answer.get("TimeToLiveDescription") or {}).get("AttributeName")
        return replace(schema, kept=schema.kept | {attribute}) if attribute else schema

    async def index_of(self, name: str) -> tuple[Schema, Index]:
        """An index, or the table itself where there is no name. `ValueError` for one that there is not."""
        schema = await self.schema()
        if not name:
            return schema, Index("", schema.partition_key, schema.sort_key, ALL, is_global=False)
        if name not in schema.indexes:
            schema = await self.schema(fresh=True)
        if name not in schema.indexes:
            known = ", ".join(schema.indexes) or "none"
            raise ValueError(f"{schema.table} has no index {name!r}; it has: {known}")
        return schema, schema.indexes[name]

    @property
    def records(self) -> Records:
        if self._records is None:
            self._records = Records(self.shared.shelf, self.settings.name)
        return self._records

    async def remover(self) -> Remover:
        schema = await self.schema()
        return Remover(self.shared.db, self.shared.shelf, self.records, schema, self.naming)

    async def writer(self) -> Writer:
        return Writer(self.shared.db, await self.schema(), self.shared.hydrator, await self.remover())

    async def verifier(self) -> Verifier:
        shared = self.shared
        return Verifier(
            await self.schema(), self.naming, shared.shelf, shared.hydrator, await self.remover(), shared.reading
        )
