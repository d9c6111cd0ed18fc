"""Move old items of a table to the store: the object first, proven, then the pointer, if the item is what was read.

An object is made where there is none. One of the same item that a run before left is taken over; other bytes get the
next generation. The update that makes the pointer is never sent twice without an answer: an answer that was lost could
belong to an update that is still on its way, and would name an object after it was removed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from takhin_tiered import logs, machine
from takhin_tiered.aws.dynamodb import DynamoDB
from takhin_tiered.aws.outcomes import ConditionFailed, Item
from takhin_tiered.errors import (
    Damaged,
    NoKey,
    ObjectMissing,
    StoreError,
    TableDenied,
    TableError,
    TableMissing,
    TableRejected,
    TableThrottled,
    TakhinError,
    WrongKey,
)
from takhin_tiered.hybrid import judging, objects, pointers, records
from takhin_tiered.hybrid.judging import Judge
from takhin_tiered.hybrid.keys import Naming, object_key
from takhin_tiered.hybrid.records import Marks, Records
from takhin_tiered.hybrid.removing import Remover
from takhin_tiered.hybrid.schema import Schema
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.hybrid.typed import is_same_item, size_of
from takhin_tiered.pace import Pace
from takhin_tiered.points import reached
from takhin_tiered.store import is_outage

BATCH = 25
_MOST_ERRORS = 100
"""Kept with their words; more are only counted."""
_MOST_OUTAGES = 5
_NOTED_EVERY = 5.0
_GENERATIONS = 1000


@dataclass(slots=True)
class ArchivalResult:
    """``items_processed``: all that were looked at. ``skipped``: how many stayed, by the reason.

    In a dry run ``items_archived`` and ``bytes_archived`` are those that would be; bytes are the items', about as
    DynamoDB counts them.
    """

    items_processed: int = 0
    items_archived: int = 0
    bytes_archived: int = 0
    bytes_kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    failed: int = 0
    dry_run: bool = False
    is_complete: bool = True
    sizes: Counter[int] = field(default_factory=Counter)
    """How many items of how many KiB, begun ones too: what their updates cost."""

    @property
    def items_skipped(self) -> int:
        """Too young, already archived, changed meanwhile, and the other reasons in ``skipped``."""
        return self.skipped.total()

    def add(self, other: ArchivalResult) -> None:
        self.items_processed += other.items_processed
        self.items_archived += other.items_archived
        self.bytes_archived += other.bytes_archived
        self.bytes_kept += other.bytes_kept
        self.failed += other.failed
        self.skipped += other.skipped
        self.sizes += other.sizes
        self.errors += other.errors
        self.is_complete = self.is_complete and other.is_complete

    def failed_with(self, error: str) -> None:
        self.failed += 1
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(error)


class _Over(Exception):
    """The store or the table is down: the rest waits for the next run."""


@dataclass(slots=True)
class Archiver:
    """One run over one table. ``reads`` and ``writes``: capacity units a second. ``stopping``: begin nothing more."""

    db: DynamoDB
    shelf: Shelf
    records: Records
    schema: Schema
    naming: Naming
    remover: Remover
    judge: Judge
    reads: Pace
    writes: Pace
    stopping: asyncio.Event
    progress: Callable[[ArchivalResult], None] = lambda _: None
    result: ArchivalResult = field(default_factory=ArchivalResult)
    named: set[str] | None = None
    """The keys that pointers name, if the whole table was looked at; None: nobody needs them."""
    _marks: Marks = field(default_factory=Marks)
    _run: str = ""
    _refreshed: float = 0.0
    _outages: int = 0
    _unanswered: int = 0
    _left: list[tuple[Item, str]] = field(default_factory=list)

    async def look(self) -> ArchivalResult:
        """A dry run."""
        self.result.dry_run = True
        async for page in self._pages(None):
            for item in page:
                self.result.items_processed += 1
                reason = self.judge.reason_to_stay(item) or self._reason_not_now(item)
                if reason:
                    self.result.skipped[reason] += 1
                else:
                    self._archived(item)
            self.progress(self.result)
        return self.result

    async def run(self) -> ArchivalResult:
        """Archive what is old. `TakhinError` where it cannot begin; what fails for an item is in the result."""
        await self.shelf.require_conditional()
        await self.records.require_same_table(self.schema.arn)
        self._refreshed = machine.uptime()
        self._run = await self.records.register()
        reached("hybrid.archive.registered")
        beat = asyncio.create_task(self._keep_registered())
        try:
            await self._run_registered()
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            # Of an update without an answer nobody knows when it arrives: the run then counts until it is silent.
            if not self._unanswered:
                await asyncio.shield(self._end())
        try:
            for key, left in self._left:
                announced = await self.remover.announce(key, left, leased=False)
                await self.remover.try_to_remove(key, left, announced)
        except StoreError as error:
            logs.logger().warning("objects that no item names stay for now", error=str(error))
        return self.result

    async def _keep_registered(self) -> None:
        """Once the others may have taken the run for gone, it is: it cannot be registered again, as what they removed
        since may be what it is about to name.
        """
        while not self._is_silent():
            await asyncio.sleep(records.REFRESH_EVERY)
            began = machine.uptime()
            try:
                await self.records.refresh(self._run)
            except StoreError as error:
                logs.logger().warning("the record of a run was not refreshed", key=self._run, error=str(error))
                continue
            if not self._is_silent():
                self._refreshed = began

    def _is_silent(self) -> bool:
        return machine.uptime() - self._refreshed >= records.SILENT_AFTER / 2

    async def _end(self) -> None:
        try:
            await self.records.unregister(self._run)
        except StoreError as error:
            logs.logger().warning("the record of a run stays until it is an hour old", key=self._run, error=str(error))

    async def _run_registered(self) -> None:
        begin = await self.records.position()
        if begin is not None:
            self.named = None
            logs.logger().info("archiving goes on where it broke off", table=self.schema.table)
        try:
            async for page in self._pages(begin):
                await self._page(page)
                self.progress(self.result)
        except _Over:
            self.result.is_complete = False
        if self.stopping.is_set():
            self.result.is_complete = False
        if self.result.is_complete:
            await self.records.forget_position()
        else:
            self.named = None

    async def _pages(self, begin: Item | None) -> AsyncGenerator[Sequence[Item], None]:
        """Pages of the table; how far the run came is written down between them."""
        parameters: dict[str, Any] = {"TableName": self.schema.table, "ConsistentRead": True}
        if begin is not None:
            parameters["ExclusiveStartKey"] = begin
        upcoming = asyncio.create_task(self._scan(parameters))
        noted, came_to = time.monotonic(), begin
        try:
            while True:
                page, self._marks = await upcoming
                after = page.get("LastEvaluatedKey")
                if after:
                    upcoming = asyncio.create_task(self._scan({**parameters, "ExclusiveStartKey": after}))
                yield page["Items"]
                if self.stopping.is_set():
                    # Not all of this page was done.
                    if self._run and came_to is not None:
                        await self.records.note_position(came_to)
                    return
                if not after:
                    return
                came_to = after
                if self._run and time.monotonic() - noted >= _NOTED_EVERY:
                    await self.records.note_position(after)
                    noted = time.monotonic()
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)

    async def _scan(self, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], Marks]:
        page = await self.db.call("scan", **parameters)
        await self.reads.spend(_units(page))
        # After the page: an item in it that came back was announced before.
        return page, await self.records.marks()

    async def _page(self, items: Iterable[Item]) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            for item in items:
                if self.stopping.is_set():
                    break
                self.result.items_processed += 1
                reason = self.judge.reason_to_stay(item) or self._reason_not_now(item)
                if reason:
                    self.result.skipped[reason] += 1
                    if self.named is not None and reason == judging.ARCHIVED:
                        self.named.add(item[pointers.S3_KEY]["S"])
                    continue
                if len(running) >= BATCH:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)
                running.add(asyncio.create_task(self._archive(item)))
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*done)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _reason_not_now(self, item: Item) -> str:
        if self._marks.is_leased(self.naming.base(item)):
            return judging.LEASED
        if pointers.archiving(item, self.schema, "", "") is None:
            return judging.TOO_MANY
        return ""

    async def _archive(self, item: Item) -> None:
        try:
            await self._archive_one(item)
            self._outages = 0
        except TakhinError as error:
            self.result.failed_with(f"{self.schema.described(item)}: {error}")
            of_table = isinstance(error, TableError) and not isinstance(error, TableRejected)
            if of_table or (isinstance(error, StoreError) and is_outage(error)):
                self._outages += 1
                if self._outages >= _MOST_OUTAGES:
                    raise _Over from error

    async def _archive_one(self, item: Item) -> None:
        key = await self._store(item)
        reached("hybrid.archive.stored")
        if self._is_silent():
            raise _Over
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        parameters = pointers.archiving(item, self.schema, key, at)
        assert parameters is not None
        # Until there is an answer, it may arrive at any time.
        self._unanswered += 1
        try:
            answer = await self.db.call_once("update_item", **parameters, ReturnValues="ALL_NEW")
        except ConditionFailed:
            self._unanswered -= 1
            self.result.skipped[judging.CHANGED] += 1
            self._left.append((self.schema.key_of(item), key))
            return
        except (TableThrottled, TableRejected, TableDenied, TableMissing):
            self._unanswered -= 1
            raise
        self._unanswered -= 1
        reached("hybrid.archive.pointed")
        await self.writes.spend(_units(answer))
        pointer: Item = answer["Attributes"]
        if pointer.keys() - item.keys() - pointers.NAMES:
            await self._give_back(item, pointer)
            self.result.skipped[judging.CHANGED] += 1
            self._left.append((self.schema.key_of(item), key))
            return
        if self.named is not None:
            self.named.add(key)
        self._archived(item)

    async def _give_back(self, item: Item, pointer: Item) -> None:
        """Somebody added attributes meanwhile, which no condition can notice: the item becomes what they left."""
        with suppress(ConditionFailed):
            for parameters in pointers.restoring(pointers.merged(item, pointer), pointer, self.schema):
                await self.db.call("update_item", **parameters)

    async def _store(self, item: Item) -> str:
        """The key of a proven object that holds this very item."""
        base = self.naming.base(item)
        plain = objects.to_json(item)
        data = b""
        first = self._marks.first_free(base)
        for generation in range(first, first + _GENERATIONS):
            key = object_key(base, generation)
            if not data or self.shelf.is_bound:
                data = await self.shelf.pack(self.schema.table, key, plain)
            if await self.shelf.create(key, data) or await self._holds(key, item):
                return key
        raise StoreError(f"there are {_GENERATIONS} generations of one item", key=object_key(base))

    async def _holds(self, key: str, item: Item) -> bool:
        """Whether an object that stands there holds this very item, as one of a run that broke off does."""
        try:
            return is_same_item(await self.shelf.item(key), item)
        except (ObjectMissing, Damaged, NoKey, WrongKey):
            return False

    def _archived(self, item: Item) -> None:
        size = size_of(item)
        self.result.items_archived += 1
        self.result.bytes_archived += size
        self.result.bytes_kept += size_of({name: item[name] for name in item if name in self.schema.kept})
        self.result.sizes[-(-size // 1024)] += 1


def _units(answer: Mapping[str, Any]) -> int:
    return math.ceil(float((answer.get("ConsumedCapacity") or {}).get("CapacityUnits", 0)))
