"""Writes to one item, whole or archived. Every write to a table is conditional.

A pointer that is replaced or removed: first its object is announced as one that goes, then the table stops naming it,
then it is removed, if nobody can come to name it; see `records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from takhin_tiered import logs
from takhin_tiered.aws.dynamodb import DynamoDB
from takhin_tiered.aws.outcomes import ConditionFailed, Item
from takhin_tiered.errors import ObjectMissing, StoreError, TableRejected, TableUnavailable
from takhin_tiered.hybrid import pointers
from takhin_tiered.hybrid.pointers import S3_KEY, is_pointer, is_same_pointer
from takhin_tiered.hybrid.reading import Hydrator
from takhin_tiered.hybrid.removing import Remover
from takhin_tiered.hybrid.schema import Schema
from takhin_tiered.points import reached

_TRIES = 50
_ALL_OLD = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


@dataclass(frozen=True, slots=True)
class Writer:
    """Of one table."""

    db: DynamoDB
    schema: Schema
    hydrator: Hydrator
    remover: Remover

    async def put(self, item: Item) -> None:
        """Store an item whole, in place of whatever was there."""
        if reserved := item.keys() & pointers.NAMES:
            raise ValueError(f"the attribute {min(reserved)} is the pointers' own")
        if missing := [name for name in self.schema.keys if name not in item]:
            raise ValueError(f"the item has no attribute {missing[0]!r}, which is of its key in {self.schema.table}")
        key = self.schema.key_of(item)
        put = {"TableName": self.schema.table, "Item": item}
        for _ in range(_TRIES):
            try:
                await self.db.call("put_item", **put, ConditionExpression=pointers.NOT_A_POINTER, **_ALL_OLD)
                return
            except ConditionFailed as error:
                found = error.item or await self.hydrator.get(key, self.schema)
            self._require_not_odd(found)
            if found is None or not is_pointer(found):
                continue
            where = {name: value for name, value in pointers.where(found, self.schema).items() if name != "Key"}
            announced = await self._announce(key, found, leased=True)
            try:
                await self.db.call("put_item", **put | where)
            except ConditionFailed:
                continue
            await self._unpointed(key, found, announced)
            return
        raise self._contended(key)

    async def delete(self, key: Item) -> bool:
        """Remove an item, archived or not; False where there is none."""
        what = {"TableName": self.schema.table, "Key": key}
        condition = pointers.NOT_A_POINTER
        # The answer of an attempt may be lost.
        was_there = False
        for _ in range(_TRIES):
            try:
                answer = await self.db.call(
                    "delete_item", **what, ConditionExpression=condition, ReturnValues="ALL_OLD", **_ALL_OLD
                )
                return was_there or bool(answer.get("Attributes"))
            except ConditionFailed as error:
                found = error.item or await self.hydrator.get(key, self.schema)
            self._require_not_odd(found)
            if found is None or not is_pointer(found):
                continue
            announced = await self._announce(key, found, leased=False)
            try:
                await self.db.call("delete_item", **pointers.where(found, self.schema))
            except ConditionFailed:
                was_there = True
                continue
            await self._unpointed(key, found, announced)
            return True
        raise self._contended(key)

    async def update(self, key: Item, changes: Item, removed: Sequence[str]) -> Item | None:
        """Set and remove attributes; an archived item comes back first. The whole item, or None where there is none."""
        self._require_changes([*changes, *removed])
        parameters = pointers.changing(key, self.schema, changes, removed)
        for _ in range(_TRIES):
            try:
                answer = await self.db.call("update_item", **parameters, ReturnValues="ALL_NEW", **_ALL_OLD)
                found: Item = answer["Attributes"]
                return found
            except ConditionFailed as error:
                current = error.item or await self.hydrator.get(key, self.schema)
            if current is None:
                return None
            self._require_not_odd(current)
            if is_pointer(current):
                await self.unarchive(key)
        raise self._contended(key)

    async def unarchive(self, key: Item) -> bool:
        """Bring an archived item back into the table; False where it is not archived.

        `ObjectMissing`, `Damaged` and other `StoreError`: then it stays a pointer.
        """
        came_back = False
        for _ in range(_TRIES):
            pointer = await self.hydrator.get(key, self.schema)
            if pointer is None or not is_pointer(pointer):
                return came_back
            try:
                whole = await self.hydrator.whole(pointer, self.schema)
            except ObjectMissing as error:
                if not is_same_pointer(await self.hydrator.get(key, self.schema), pointer):
                    continue
                raise self.hydrator.missing(pointer, self.schema) from error
            announced = await self.remover.announce(key, pointer[S3_KEY]["S"], leased=True)
            try:
                for parameters in pointers.restoring(whole, pointer, self.schema):
                    await self.db.call("update_item", **parameters)
            except ConditionFailed:
                # Perhaps by this very update, where its answer was lost and it was sent again.
                came_back = True
                continue
            await self._unpointed(key, pointer, announced)
            return True
        raise self._contended(key)

    async def _announce(self, key: Item, pointer: Item, *, leased: bool) -> float | None:
        """A write that needs nothing of the store is done while that is down too: the object stays until a sweep."""
        try:
            return await self.remover.announce(key, pointer[S3_KEY]["S"], leased=leased)
        except StoreError as error:
            logs.logger().warning("an object stays although its item is replaced", error=str(error))
            return None

    async def _unpointed(self, key: Item, pointer: Item, announced: float | None) -> None:
        reached("hybrid.unpointed")
        self.hydrator.cache.forget((pointer[S3_KEY]["S"], pointer[pointers.ARCHIVED_AT]["S"]))
        if announced is not None:
            await self.remover.try_to_remove(key, pointer[S3_KEY]["S"], announced)

    def _require_changes(self, names: Sequence[str]) -> None:
        """What DynamoDB would refuse is refused before the item comes back for it. `ValueError`."""
        if reserved := {*names} & pointers.NAMES:
            raise ValueError(f"the attribute {min(reserved)} is the pointers' own")
        if fixed := {*names} & {*self.schema.keys}:
            raise ValueError(f"the attribute {min(fixed)} is of the item's key, and cannot change")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the attribute {twice[0]!r} is to be changed twice")
        if not names:
            raise ValueError("there is nothing to be changed")

    def _require_not_odd(self, item: Item | None) -> None:
        """Such an item is as no write of ours leaves it, and no condition gets past it, however often it is tried."""
        if item is not None and pointers.is_odd(item):
            raise TableRejected(
                f"the item {self.schema.described(item)} has both attributes of a pointer, {S3_KEY} and "
                f"{pointers.ARCHIVED_AT}, and is none: they are not both texts",
                table=self.schema.table,
                hint="Nothing was written. Another program set them: remove or rename one of the two",
            )

    def _contended(self, key: Item) -> TableUnavailable:
        return TableUnavailable(
            f"the item {self.schema.described(key)} changed each time that it was about to be written",
            table=self.schema.table,
            hint="Nothing was written. Try again",
        )
