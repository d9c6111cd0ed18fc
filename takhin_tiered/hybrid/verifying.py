"""Compare every pointer of a table with its object, and find objects that no pointer names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.batches import in_batches
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import Damaged, NoKey, ObjectCorrupt, ObjectMissing, WrongKey
from takhin_tiered.hybrid import objects
from takhin_tiered.hybrid.keys import Naming, parse_object_key
from takhin_tiered.hybrid.pointers import S3_KEY, is_pointer, is_same_pointer
from takhin_tiered.hybrid.reading import Hydrator
from takhin_tiered.hybrid.removing import Remover
from takhin_tiered.hybrid.schema import Schema
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.hybrid.typed import is_same

_AT_ONCE = 100
_BAD = (ObjectMissing, ObjectCorrupt, NoKey, WrongKey)


@dataclass(frozen=True, slots=True)
class Problem:
    """``item`` is the table and the item's key, ``key`` that of the object."""

    item: str
    key: str
    problem: str


@dataclass(slots=True)
class Verification:
    """``removed``: objects that no item named. ``waiting``: those that go once no run can name them any more.

    ``unknown``: objects in the table's folder that cannot be read, or are no object of its items; they stay.
    """

    checked: int = 0
    size: int = 0
    bad: list[Problem] = field(default_factory=list)
    removed: int = 0
    waiting: int = 0
    unknown: list[str] = field(default_factory=list)

    def add(self, other: Verification) -> None:
        self.checked += other.checked
        self.size += other.size
        self.bad += other.bad
        self.removed += other.removed
        self.waiting += other.waiting
        self.unknown += other.unknown


@dataclass(frozen=True, slots=True)
class Verifier:
    """Of one table."""

    schema: Schema
    naming: Naming
    shelf: Shelf
    hydrator: Hydrator
    remover: Remover
    reading: asyncio.Semaphore

    async def verify(self, pages: AsyncIterator[Sequence[Item]]) -> Verification:
        """``pages`` are all of the table's items. What is bad is in the result; an outage is raised."""
        found, named = Verification(), set[str]()
        async for page in pages:
            there = [item for item in page if is_pointer(item)]
            named.update(item[S3_KEY]["S"] for item in there)
            for some in in_batches(there, _AT_ONCE):
                await all_of([self._compare(item, found) for item in some])
        # They were found in the order in which the store answered.
        found.bad.sort(key=lambda problem: (problem.item, problem.key))
        await self.sweep(named, found)
        return found

    async def _compare(self, pointer: Item, found: Verification) -> None:
        key = pointer[S3_KEY]["S"]
        try:
            async with self.reading:
                plain = await self.shelf.plain(key)
            archived = objects.read_item(plain, key)
        except _BAD as error:
            # It may have come back since the table was read.
            if is_same_pointer(await self.hydrator.get(self.schema.key_of(pointer), self.schema), pointer):
                words = error.message if not isinstance(error, ObjectMissing) else "the object is not there"
                found.bad.append(Problem(self.schema.described(pointer), key, words))
            found.checked += 1
            return
        found.checked += 1
        found.size += len(plain)
        if any(not is_same(archived.get(name), pointer[name]) for name in self.schema.keys):
            found.bad.append(Problem(self.schema.described(pointer), key, "the object holds another item"))

    async def sweep(self, named: set[str], found: Verification) -> None:
        """Remove what no pointer names: of an archive that broke off, or of an item that somebody replaced."""
        found.removed += await self.remover.settle()
        orphans: list[tuple[Item, str]] = []
        async for info in self.shelf.list(self.naming.folder):
            parsed = parse_object_key(info.key)
            if parsed is None or info.key in named:
                continue
            item = await self._item_of(info.key)
            if item is None or parsed[0] != self.naming.base(item):
                # Not one that this table's items are archived to: perhaps another program's.
                found.unknown.append(info.key)
            elif not await self.remover.is_named(item, info.key):
                orphans.append((item, info.key))
        announced = [
            (key, object_key, await self.remover.announce(key, object_key, leased=False)) for key, object_key in orphans
        ]
        if orphans and not await self.remover.wait_until_free():
            found.waiting += len(orphans)
            return
        for orphan in announced:
            found.removed += await self.remover.remove(*orphan)

    async def _item_of(self, key: str) -> Item | None:
        """The key of the item that an object holds; None where it cannot be read."""
        try:
            archived = await self.shelf.item(key)
        except (ObjectMissing, Damaged, NoKey, WrongKey):
            return None
        if not all(name in archived for name in self.schema.keys):
            return None
        return self.schema.key_of(archived)
