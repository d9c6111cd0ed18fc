"""From the local catalog to the table, by difference. The local catalog is right; the archive is not touched.

Each write is a transaction on the condition that this process still holds the lease of its node's name: of two daemons
with one name, only one writes, and one that slept through its lease changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from takhin_tiered import logs
from takhin_tiered.aws.outcomes import Item, TransactionCancelled
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.errors import TakhinError
from takhin_tiered.fleet.comparing import Difference, LocalCatalog, differences, learn, name_of_place
from takhin_tiered.fleet.entities import Node, Segment
from takhin_tiered.fleet.leases import Held, Leases
from takhin_tiered.fleet.local import NodeFacts, node_entity
from takhin_tiered.fleet.operations import OperationLog, Tally
from takhin_tiered.fleet.quotas import Quotas
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.transforms import attribute, from_item, key_of, to_item
from takhin_tiered.fleet.ulid import new_ulid
from takhin_tiered.fleet.written import Name, Written
from takhin_tiered.segments.names import SegmentId

LEASE_SECONDS = 90.0
RENEW_SECONDS = 30.0
# A transaction takes a hundred actions, and the first one is the condition.
_AT_ONCE = 99
_EPOCH, _SEEN = "epoch", "seen"
_READS_A_DAY = 100


class SyncedStorage(LocalCatalog, Protocol):
    """What the façade has of it."""

    def stats(self) -> Stats: ...

    async def know_all(self) -> None: ...

    async def recall_lease(self, identity: SegmentId, until: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Synced:
    """``has_read``: this node's part of the table was read first."""

    written: int
    deleted: int
    has_read: bool


class NodeTaken(TakhinError):
    """Another daemon writes to the table under this node's name."""

    code = "node_taken"
    http_status = 503


class TooManyReads(TakhinError):
    code = "fleet_reads"


