"""Leases: one holder at a time, each with a fencing token that is larger than those before it.

No wall clock decides. Who wants a lease that another holds watches its record: one that did not change for its own
duration, by the watcher's monotonic clock, belongs to a holder that is dead or cut off. A holder that wakes up later
still has the old token, and what it writes on the condition of that token is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from takhin_tiered.aws.outcomes import ConditionFailed, Item
from takhin_tiered.fleet.contract import load_contract
from takhin_tiered.fleet.entities import Lease
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.transforms import attribute, from_item, key_of, to_item
from takhin_tiered.fleet.ulid import new_ulid


@dataclass(frozen=True, slots=True)
class Held:
    """This process holds it."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class HeldByOther:
    """``seconds`` from now it can be taken over, unless its holder renews it meanwhile."""

    lease: Lease
    seconds: float


class Leases:
    """``holder`` is this process's own ID. A later process with the same ID takes its leases over at once."""

    def __init__(
        self, table: Table, holder: str, host: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table, self._holder, self._host, self._clock = table, holder, host, clock
        # The nonce of each lease of others, and when it was first seen.
        self._seen: dict[str, tuple[str, float]] = {}

    async def acquire(self, resource: str, seconds: float) -> Held | HeldByOther:
        """Take a lease that is free, this holder's own, or of one that did not renew it in time."""
        found = await self._look(resource)
        wanted = Lease(
            resource=resource,
            holder=self._holder,
            host=self._host,
            token=1 if found is None else found.token + 1,
            nonce=new_ulid(),
            duration=round(seconds * 1000),
        )
        if found is not None and found.holder not in {"", self._holder}:
            left = self._watch(found)
            if left > 0:
                return HeldByOther(found, left)
        stands = await self._write(wanted, found)
        if stands is None:
            self._seen.pop(resource, None)
            return Held(wanted)
        return HeldByOther(stands, self._watch(stands))

    async def renew(self, lease: Lease) -> Held | HeldByOther:
        """Tell the others that the holder lives. `HeldByOther` where it is lost."""
        stands = await self._write(renewed := replace(lease, nonce=new_ulid()), lease)
        return Held(renewed) if stands is None else HeldByOther(stands, self._watch(stands))

    async def release(self, lease: Lease) -> None:
        """Let others take it at once. The record stays: the next token has to be larger."""
        await self._write(replace(lease, holder="", nonce=new_ulid()), lease)

    def condition(self, lease: Lease) -> dict[str, Any]:
        """An action of a transaction, which then is done only while the lease is held."""
        return {
            "ConditionCheck": {
                "TableName": self._table.name,
                "Key": key_of(Lease, {"resource": lease.resource}),
                "ConditionExpression": "#token = :token",
                "ExpressionAttributeNames": {"#token": attribute(Lease, "token")},
                "ExpressionAttributeValues": {":token": {"N": str(lease.token)}},
            }
        }

    async def look(self, resource: str) -> Lease | None:
        """The record as it stands."""
        return await self._look(resource)

    async def _look(self, resource: str) -> Lease | None:
        found = await self._table.get(key_of(Lease, {"resource": resource}))
        return None if found is None else from_item(Lease, found)

    def _watch(self, lease: Lease) -> float:
        """Seconds until the record has not changed for its duration."""
        now = self._clock()
        nonce, since = self._seen.get(lease.resource, ("", now))
        if nonce != lease.nonce:
            since = now
            self._seen[lease.resource] = (lease.nonce, now)
        return max(0.0, since + lease.duration / 1000 - now)

    async def _write(self, wanted: Lease, known: Lease | None) -> Lease | None:
        """Write if the record is the known one; returns what stands there instead, None if it was written.

        The token alone is the condition, and not the nonce, where the holder stays: a renewal whose answer was lost is
        done again.
        """
        condition = "attribute_not_exists(#key)"
        names: dict[str, str] = {"#key": load_contract().table.partition_key}
        values: Item = {}
        if known is not None:
            condition, names = "#token = :token", {"#token": attribute(Lease, "token")}
            values = {":token": {"N": str(known.token)}}
            if wanted.token != known.token:
                condition += " AND #nonce = :nonce"
                names["#nonce"], values[":nonce"] = attribute(Lease, "nonce"), {"S": known.nonce}
        more = {"ExpressionAttributeValues": values} if values else {}
        try:
            await self._table.database.call(
                "put_item",
                TableName=self._table.name,
                Item=to_item(wanted),
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **more,
            )
        except ConditionFailed as failed:
            stands = from_item(Lease, failed.item) if failed.item else await self._look(wanted.resource)
            # The write was done, and its answer was lost.
            return None if stands is not None and stands.nonce == wanted.nonce else stands or _gone(wanted)
        return None


def _gone(lease: Lease) -> Lease:
    """The record was removed meanwhile, by hand."""
    return replace(lease, holder="", nonce="", duration=0)
