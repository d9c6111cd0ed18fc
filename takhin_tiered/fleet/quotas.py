"""Quotas: how often a node may do something on a day (UTC). One conditional ADD counts and limits at once.

An ADD whose answer was lost may count twice: a quota lets through fewer then, and never more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from takhin_tiered.aws.outcomes import ConditionFailed, Item
from takhin_tiered.fleet.entities import Quota
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.transforms import attribute, from_item, key_of, to_item


@dataclass(frozen=True, slots=True)
class Granted:
    """``used`` counts this use too."""

    used: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing was counted."""

    used: int


class Quotas:
    def __init__(self, table: Table, node: str, *, now: Callable[[], float] = time.time) -> None:
        self._table, self._node, self._now = table, node, now

    async def take(self, action: str, limit: int, count: int = 1) -> Granted | Exhausted:
        """Use so many of today's ``limit``, or none."""
        if count > limit:
            return Exhausted(await self.used(action))
        begun = datetime.fromtimestamp(self._now(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        day = Quota(node=self._node, day=f"{begun:%Y-%m-%d}", action=action, created_at=round(begun.timestamp() * 1000))
        counter = attribute(Quota, "used")
        key = key_of(Quota, {"node": day.node, "day": day.day, "action": action})
        # What identifies the counter is the same each time.
        constant = {name: value for name, value in to_item(day).items() if name not in {*key, counter}}
        names = {"#used": counter, **{f"#c{at}": name for at, name in enumerate(constant)}}
        values: Item = {f":c{at}": value for at, value in enumerate(constant.values())}
        values |= {":count": {"N": str(count)}, ":most": {"N": str(limit - count)}}
        try:
            answer = await self._table.database.call(
                "update_item",
                TableName=self._table.name,
                Key=key,
                UpdateExpression=f"SET {', '.join(f'#c{at} = :c{at}' for at in range(len(constant)))} ADD #used :count",
                ConditionExpression="attribute_not_exists(#used) OR #used <= :most",
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
            )
        except ConditionFailed:
            return Exhausted(await self.used(action))
        return Granted(from_item(Quota, answer["Attributes"]).used)

    async def used(self, action: str) -> int:
        """Of today's."""
        day = f"{datetime.fromtimestamp(self._now(), UTC):%Y-%m-%d}"
        found = await self._table.get(key_of(Quota, {"node": self._node, "day": day, "action": action}))
        return 0 if found is None else from_item(Quota, found).used
