"""The log of operations: what a node did in the table, what it cost, and under which correlation ID.

One entry for each operation, whatever it wrote: not for each item, and none for its own write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from takhin_tiered import logs
from takhin_tiered.aws.dynamodb import Call
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import TableError, TakhinError
from takhin_tiered.fleet.entities import Operation
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.fleet.transforms import from_item, table_key
from takhin_tiered.fleet.ulid import new_ulid

SHARDS = 8

_CUT_OFF = "cut_off"


@dataclass(slots=True)
class Tally:
    """What the calls of one operation took, and what it did."""

    calls: int = 0
    attempts: int = 0
    capacity: float = 0.0
    written: int = 0
    deleted: int = 0
    run: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.written or self.deleted)


class _Began(NamedTuple):
    """Seconds since the epoch, and by the monotonic clock."""

    time: float
    clock: float


class Calls:
    """Listens to the client, and counts for the operations that run now."""

    def __init__(self, also: Callable[[Call], None] = lambda _: None) -> None:
        self._tallies: dict[str, Tally] = {}
        self._also = also

    def __call__(self, call: Call) -> None:
        self._also(call)
        tally = self._tallies.get(call.correlation_id)
        if tally is not None:
            tally.calls += 1
            tally.attempts += call.attempts
            tally.capacity += call.capacity

    def begin(self, correlation_id: str) -> Tally:
        return self._tallies.setdefault(correlation_id, Tally())

    def end(self, correlation_id: str) -> None:
        self._tallies.pop(correlation_id, None)


class OperationLog:
    def __init__(self, table: Table, node: str, calls: Calls) -> None:
        self._table, self._node, self._calls = table, node, calls
        self._repository = Repository(table, Operation)

    @asynccontextmanager
    async def operation(self, action: str) -> AsyncIterator[Tally]:
        """Within: one operation with a correlation ID. It is logged if it changed something."""
        began = _Began(time.time(), time.monotonic())
        with logs.operation(f"fleet {action}", "", logs.new_correlation_id()):
            correlation = logs.correlation_id()
            tally = self._calls.begin(correlation)
            outcome = "ok"
            try:
                yield tally
            except TakhinError as error:
                outcome = error.code
                raise
            except asyncio.CancelledError:
                outcome = _CUT_OFF
                raise
            finally:
                self._calls.end(correlation)
                # Where the table fails, its log would fail too; and who stops does not wait for a table.
                if tally.changed and not outcome.startswith(("table_", _CUT_OFF)):
                    await self._enter(action, outcome, correlation, tally, began)

    async def _enter(self, action: str, outcome: str, correlation: str, tally: Tally, began: _Began) -> None:
        moment = round(began.time * 1000)
        identifier = new_ulid(moment)
        entry = Operation(
            node=self._node,
            day=f"{datetime.fromtimestamp(began.time, UTC):%Y-%m-%d}",
            id=identifier,
            shard=sum(identifier.encode()) % SHARDS,
            created_at=moment,
            action=action,
            outcome=outcome,
            correlation_id=correlation,
            written=tally.written,
            deleted=tally.deleted,
            calls=tally.calls,
            attempts=tally.attempts,
            capacity=Decimal(str(round(tally.capacity, 3))),
            duration=round((time.monotonic() - began.clock) * 1000),
            run=tally.run,
        )
        try:
            await self._repository.put_all([entry])
        except TableError as error:
            # The operation itself is done.
            logs.logger().warning("the operation is not in the fleet's log", error=str(error))

    async def of_day(self, day: str) -> AsyncIterator[Operation]:
        """The operations of all nodes on a day (``YYYY-MM-DD``, UTC), shard by shard."""
        for shard in range(SHARDS):
            async for items in self._repository.items(Scope(f"E#{day}#{shard}", index="GSI2")):
                keys: list[Item] = [table_key(item) for item in items]
                for found in await self._table.database.batch_get(self._table.name, keys):
                    yield from_item(Operation, found)
