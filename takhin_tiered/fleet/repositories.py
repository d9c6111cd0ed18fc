"""Entities of one kind in the table: created, read, listed page by page, written and deleted in batches.

A condition that does not hold is a result, not an error.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from takhin_tiered.aws.dynamodb import DynamoDB
from takhin_tiered.aws.outcomes import ConditionFailed, Item
from takhin_tiered.errors import TableRejected
from takhin_tiered.fleet.contract import load_contract
from takhin_tiered.fleet.transforms import from_item, key_of, table_key, to_item
from takhin_tiered.fleet.ulid import new_ulid

Entity = TypeVar("Entity")

PAGE = 500
"""Items in an answer. A server would send a megabyte of them, and some take longer for that than a client waits."""


@dataclass(frozen=True, slots=True)
class Created:
    """This call created the item."""


@dataclass(frozen=True, slots=True)
class AlreadyThere(Generic[Entity]):
    """Somebody else had created it."""

    existing: Entity


@dataclass(frozen=True, slots=True)
class Page(Generic[Entity]):
    """``cursor`` leads to the next page; None at the end."""

    entities: tuple[Entity, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """The fleet's table, on a server."""

    database: DynamoDB
    name: str

    async def get(self, key: Item) -> Item | None:
        answer = await self.database.call("get_item", TableName=self.name, Key=key, ConsistentRead=True)
        return answer.get("Item")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is listed: a partition of the table or of an index, and how its sort keys begin."""

    partition: str
    begins_with: str = ""
    index: str = ""


class Repository(Generic[Entity]):
    def __init__(self, table: Table, kind: type[Entity]) -> None:
        self._table, self._kind = table, kind

    async def create(self, entity: Entity) -> Created | AlreadyThere[Entity]:
        """Create an item, never twice. An answer may be lost once the server has done the write: what stands there
        then has the mark of this call.
        """
        spec = load_contract().table
        mark = new_ulid()
        item = {**to_item(entity), spec.write_attribute: {"S": mark}}
        try:
            await self._table.database.call(
                "put_item",
                TableName=self._table.name,
                Item=item,
                ConditionExpression="attribute_not_exists(#key)",
                ExpressionAttributeNames={"#key": spec.partition_key},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailed as failed:
            # Not every server tells what stands there. It may also be gone by now: then it is created.
            found = failed.item or await self._table.get(table_key(item))
            if found is None:
                return await self.create(entity)
            if found.get(spec.write_attribute) == {"S": mark}:
                return Created()
            return AlreadyThere(from_item(self._kind, found))
        return Created()

    async def get(self, **fields: Any) -> Entity | None:
        """By the fields that its key is made of."""
        found = await self._table.get(key_of(self._kind, fields))
        return None if found is None else from_item(self._kind, found)

    async def put_all(self, entities: Iterable[Entity]) -> int:
        """Write entities over whatever stands there; returns how many. No two may have the same key."""
        return await self.write(map(to_item, entities))

    async def write(self, puts: Iterable[Item] = (), deletes: Iterable[Item] = ()) -> int:
        count = 0
        for some in _in_batches(puts, 25):
            await self._table.database.batch_write(self._table.name, puts=some)
            count += len(some)
        for some in _in_batches(deletes, 25):
            await self._table.database.batch_write(self._table.name, deletes=some)
            count += len(some)
        return count

    async def delete_all(self, keys: Iterable[Mapping[str, Any]]) -> int:
        """By the fields that their keys are made of."""
        return await self.write(deletes=(key_of(self._kind, fields) for fields in keys))

    async def page(
        self, scope: Scope, *, limit: int = 100, cursor: str | None = None, newest: bool = False
    ) -> Page[Entity]:
        answer = await self._table.database.call(
            "query", **self._query(scope, newest=newest), Limit=limit, **_from_cursor(cursor)
        )
        items = answer.get("Items", [])
        return Page(tuple(from_item(self._kind, item) for item in items), _to_cursor(answer.get("LastEvaluatedKey")))

    async def each(self, scope: Scope) -> AsyncIterator[Entity]:
        """All in a scope, in order."""
        async for items in self.items(scope):
            for item in items:
                yield from_item(self._kind, item)

    async def items(self, scope: Scope) -> AsyncIterator[list[Item]]:
        """The items of all in a scope, page by page."""
        query = self._query(scope, newest=False)
        async for answer in self._table.database.pages("query", **query, Limit=PAGE):
            yield answer.get("Items", [])

    def _query(self, scope: Scope, *, newest: bool) -> dict[str, Any]:
        spec = load_contract().table
        keys = spec.indexes[scope.index] if scope.index else spec
        names, values = {"#pk": keys.partition_key}, {":pk": {"S": scope.partition}}
        condition = "#pk = :pk"
        if scope.begins_with:
            condition += " AND begins_with(#sk, :sk)"
            names["#sk"], values[":sk"] = keys.sort_key, {"S": scope.begins_with}
        where: dict[str, Any] = {"IndexName": scope.index} if scope.index else {"ConsistentRead": True}
        return {
            "TableName": self._table.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not newest,
            **where,
        }


def _in_batches(items: Iterable[Item], size: int) -> Iterable[Sequence[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _to_cursor(key: Item | None) -> str | None:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode() if key else None


def _from_cursor(cursor: str | None) -> dict[str, Any]:
    if cursor is None:
        return {}
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, binascii.Error) as error:
        raise TableRejected(f"{cursor[:40]!r} is no cursor of a page", hint="Begin without one") from error
    return {"ExclusiveStartKey": key}
