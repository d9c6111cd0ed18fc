"""Remove objects that no pointer names, and that none can come to name. See `records` for the argument."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from takhin_tiered import logs, machine
from takhin_tiered.aws.dynamodb import DynamoDB
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import TakhinError
from takhin_tiered.hybrid import records
from takhin_tiered.hybrid.keys import Naming, parse_object_key
from takhin_tiered.hybrid.pointers import S3_KEY, is_pointer
from takhin_tiered.hybrid.records import Records
from takhin_tiered.hybrid.schema import Schema
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.points import reached


@dataclass(frozen=True, slots=True)
class Remover:
    """Of one table."""

    db: DynamoDB
    shelf: Shelf
    records: Records
    schema: Schema
    naming: Naming

    async def announce(self, key: Item, object_key: str, *, leased: bool) -> float:
        """See `Records.announce`; returns when that was, by `machine.uptime`. `StoreError`."""
        began = machine.uptime()
        parsed = parse_object_key(object_key)
        base, generation = parsed or (object_key, 1)
        if leased:
            # The lease is the item's, whatever its object is called.
            base = self.naming.base(key)
        await self.records.announce(base, generation, key, object_key, leased=leased)
        reached("hybrid.announced")
        return began

    async def remove(self, key: Item, object_key: str, announced: float) -> bool:
        """Remove an object that was announced; False where it has to stay for now, or is named. `TakhinError`."""
        if await self.records.busy_for():
            return False
        return await self._remove_unnamed(key, object_key, announced)

    async def _remove_unnamed(self, key: Item, object_key: str, announced: float) -> bool:
        """With no run at all after it was announced."""
        if not await self.records.is_same_table(self.schema.arn):
            logs.logger().warning("an object stays: it is of a table of the same name elsewhere", key=object_key)
            return False
        if not self.is_of(key, object_key):
            logs.logger().warning("an object stays: it is not of the item whose pointer named it", key=object_key)
            return False
        if await self.is_named(key, object_key):
            return False
        if machine.uptime() - announced >= records.LEASE_SECONDS / 2:
            # What was announced so long ago may be forgotten: a process that was suspended tries again later.
            return False
        reached("hybrid.object.before.delete")
        await self.shelf.remove([object_key])
        reached("hybrid.object.deleted")
        return True

    def is_of(self, key: Item, object_key: str) -> bool:
        """Whether an object is of this item. Somebody may have copied a pointer under another key, or to another table:
        what it names is the other item's then.
        """
        parsed = parse_object_key(object_key)
        return parsed is not None and parsed[0] == self.naming.base(key)

    async def is_named(self, key: Item, object_key: str) -> bool:
        answer = await self.db.call("get_item", TableName=self.schema.table, Key=key, ConsistentRead=True)
        item: Item = answer.get("Item") or {}
        return is_pointer(item) and item[S3_KEY]["S"] == object_key

    async def try_to_remove(self, key: Item, object_key: str, announced: float) -> None:
        """After a write that stands: what cannot be done now is done by the next sweep."""
        try:
            await self.remove(key, object_key, announced)
        except TakhinError as error:
            logs.logger().warning("an object that no item names stays for now", key=object_key, error=str(error))

    async def settle(self) -> int:
        """Do what was announced and not done, and forget what is long over; returns how many objects were removed."""
        waiting, over = [], []
        for each in await self.records.removals():
            # What no template gives is never removed: it may be no key of the store at all.
            if self.is_of(each.key, each.object_key) and await self.shelf.exists(each.object_key):
                announced = each.announced
                if machine.uptime() - announced >= records.LEASE_SECONDS / 4:
                    # A mark holds only for some time, and has to hold until the object is gone.
                    announced = await self.announce(each.key, each.object_key, leased=False)
                waiting.append((each.key, each.object_key, announced))
            if each.age >= records.LEASE_SECONDS:
                over.append(each.mark)
        removed = 0
        if waiting and await self.wait_until_free():
            for removal in waiting:
                removed += await self._remove_unnamed(*removal)
        await self.records.forget(over)
        return removed

    async def wait_until_free(self) -> bool:
        """Whether no run can come to name an object. What a process that is gone has sent is waited for."""
        left = await self.records.busy_for()
        if 0 < left <= records.SETTLES_IN:
            await asyncio.sleep(left)
            left = await self.records.busy_for()
        return not left
