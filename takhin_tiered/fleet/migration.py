"""Write a whole local catalog to the table, in a run that can be continued after a kill, and taken back.

An item that this run writes carries the run's ID. What stood there before is kept as a checkpoint of the run, before
it is written over. So `takhin_tiered.fleet.rollback` knows what to delete and what to put back, wherever a run ended.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from takhin_tiered.aws.outcomes import ConditionFailed, Item, TransactionCancelled
from takhin_tiered.batches import in_batches
from takhin_tiered.errors import TakhinError
from takhin_tiered.fleet.comparing import Difference, LocalCatalog, differences, learn
from takhin_tiered.fleet.entities import Checkpoint, Migration, Node, Segment
from takhin_tiered.fleet.exclusive import DONE, MOST_ACTIONS, RUNNING, Action, Fence, alone_with
from takhin_tiered.fleet.local import segment_entity
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.fleet.together import unwrapped
from takhin_tiered.fleet.transforms import attribute, digest, key_of, name_of, table_key, to_item
from takhin_tiered.fleet.ulid import new_ulid
from takhin_tiered.fleet.written import open_written
from takhin_tiered.points import reached
from takhin_tiered.segments.names import Place

POSITION = "position"
IMAGE = "image "
LOCAL_ENTITIES = (Segment.__name__, Node.__name__)
"""Those that a local catalog has."""

_BATCHES = 8
_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_BATCHES = 20

Progress = Callable[[int], None]


class MigrationUnfinished(TakhinError):
    code = "migration_unfinished"


@dataclass(frozen=True, slots=True)
class Migrated:
    """``written`` items carry the run's ID; ``unchanged`` ones were there already, as other runs or syncs wrote them.

    A dry run has no ``run``, and ``written`` counts what would be.
    """

    run: str
    total: int
    written: int
    unchanged: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Position:
    """A segment in the order of the migration."""

    place: Place
    base: int

    def dump(self) -> str:
        return json.dumps([*self.place, self.base])

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """None of an empty text: the beginning."""
        if not text:
            return None
        *place, base = json.loads(text)
        return cls(Place(*place), base)


@dataclass(frozen=True, slots=True)
class _Batch:
    items: tuple[Item, ...]
    ends: Position


@dataclass(slots=True)
class _Counts:
    done: int = 0
    written: int = 0
    unchanged: int = 0


class Migrator:
    """``node`` is the item of the node itself, of now; ``holder``: see `alone_with`."""

    def __init__(self, table: Table, local: LocalCatalog, node: Node, holder: str = "") -> None:
        self._table, self._local, self._node, self._holder = table, local, node, holder
        self._migrations, self._checkpoints = Repository(table, Migration), Repository(table, Checkpoint)

    async def unfinished(self) -> Migration | None:
        """The last run of this node, if it is not done."""
        last = await self.last()
        return last if last is not None and last.state != DONE else None

    async def last(self) -> Migration | None:
        page = await self._migrations.page(Scope(f"N#{self._node.node}", "M#", "GSI1"), limit=1, newest=True)
        # The index may be late.
        return await self._migrations.get(run=page.entities[0].run) if page.entities else None

    async def run(
        self,
        entities: Sequence[str] = LOCAL_ENTITIES,
        *,
        batch_size: int = 25,
        resume: bool = False,
        dry_run: bool = False,
        progress: Progress = lambda _: None,
    ) -> Migrated:
        """Migrate, or continue the last run. `MigrationUnfinished` where there is one to be continued or taken back."""
        unfinished = None if dry_run else await self.unfinished()
        if unfinished is not None and (not resume or unfinished.state != RUNNING):
            words = "is being rolled back" if unfinished.state != RUNNING else "was not finished"
            raise MigrationUnfinished(
                f"the migration {unfinished.run} of node {unfinished.node} {words}",
                hint=f"Continue it with --resume, or take it back: takhin-tiered fleet rollback {unfinished.run}"
                if unfinished.state == RUNNING
                else f"Finish that: takhin-tiered fleet rollback {unfinished.run}",
            )
        if dry_run:
            return await self._migrate(None, entities, batch_size, progress)
        if unfinished is None:
            run = Migration(
                run=new_ulid(),
                node=self._node.node,
                entities=",".join(entities),
                state=RUNNING,
                total=self._total(entities),
                started_at=_now(),
            )
            await self._migrations.create(run)
        else:
            run = unfinished
        async with alone_with(self._table, run.run, self._holder) as fence:
            # A rollback of another host may have ended meanwhile.
            current = await self._migrations.get(run=run.run)
            if current is None:
                await fence.end()
            if current is None or current.state != RUNNING:
                raise MigrationUnfinished(f"the migration {run.run} was rolled back", hint="Begin another one")
            is_resumed = unfinished is not None
            migrated = await self._migrate(fence, run.entities.split(","), batch_size, progress, is_resumed=is_resumed)
            done = replace(run, state=DONE, written=migrated.written, unchanged=migrated.unchanged, ended_at=_now())
            await fence.replace(done, was=RUNNING)
        return replace(migrated, resumed=is_resumed)

    def _total(self, entities: Sequence[str]) -> int:
        segments = sum(len(self._local.packed(place).rows) for place in self._local.places())
        return segments * (Segment.__name__ in entities) + (Node.__name__ in entities)

    async def _migrate(
        self,
        fence: Fence | None,
        entities: Sequence[str],
        batch_size: int,
        progress: Progress,
        *,
        is_resumed: bool = False,
    ) -> Migrated:
        counts, since, run = _Counts(), None, fence.run if fence else ""
        if fence is not None:
            found = await self._checkpoints.get(run=run, name=POSITION)
            if found is not None:
                since = Position.parse(found.position)
                counts = _Counts(found.done, found.written, found.unchanged)
            await new_epoch(self._table, self._node.node)
        if Segment.__name__ in entities:
            await self._segments(fence, since, batch_size, counts, progress)
            if fence is not None and is_resumed:
                await self._catch_up(fence, since, counts)
        if Node.__name__ in entities:
            await self._write([to_item(replace(self._node, run=run))], fence, counts, is_node=True)
        progress(counts.done)
        if fence is not None:
            await new_epoch(self._table, self._node.node)
        return Migrated(
            run=run,
            total=self._total(entities),
            written=counts.written,
            unchanged=counts.unchanged,
            resumed=False,
        )

    async def _segments(
        self, fence: Fence | None, since: Position | None, batch_size: int, counts: _Counts, progress: Progress
    ) -> None:
        """Some batches are compared at a time. The position is that of the last one before which all are written."""
        running: deque[tuple[_Batch, asyncio.Task[_Counts]]] = deque()
        batches, told, waiting = self._batches(fence, since, batch_size), time.monotonic(), 0
        async with unwrapped(), asyncio.TaskGroup() as group:
            while True:
                for batch in islice(batches, _BATCHES - len(running)):
                    running.append((batch, group.create_task(self._write_apart(batch.items, fence))))
                if not running:
                    return
                batch, task = running.popleft()
                done = await task
                counts.done += done.done
                counts.written += done.written
                counts.unchanged += done.unchanged
                progress(counts.done)
                waiting += 1
                due = waiting >= _CHECKPOINT_BATCHES or time.monotonic() - told >= _CHECKPOINT_SECONDS
                if fence is not None and (due or not running):
                    await self._keep_position(fence, batch.ends, counts)
                    reached("fleet.migrate.kept")
                    told, waiting = time.monotonic(), 0

    def _batches(self, fence: Fence | None, since: Position | None, size: int) -> Iterator[_Batch]:
        waiting: list[Item] = []
        ends: Position | None = None
        for place in self._local.places():
            if since is not None and place < since.place:
                continue
            packed = self._local.packed(place)
            for base in sorted(packed.rows):
                if since is not None and place == since.place and base <= since.base:
                    continue
                entity = segment_entity(packed.segment(base), packed.incarnation, self._node.node)
                waiting.append(to_item(replace(entity, run=fence.run if fence else "")))
                ends = Position(place, base)
                if len(waiting) >= size:
                    yield _Batch(tuple(waiting), ends)
                    waiting = []
        if waiting and ends is not None:
            yield _Batch(tuple(waiting), ends)

    async def _keep_position(self, fence: Fence, position: Position, counts: _Counts) -> None:
        checkpoint = Checkpoint(
            run=fence.run,
            name=POSITION,
            position=position.dump(),
            done=counts.done,
            written=counts.written,
            unchanged=counts.unchanged,
        )
        await fence.write([put(to_item(checkpoint))], RUNNING)

    async def _catch_up(self, fence: Fence, since: Position | None, counts: _Counts) -> None:
        """What the catalog changed, since an earlier process passed it."""
        async with open_written(None) as written:
            async with aclosing(learn(self._table, self._node.node, written)) as read:
                async for _ in read:
                    pass
            async with aclosing(differences(self._local, self._node.node, written)) as found:
                async for some in found:
                    items = [each.item for each in some if each.item is not None and not each.is_same]
                    marked = [{**item, attribute(Segment, "run"): {"S": fence.run}} for item in items]
                    await self._write(marked, fence, _Counts())
                    # Those that were there have been counted.
                    counts.written += sum(each.item is not None and not each.was_there for each in some)
                    for each in some:
                        if each.item is None and await self._remove(each.key, fence):
                            counts.written -= _was_counted(each, since)

    @staticmethod
    async def _remove(key: Item, fence: Fence) -> bool:
        """What an earlier process of this run wrote, and what the catalog does not have any more."""
        try:
            await fence.write([{"Delete": {"Key": key, **of_run(fence.run)}}], RUNNING)
        except TransactionCancelled:
            return False
        return True

    async def _write_apart(self, items: Sequence[Item], fence: Fence | None) -> _Counts:
        counts = _Counts()
        await self._write(items, fence, counts)
        return counts

    async def _write(
        self, items: Sequence[Item], fence: Fence | None, counts: _Counts, *, is_node: bool = False
    ) -> None:
        found = await self._table.database.batch_get(self._table.name, [table_key(item) for item in items])
        known = {name_of(item): item for item in found}
        kind: type[Any] = Node if is_node else Segment
        wanted: list[tuple[Item, Item | None]] = []
        for item in items:
            before = known.get(name_of(item))
            if before is None:
                wanted.append((item, None))
            elif fence is not None and before.get(attribute(kind, "run")) == {"S": fence.run}:
                # This run wrote it, before it was killed.
                counts.written += 1
                if digest(kind, before) != digest(kind, item):
                    wanted.append((item, None))
                    counts.written -= 1
            elif _says_the_same(kind, before, item):
                counts.unchanged += 1
            else:
                wanted.append((item, before))
        counts.done += len(items)
        counts.written += len(wanted)
        if fence is None:
            return
        for some in in_batches(wanted, MOST_ACTIONS // 2):
            images = [
                Checkpoint(run=fence.run, name=IMAGE + name_of(before), image=before) for _, before in some if before
            ]
            await fence.write([*(put(to_item(each)) for each in images), *(put(item) for item, _ in some)], RUNNING)


def put(item: Item) -> Action:
    return {"Put": {"Item": item}}


def of_run(run: str) -> dict[str, Any]:
    """The condition that an item is one that the run wrote, and nobody else since."""
    return {
        "ConditionExpression": "#run = :run",
        "ExpressionAttributeNames": {"#run": attribute(Segment, "run")},
        "ExpressionAttributeValues": {":run": {"S": run}},
    }


def _was_counted(difference: Difference, since: Position | None) -> bool:
    """Whether an earlier process counted it, up to its last checkpoint."""
    here = (difference.name.topic, difference.name.partition, difference.base)
    return since is not None and here <= (since.place.topic, since.place.number, since.base)


def _says_the_same(kind: type[Any], before: Item, item: Item) -> bool:
    if kind is Segment:
        return digest(kind, before) == digest(kind, item)
    if attribute(Node, "run") not in before:
        # Its daemon wrote it, and knows better.
        return True
    passing = {attribute(Node, "seen_at"), attribute(Node, "epoch")}
    lasting = [{name: value for name, value in each.items() if name not in passing} for each in (before, item)]
    return digest(kind, lasting[0]) == digest(kind, lasting[1])


async def new_epoch(table: Table, node: str) -> None:
    """Its daemon reads its part of the table again, as another process wrote there."""
    names = {"#epoch": attribute(Node, "epoch"), "#node": attribute(Node, "node")}
    with suppress(ConditionFailed):
        await table.database.call(
            "update_item",
            TableName=table.name,
            Key=key_of(Node, {"node": node}),
            UpdateExpression="SET #epoch = :epoch",
            ConditionExpression="attribute_exists(#node)",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues={":epoch": {"S": new_ulid()}},
        )


def _now() -> int:
    return time.time_ns() // 1_000_000
