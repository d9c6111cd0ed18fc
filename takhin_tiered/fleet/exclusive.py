"""One migration or rollback at a time.

For a state directory by a lock, which the kernel ends with the process. For a run, from whichever host, by a lease. A
process that slept through its lease does not know it: so each write of a run is on the condition of that lease.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from takhin_tiered import filesystems
from takhin_tiered.aws.outcomes import CONDITION, Item, TransactionCancelled
from takhin_tiered.errors import DiskError, HeldElsewhere, TableRejected, TableUnavailable
from takhin_tiered.fleet.entities import Lease, Migration
from takhin_tiered.fleet.leases import Held, Leases
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.together import unwrapped
from takhin_tiered.fleet.transforms import attribute, key_of, to_item
from takhin_tiered.fleet.ulid import new_ulid
from takhin_tiered.users import owner_hint

FILE_NAME = "fleet-migration.lock"
RUNNING, DONE, ROLLING_BACK = "running", "done", "rolling_back"
"""States of a migration."""
MOST_ACTIONS = 98
"""A transaction takes a hundred, and two are the conditions of the run."""
_SECONDS, _RENEW_EVERY, _LOOK_EVERY = 30.0, 5.0, 1.0
_STATE = "#state"

Action = dict[str, Any]
"""Of a transaction: ``{"Put": {…}}``, without the table's name."""


@contextmanager
def alone(state_dir: Path) -> Iterator[None]:
    """`HeldElsewhere` while another process is at it."""
    path = state_dir / FILE_NAME
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}", hint=owner_hint(state_dir)) from error
    try:
        try:
            filesystems.lock(file)
        except filesystems.NoLocks:
            # The lease of the run remains.
            pass
        except BlockingIOError as error:
            raise HeldElsewhere(
                f"another process migrates or rolls back with the state directory {state_dir}",
                hint="Wait until it ends",
            ) from error
        yield
    finally:
        os.close(file)


def resource_of(run: str) -> str:
    return f"migration/{run}"


class Fence:
    """Writes of a run: each is done only while this process holds the run's lease, and the run is in a given state.

    The lease alone is not enough, as it goes with the run: one that is made anew begins with the first token again.
    One transaction at a time: of those that check one item side by side, DynamoDB refuses all but one.
    """

    def __init__(self, table: Table, run: str, held: Action) -> None:
        self._table, self.run, self._held = table, run, held
        self._one = asyncio.Lock()

    async def write(self, actions: Sequence[Action], state: str) -> None:
        """Up to `MOST_ACTIONS`, all or none. `HeldElsewhere` where the run is another's now, or is taken back.

        `TransactionCancelled`, with the reasons of these actions, where a condition of their own does not hold.
        """
        await self._transact([self._held, {"ConditionCheck": self._run_is(f"{_STATE} = :state", state)}], actions)

    async def replace(self, migration: Migration, *, was: str = "") -> None:
        """Write the migration itself, if it is in the state ``was``, or in any. `HeldElsewhere` as above."""
        condition = self._run_is(f"{_STATE} = :state", was) if was else self._run_is(f"attribute_exists({_STATE})")
        del condition["Key"]
        item = to_item(migration)
        try:
            await self._transact([self._held, {"Put": {**condition, "Item": item}}])
        except HeldElsewhere:
            # It was written, where the answer of an attempt was lost.
            if await self._table.get(self._key) != item:
                raise

    async def end(self) -> None:
        """The run is taken back, by this process or another one: its lease goes with it. `HeldElsewhere` as above."""
        gone = f"attribute_not_exists({_STATE}) OR {_STATE} = :state"
        held = dict(self._held["ConditionCheck"])
        try:
            await self._transact([{"Delete": held}, {"Delete": self._run_is(gone, ROLLING_BACK)}])
        except HeldElsewhere:
            # The same.
            if await self._table.get(self._key) is not None:
                raise

    @property
    def _key(self) -> Item:
        return key_of(Migration, {"run": self.run})

    def _run_is(self, condition: str, state: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {
            "TableName": self._table.name,
            "Key": self._key,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {_STATE: attribute(Migration, "state")},
        }
        return found | ({"ExpressionAttributeValues": {":state": {"S": state}}} if state else {})

    async def _transact(self, conditions: Sequence[Action], actions: Sequence[Action] = ()) -> None:
        named = [{verb: {"TableName": self._table.name, **what}} for each in actions for verb, what in each.items()]
        async with self._one:
            try:
                await self._table.database.call("transact_write_items", TransactItems=[*conditions, *named])
            except TransactionCancelled as cancelled:
                own = len(conditions)
                if CONDITION not in cancelled.reasons or len(cancelled.reasons) != own + len(named):
                    words = f"the server does not say why: {cancelled}"
                    raise TableRejected(words, table=self._table.name) from cancelled
                if CONDITION in cancelled.reasons[:own]:
                    raise _lost(self.run) from cancelled
                raise TransactionCancelled(cancelled.reasons[own:], cancelled.items[own:]) from cancelled


@asynccontextmanager
async def alone_with(table: Table, run: str, holder: str = "") -> AsyncIterator[Fence]:
    """Within, no other process migrates or rolls back this run. `HeldElsewhere` where one does, or took over.

    ``holder`` names the state directory: what was killed there is not waited for. Of others, one that does not renew
    its lease is taken for dead. If it only slept, what it sends late through its fence is refused.
    """
    leases = Leases(table, holder or new_ulid())
    lease = await _acquired(leases, run)
    async with unwrapped(), asyncio.TaskGroup() as group:
        renewing = group.create_task(_renewed(leases, lease, run))
        try:
            yield Fence(table, run, leases.condition(lease))
        finally:
            renewing.cancel()
    with suppress(TableUnavailable):
        await leases.release(lease)


async def _acquired(leases: Leases, run: str) -> Lease:
    seen = ""
    while True:
        found = await leases.acquire(resource_of(run), _SECONDS)
        if isinstance(found, Held):
            return found.lease
        if seen and found.lease.nonce != seen:
            raise _held(run)
        seen = found.lease.nonce
        await asyncio.sleep(min(_LOOK_EVERY, found.seconds))


async def _renewed(leases: Leases, lease: Lease, run: str) -> None:
    while True:
        await asyncio.sleep(_RENEW_EVERY)
        # What is at work sees an outage itself.
        with suppress(TableUnavailable):
            if not isinstance(await leases.renew(lease), Held):
                raise _held(run)


def _lost(run: str) -> HeldElsewhere:
    return HeldElsewhere(
        f"another process took over the run {run} while this one was silent, or took it back: this one writes no more",
        hint="Nothing is lost. See what became of it: takhin-tiered fleet status",
    )


def _held(run: str) -> HeldElsewhere:
    return HeldElsewhere(
        f"another process migrates or rolls back the run {run}", hint="Wait until it ends: takhin-tiered fleet status"
    )
