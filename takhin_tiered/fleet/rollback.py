"""Take a migration back: delete what it wrote, put back what it wrote over, and leave what others wrote since.

Each write is on the condition that the item is still the run's, and the run still this process's to take back. May be
interrupted, and done again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from takhin_tiered.aws.outcomes import CONDITION, Item, TransactionCancelled
from takhin_tiered.batches import in_batches
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import TakhinError
from takhin_tiered.fleet.comparing import scopes_of
from takhin_tiered.fleet.contract import load_contract
from takhin_tiered.fleet.entities import Checkpoint, Migration, Segment
from takhin_tiered.fleet.exclusive import MOST_ACTIONS, ROLLING_BACK, Action, Fence, alone_with
from takhin_tiered.fleet.migration import IMAGE, new_epoch, of_run, put
from takhin_tiered.fleet.repositories import PAGE, Repository, Scope, Table
from takhin_tiered.fleet.transforms import attribute, from_item, key_of, table_key, to_item
from takhin_tiered.points import reached


class RunMissing(TakhinError):
    code = "run_missing"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Items by what was done; ``left`` were written over by others since the run."""

    run: str
    deleted: int
    restored: int
    left: int


@dataclass(slots=True)
class _Counts:
    deleted: int = 0
    restored: int = 0
    left: int = 0


class Rollback:
    """``holder``: see `alone_with`."""

    def __init__(self, table: Table, run: str, holder: str = "") -> None:
        self._table, self._run, self._holder = table, run, holder

    async def migration(self) -> Migration:
        """`RunMissing` if there is none of this name."""
        found = await Repository(self._table, Migration).get(run=self._run)
        if found is None:
            raise RunMissing(
                f"the table {self._table.name} has no migration {self._run}",
                hint="takhin-tiered fleet status names the runs. One that was rolled back is not there any more",
            )
        return found

    async def run(self, progress: Callable[[int], None] = lambda _: None) -> RolledBack:
        """`HeldElsewhere` while another process migrates, or takes back, the same run."""
        await self.migration()
        async with alone_with(self._table, self._run, self._holder) as fence:
            try:
                migration = await self.migration()
            except RunMissing:
                # Another process took it back, until now.
                await fence.end()
                raise
            return await self._take_back(migration, fence, progress)

    async def _take_back(self, migration: Migration, fence: Fence, progress: Callable[[int], None]) -> RolledBack:
        counts = _Counts()
        await fence.replace(replace(migration, state=ROLLING_BACK))
        await new_epoch(self._table, migration.node)
        await self._leave_to_later_ones(migration.node, fence)
        checkpoints = Repository(self._table, Checkpoint)
        async for items in checkpoints.items(Scope(f"M#{self._run}", f"C#{IMAGE}")):
            images = [put(item[attribute(Checkpoint, "image")]["M"]) for item in items]
            counts.restored += await self._write(images, fence, counts)
            progress(counts.restored)
        # Most of them by the index, which tells where they are; then all that there are, as an index may be late.
        for pages in (self._indexed(migration.node), self._all()):
            async for found in pages:
                counts.deleted += await self._write([{"Delete": {"Key": key}} for key in found], fence, counts)
                progress(counts.restored + counts.deleted)
        await new_epoch(self._table, migration.node)
        # Last the migration itself: until then an interrupted rollback can be continued.
        async for items in checkpoints.items(Scope(f"M#{self._run}", "C#")):
            await self._table.database.batch_write(self._table.name, deletes=[table_key(item) for item in items])
        await fence.end()
        return RolledBack(self._run, counts.deleted, counts.restored, counts.left)

    async def _leave_to_later_ones(self, node: str, fence: Fence) -> None:
        """Runs that wrote over items of this one would put these back: they get what stood there before both."""
        checkpoints = Repository(self._table, Checkpoint)
        async for later in Repository(self._table, Migration).each(Scope(f"N#{node}", "M#", "GSI1")):
            if later.run > self._run:
                async for items in checkpoints.items(Scope(f"M#{later.run}", f"C#{IMAGE}")):
                    for some in in_batches([from_item(Checkpoint, item) for item in items], MOST_ACTIONS):
                        found = await all_of([self._leave(each) for each in some])
                        if actions := [each for each in found if each is not None]:
                            await fence.write(actions, ROLLING_BACK)

    async def _leave(self, later: Checkpoint) -> Action | None:
        if later.image.get(attribute(Segment, "run")) != {"S": self._run}:
            return None
        before = await Repository(self._table, Checkpoint).get(run=self._run, name=later.name)
        if before is None:
            return {"Delete": {"Key": key_of(Checkpoint, {"run": later.run, "name": later.name})}}
        return put(to_item(replace(later, image=before.image)))

    async def _indexed(self, node: str) -> AsyncIterator[list[Item]]:
        """The keys of the run's segments, as the index of the node has them."""
        repository, own = Repository(self._table, Segment), {"S": self._run}
        for scope in scopes_of(node):
            async for items in repository.items(scope):
                yield [table_key(item) for item in items if item.get(attribute(Segment, "run")) == own]

    async def _all(self) -> AsyncIterator[list[Item]]:
        """The keys of all items of the run, but not of the migration itself; a consistent read of the whole table."""
        key = load_contract().table.partition_key
        pages = self._table.database.pages(
            "scan",
            TableName=self._table.name,
            ConsistentRead=True,
            Limit=PAGE,
            FilterExpression="#run = :run AND #key <> :own",
            ProjectionExpression="#key, #sort",
            ExpressionAttributeNames={
                **of_run(self._run)["ExpressionAttributeNames"],
                "#key": key,
                "#sort": load_contract().table.sort_key,
            },
            ExpressionAttributeValues={
                **of_run(self._run)["ExpressionAttributeValues"],
                ":own": {"S": f"M#{self._run}"},
            },
        )
        async for page in pages:
            yield page.get("Items", [])

    async def _write(self, actions: Sequence[Action], fence: Fence, counts: _Counts) -> int:
        """Of the items that are still the run's; returns how many these were."""
        done = 0
        for some in in_batches(actions, MOST_ACTIONS):
            left = [{verb: {**what, **of_run(self._run)} for verb, what in each.items()} for each in some]
            while left:
                try:
                    await fence.write(left, ROLLING_BACK)
                except TransactionCancelled as cancelled:
                    still = [each for each, reason in zip(left, cancelled.reasons, strict=True) if reason != CONDITION]
                    counts.left += len(left) - len(still)
                    left = still
                else:
                    done += len(left)
                    reached("fleet.rollback.written")
                    break
        return done
