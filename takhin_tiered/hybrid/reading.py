"""Make pointers whole again as they are read, in the order of the table, some of them side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from takhin_tiered.aws.dynamodb import DynamoDB
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import ObjectMissing
from takhin_tiered.hybrid import objects
from takhin_tiered.hybrid.cache import ItemCache
from takhin_tiered.hybrid.pointers import ARCHIVED_AT, S3_KEY, is_pointer, is_same_pointer, merged
from takhin_tiered.hybrid.schema import Schema
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.hybrid.typed import is_same

OnMissing = Literal["raise", "pointer", "skip"]
READS_AT_ONCE = 10
_AHEAD = 40
"""Pointers that are made whole before they are asked for."""
_TRIES = 10


class Row(NamedTuple):
    """An item as it is given out. ``is_whole`` is False for a pointer without its object."""

    item: Item
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Hydrator:
    """Of all tables. ``reading`` admits as many reads of the store as may run at a time."""

    db: DynamoDB
    shelf: Shelf
    cache: ItemCache
    reading: asyncio.Semaphore
    on_missing: OnMissing

    async def row(self, item: Item, schema: Schema) -> Row | None:
        """The whole item for a pointer. None where it is gone from the table by now, or is to be skipped."""
        for _ in range(_TRIES):
            if not is_pointer(item):
                return Row(item)
            try:
                return Row(await self.whole(item, schema))
            except ObjectMissing as error:
                # The item may have come back since it was read: its object is removed then.
                now = await self.get(schema.key_of(item), schema)
                if now is None:
                    return None
                if not is_same_pointer(now, item):
                    item = now
                    continue
                if self.on_missing == "raise":
                    raise self.missing(item, schema) from error
                return Row(item, is_whole=False) if self.on_missing == "pointer" else None
        raise self.missing(item, schema)

    async def whole(self, pointer: Item, schema: Schema) -> Item:
        """`ObjectMissing`, `Damaged`, which name the object, and other `StoreError`."""
        key = pointer[S3_KEY]["S"]
        place = (key, pointer[ARCHIVED_AT]["S"])
        plain = self.cache.get(place)
        if plain is None:
            async with self.reading:
                plain = await self.shelf.plain(key)
            self.cache.put(place, plain)
        return self._merged(plain, pointer, schema)

    def cached(self, pointer: Item, schema: Schema) -> Row | None:
        """The whole item without the store, if it was read lately: it takes no task, and no turn of the loop."""
        plain = self.cache.get((pointer[S3_KEY]["S"], pointer[ARCHIVED_AT]["S"]))
        return None if plain is None else Row(self._merged(plain, pointer, schema))

    def _merged(self, plain: bytes, pointer: Item, schema: Schema) -> Item:
        key = pointer[S3_KEY]["S"]
        archived = objects.read_item(plain, key)
        for name in schema.keys:
            if not is_same(archived.get(name), pointer[name]):
                raise objects.damaged(key, f"it holds another item than {schema.described(pointer)}")
        return merged(archived, pointer)

    async def get(self, key: Item, schema: Schema, *, consistent: bool = True) -> Item | None:
        """The item as it stands in the table."""
        answer = await self.db.call("get_item", TableName=schema.table, Key=key, ConsistentRead=consistent)
        found: Item | None = answer.get("Item")
        return found or None

    async def rows(
        self, pages: AsyncIterator[Sequence[Item]], schema: Schema, *, most: int | None
    ) -> AsyncGenerator[Row, None]:
        """Every item of the pages, whole, in order; at most ``most``."""
        window: deque[Row | asyncio.Task[Row | None]] = deque()
        given = 0

        async def first() -> Row | None:
            found = window.popleft()
            return found if isinstance(found, Row) else await found

        try:
            async for page in pages:
                for item in page:
                    there = self.cached(item, schema) if is_pointer(item) else Row(item)
                    window.append(there or asyncio.create_task(self.row(item, schema)))
                    while window and (
                        len(window) >= _AHEAD or isinstance(window[0], Row) or (most and given + len(window) >= most)
                    ):
                        row = await first()
                        if row is not None:
                            yield row
                            given += 1
                            if given == most:
                                return
            while window:
                row = await first()
                if row is not None:
                    yield row
                    given += 1
                    if given == most:
                        return
        finally:
            tasks = [each for each in window if not isinstance(each, Row)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def batch(self, keys: Sequence[Item], schema: Schema, *, consistent: bool = True) -> list[Row | None]:
        """In the order of the keys, which may repeat."""
        wanted = {schema.identity(key): key for key in keys}
        found = await self.db.batch_get(schema.table, list(wanted.values()), consistent=consistent)
        rows = await all_of([self.row(item, schema) for item in found])
        by_key = {schema.identity(item): row for item, row in zip(found, rows, strict=True)}
        return [by_key.get(schema.identity(key)) for key in keys]

    def missing(self, pointer: Item, schema: Schema) -> ObjectMissing:
        """The error that names the object and its item."""
        key = pointer[S3_KEY]["S"]
        return ObjectMissing(
            f"the object {key} of the item {schema.described(pointer)} is not in {self.shelf.address}",
            key=key,
            hint="The pointer is still in the table. Look for an earlier version of the object in the bucket, or check "
            "the bucket and the prefix",
        )


async def pages(
    db: DynamoDB, operation: str, parameters: dict[str, Any], *, ahead: bool = True
) -> AsyncGenerator[Sequence[Item], None]:
    """The items of a query or a scan. ``ahead``: the next page is asked for while one is used."""
    upcoming = asyncio.create_task(db.call(operation, **parameters))
    try:
        while True:
            page = await upcoming
            after = page.get("LastEvaluatedKey")
            following = {**parameters, "ExclusiveStartKey": after}
            if after and ahead:
                upcoming = asyncio.create_task(db.call(operation, **following))
            yield page["Items"]
            if not after:
                return
            if not ahead:
                upcoming = asyncio.create_task(db.call(operation, **following))
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
