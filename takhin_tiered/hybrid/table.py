"""`HybridTable`: the items of one table, by its class or as dicts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid.filters import Condition, condition_of
from takhin_tiered.hybrid.models import Shape
from takhin_tiered.hybrid.parts import Parts
from takhin_tiered.hybrid.querying import SortKey, query_parameters
from takhin_tiered.hybrid.reading import Row, pages
from takhin_tiered.hybrid.schema import ALL, Index, Schema

T = TypeVar("T")
Key = Any | tuple[Any, Any]
Filter = Condition | Callable[[Any], bool] | Any


class HybridTable(Generic[T]):
    """Made by `HybridTables.table`.

    An item is complete, wherever it is. Reads are consistent unless ``consistent`` is False; an index that is global
    never is. A read raises `ObjectMissing` for an item whose object is gone (see ``on_missing``), `Damaged` for one
    whose object is not what was archived, and other `StoreError` and `TableError`.
    """

    def __init__(self, parts: Parts, shape: Shape[T]) -> None:
        self.parts, self._shape = parts, shape
        self._hydrator = parts.shared.hydrator

    @property
    def name(self) -> str:
        return self.parts.settings.name

    async def load(self, partition_key: Any, sort_key: Any = None, *, consistent: bool = True) -> T | None:
        """None where there is no such item."""
        row = await self.load_row(partition_key, sort_key, consistent=consistent)
        return None if row is None else self._value(row)

    async def load_row(self, partition_key: Any, sort_key: Any = None, *, consistent: bool = True) -> Row | None:
        """The same, with typed values."""
        schema = await self.parts.schema()
        key = schema.key(partition_key, sort_key)
        found = await self._hydrator.get(key, schema, consistent=consistent)
        return None if found is None else await self._hydrator.row(found, schema)

    async def batch_load(self, keys: Iterable[Key], *, consistent: bool = True) -> list[T | None]:
        """In the order of the keys, ``(partition key, sort key)``; None where there is no item."""
        schema = await self.parts.schema()
        typed = [schema.key(*key) if isinstance(key, tuple) else schema.key(key) for key in keys]
        rows = await self._hydrator.batch(typed, schema, consistent=consistent)
        return [None if row is None else self._value(row) for row in rows]

    async def query(
        self,
        partition_key: Any,
        *,
        eq: Any = None,
        begins_with: Any = None,
        between: Sequence[Any] | None = None,
        lt: Any = None,
        lte: Any = None,
        gt: Any = None,
        gte: Any = None,
        index: str = "",
        descending: bool = False,
        limit: int | None = None,
        filter: Filter = None,  # noqa: A002 - the service's own word
        consistent: bool = True,
    ) -> AsyncIterator[T]:
        """Items of one partition in the order of the sort key, of which one condition at most may be given.

        ``index``: by the keys of an index, with the attributes that it has. ``filter``: a `Condition`, such as
        ``Attr("status").eq("open")``, or a function of an item. ``limit``: of those that fulfil it.
        """
        schema, by = await self.parts.index_of(index)
        condition = SortKey.of(eq=eq, begins_with=begins_with, between=between, lt=lt, lte=lte, gt=gt, gte=gte)
        parameters = query_parameters(schema, by, index, partition_key, condition, descending=descending)
        parameters["ConsistentRead"] = consistent and not by.is_global
        async with aclosing(self._found("query", parameters, schema, by, limit=limit, wanted=filter)) as found:
            async for value in found:
                yield value

    async def scan(
        self,
        *,
        index: str = "",
        limit: int | None = None,
        filter: Filter = None,  # noqa: A002
        consistent: bool = True,
    ) -> AsyncIterator[T]:
        """All items, in the table's order; ``limit`` and ``filter`` as in `query`."""
        schema, by = await self.parts.index_of(index)
        parameters: dict[str, Any] = {"TableName": schema.table, "ConsistentRead": consistent and not by.is_global}
        parameters |= {"IndexName": index} if index else {}
        async with aclosing(self._found("scan", parameters, schema, by, limit=limit, wanted=filter)) as found:
            async for value in found:
                yield value

    async def put(self, item: T) -> None:
        """Store an item whole, in place of one of the same key, archived or not."""
        await (await self.parts.writer()).put(self._shape.to_item(item))

    async def update(
        self, partition_key: Any, sort_key: Any = None, /, *, remove: Iterable[str] = (), **changes: Any
    ) -> T | None:
        """Set attributes, and remove others; an archived item comes back first. The item, or None: there is none."""
        schema = await self.parts.schema()
        items, removed = self._shape.changes(changes)
        gone = [*map(self._shape.attribute, remove), *removed]
        found = await (await self.parts.writer()).update(schema.key(partition_key, sort_key), items, gone)
        return None if found is None else self._shape.from_item(found)

    async def delete(self, partition_key: Any, sort_key: Any = None) -> bool:
        """Remove an item, and its object; False where there is no such item."""
        schema = await self.parts.schema()
        return await (await self.parts.writer()).delete(schema.key(partition_key, sort_key))

    async def unarchive(self, partition_key: Any, sort_key: Any = None) -> bool:
        """Bring an archived item back into the table, for 24 hours at least; False where it is not archived."""
        schema = await self.parts.schema()
        return await (await self.parts.writer()).unarchive(schema.key(partition_key, sort_key))

    async def _found(
        self,
        operation: str,
        parameters: dict[str, Any],
        schema: Schema,
        by: Index,
        *,
        limit: int | None,
        wanted: Filter,
    ) -> AsyncGenerator[T, None]:
        if limit is not None:
            if limit < 1:
                raise ValueError(f"limit must be at least 1, not {limit}")
            if wanted is None:
                parameters["Limit"] = limit
        condition = condition_of(wanted)
        test: Callable[[Any], bool] | None = wanted if condition is None and callable(wanted) else None
        if wanted is not None and condition is None and test is None:
            raise TypeError(f"a filter is a Condition or a function, not {wanted!r}")
        most = limit if wanted is None else None
        given = 0
        # Who wants some needs no more pages than those have.
        all_of_them = pages(self.parts.shared.db, operation, parameters, ahead=limit is None)
        async with aclosing(all_of_them) as all_pages:
            # What an index with fewer attributes has, stays in the table: there is nothing to be read for it.
            if by.projection == ALL:
                rows = self._hydrator.rows(all_pages, schema, most=most)
            else:
                rows = _as_they_are(all_pages)
            async with aclosing(rows) as found:
                async for row in found:
                    if condition is not None and not condition.test(row.item):
                        continue
                    value = self._value(row)
                    if test is not None and not test(value):
                        continue
                    yield value
                    given += 1
                    if given == limit:
                        return

    def _value(self, row: Row) -> T:
        return self._shape.from_item(row.item) if row.is_whole else self._shape.pointer(row.item)


async def _as_they_are(all_pages: AsyncIterator[Sequence[Item]]) -> Any:
    async for page in all_pages:
        for item in page:
            yield Row(item)