class Sync:
    """One at a time: the caller sees to it."""

    def __init__(
        self,
        table: Table,
        storage: SyncedStorage,
        facts: NodeFacts,
        *,
        written: Written,
        leases: Leases,
        log: OperationLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = table
        self._storage, self._facts = storage, facts
        self._written, self._leases, self._log, self._clock = written, leases, log, clock
        self._held: Held | None = None
        self._renewed = 0.0

    @property
    def _resource(self) -> str:
        return f"node/{self._facts.node}"

    async def keep_lease(self) -> None:
        """Hold the lease of the node's name: take it, or renew it when it is time. `NodeTaken` if another has it."""
        if self._held is not None and self._clock() - self._renewed < RENEW_SECONDS:
            return
        began = self._clock()
        if self._held is None:
            found = await self._leases.acquire(self._resource, LEASE_SECONDS)
        else:
            found = await self._leases.renew(self._held.lease)
        if isinstance(found, Held):
            self._held, self._renewed = found, began
            return
        self._held = None
        raise NodeTaken(
            f"another daemon, on {found.lease.host or 'an unknown host'}, writes to the fleet's table as node "
            f"{self._facts.node}. If it stays silent, this one takes over in {found.seconds:.0f} s",
            hint="Give each daemon a name of its own: storage.tiered.fleet.node",
        )

    async def release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            await self._leases.release(held.lease)

    async def is_new(self) -> bool:
        """Whether this state directory has not been written to the table yet."""
        return not await self._written.get(_EPOCH)

    async def run(self) -> Synced:
        """Write what differs. Raises `TableError`, `NodeTaken`, and `StoreError` while the archive is not known."""
        # What is in the archive only is not known yet where the catalog is new: it must not be deleted from the table.
        await self._storage.know_all()
        await self.keep_lease()
        async with self._log.operation("sync") as tally:
            node = await self._node()
            epoch = await self._written.get(_EPOCH)
            has_read = node is None or not epoch or node.epoch != epoch or await self._went_back(node)
            if has_read:
                is_new = not epoch and node is not None
                # Its own item first: where nothing can be written, not all is read again at each attempt.
                epoch = await self._tell((node.epoch if node else "") or new_ulid())
                await self._read(is_new=is_new)
                # Another that writes from now on leaves an epoch of its own: then the next sync reads.
                await self._written.set(_EPOCH, epoch)
            await self._write_all(tally)
            await self._tell(epoch)
            return Synced(tally.written, tally.deleted, has_read)

    async def _node(self) -> Node | None:
        found = await self.table.get(key_of(Node, {"node": self._facts.node}))
        return None if found is None else from_item(Node, found)

    async def _went_back(self, node: Node) -> bool:
        """Whether the table is an earlier one: it was restored from a backup."""
        return (node.seen_at or 0) < int(await self._written.get(_SEEN) or 0)

    async def _read(self, *, is_new: bool) -> None:
        """Learn what the table has of this node. One with a new state directory may take leases from there."""
        quotas = Quotas(self.table, self._facts.node)
        if await quotas.used("read") >= _READS_A_DAY:
            raise TooManyReads(
                f"node {self._facts.node} has read its part of the fleet's table {_READS_A_DAY} times today: something "
                "else changes it again and again",
                hint="Two daemons may have one name: storage.tiered.fleet.node. It goes on tomorrow (UTC)",
            )
        await self._written.forget()
        leased: list[Segment] = []

        def look(segment: Segment) -> None:
            if segment.lease_until:
                leased.append(segment)

        async with aclosing(learn(self.table, self._facts.node, self._written, look)) as counts:
            async for count in counts:
                logs.logger().debug("reading the fleet's table", items=count)
                await self.keep_lease()
        # One that was broken off does not count: it would be an outage that uses them up.
        await quotas.take("read", _READS_A_DAY)
        if leased and is_new and self._facts.seeds:
            places = {name_of_place(place, self._storage.incarnation(place)): place for place in self._storage.places()}
            for segment in leased:
                place = places.get(Name(segment.topic, segment.partition, segment.incarnation))
                if place is not None:
                    await self._storage.recall_lease(
                        place.segment(segment.base_offset), (segment.lease_until or 0) / 1000
                    )

    async def _write_all(self, tally: Tally) -> None:
        async for some in self._batches():
            await self.keep_lease()
            todo = [each for each in some if not each.is_same]
            if todo:
                await self._transact([self._action(each) for each in todo])
            await self._written.note(
                [each.entry for each in some if each.entry is not None],
                [(each.name, each.base) for each in some if each.entry is None],
            )
            tally.written += sum(each.item is not None for each in todo)
            tally.deleted += sum(each.item is None for each in todo)

    async def _batches(self) -> AsyncGenerator[list[Difference], None]:
        waiting: list[Difference] = []
        async with aclosing(differences(self._storage, self._facts.node, self._written)) as found:
            async for some in found:
                waiting += some
                while len(waiting) >= _AT_ONCE:
                    yield waiting[:_AT_ONCE]
                    del waiting[:_AT_ONCE]
        if waiting:
            yield waiting

    def _action(self, difference: Difference) -> dict[str, Any]:
        if difference.item is None:
            return {"Delete": {"TableName": self.table.name, "Key": difference.key}}
        return {"Put": {"TableName": self.table.name, "Item": difference.item}}

    async def _tell(self, epoch: str) -> str:
        """Write the item of the node itself; returns its epoch, which stays if it has one."""
        item = to_item(node_entity(self._facts, self._storage.stats()))
        key = key_of(Node, {"node": self._facts.node})
        changed = {name: value for name, value in item.items() if name not in key}
        names = {"#epoch": attribute(Node, "epoch"), "#run": attribute(Node, "run")}
        names |= {f"#c{at}": name for at, name in enumerate(changed)}
        values: Item = {":epoch": {"S": epoch}, **{f":c{at}": value for at, value in enumerate(changed.values())}}
        sets = ", ".join(f"#c{at} = :c{at}" for at in range(len(changed)))
        await self._transact(
            [
                {
                    "Update": {
                        "TableName": self.table.name,
                        "Key": key,
                        "UpdateExpression": f"SET {sets}, #epoch = if_not_exists(#epoch, :epoch) REMOVE #run",
                        "ExpressionAttributeNames": names,
                        "ExpressionAttributeValues": values,
                    }
                }
            ]
        )
        node = await self._node()
        await self._written.set(_SEEN, str(node.seen_at or 0) if node else "")
        return node.epoch if node else ""

    async def _transact(self, actions: list[dict[str, Any]]) -> None:
        assert self._held is not None
        try:
            await self.table.database.call(
                "transact_write_items", TransactItems=[self._leases.condition(self._held.lease), *actions]
            )
        except TransactionCancelled as cancelled:
            self._held = None
            raise NodeTaken(
                f"another daemon writes to the fleet's table as node {self._facts.node} ({cancelled})",
                hint="Give each daemon a name of its own: storage.tiered.fleet.node",
            ) from cancelled
