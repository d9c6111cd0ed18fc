"""The fleet's table: created, brought to what the contract says, and looked at. May be done again at any time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from takhin_tiered.errors import TableError, TableMissing, TableRejected, TableUnavailable
from takhin_tiered.fleet.contract import deviations, load_contract, table_definition
from takhin_tiered.fleet.repositories import Table

_ACTIVE_SECONDS = 300.0
_LOOK_SECONDS = 0.5
_ENDING = {"ENABLED", "ENABLING"}
_NOT_OURS = "is not the fleet's"


@dataclass(frozen=True, slots=True)
class TableState:
    """``problems``: in what it is not as the contract says. ``status`` is DynamoDB's word."""

    table: str
    status: str
    ttl: str
    items: int
    bytes: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Initialised:
    """What had to be done."""

    table: str
    created: bool
    ttl_enabled: bool


@asynccontextmanager
async def telling_what_is_wrong(table: Table) -> AsyncIterator[None]:
    """Within: whoever misses the table is told what makes it, and whose request it refuses, if it is another one."""
    try:
        with telling_how_to_create():
            yield
    except TableRejected as error:
        problems: list[str] = []
        with suppress(TableError):
            problems = list(deviations(load_contract(), await _described(table)))
        if not problems or _NOT_OURS in error.message:
            raise
        raise _not_ours(table, problems, before=f"{error.message}. ") from error


@contextmanager
def telling_how_to_create() -> Iterator[None]:
    """Within: whoever misses the table is told what makes it."""
    try:
        yield
    except TableMissing as error:
        hint = "Create it with takhin-tiered fleet init, or check its name and region"
        raise TableMissing(error.message, table=error.table, hint=hint) from error


async def initialise(table: Table) -> Initialised:
    """Create the table unless it is there, wait until it is active, and let its operations end.

    `TableRejected` if a table of that name is another one: it is not changed.
    """
    contract, created = load_contract(), False
    try:
        description = await _described(table)
    except TableMissing:
        created = await _create(table)
    else:
        if problems := list(deviations(contract, description)):
            raise _not_ours(table, problems)
    await _wait_until_active(table)
    ttl_enabled = await _ttl_of(table) not in _ENDING
    if ttl_enabled:
        ttl = {"Enabled": True, "AttributeName": contract.table.ttl_attribute}
        await table.database.call("update_time_to_live", TableName=table.name, TimeToLiveSpecification=ttl)
    return Initialised(table.name, created, ttl_enabled)


async def look_at(table: Table) -> TableState:
    """Its state now. `TableMissing` where there is none."""
    description = await _described(table)
    problems = list(deviations(load_contract(), description))
    ttl = await _ttl_of(table)
    if ttl not in _ENDING:
        problems.append("its items do not end by themselves (TTL)")
    return TableState(
        table=table.name,
        status=str(description.get("TableStatus", "")),
        ttl=ttl,
        items=int(description.get("ItemCount", 0)),
        bytes=int(description.get("TableSizeBytes", 0)),
        problems=tuple(problems),
    )


def _not_ours(table: Table, problems: list[str], *, before: str = "") -> TableRejected:
    return TableRejected(
        f"{before}the table {table.name} {_NOT_OURS}: {'; '.join(problems)}",
        table=table.name,
        hint="Nothing was changed. Name another table in storage.tiered.fleet.table, or remove this one",
    )


async def _create(table: Table) -> bool:
    """False where another process created it meanwhile."""
    try:
        await table.database.call("create_table", **table_definition(load_contract(), table.name))
    except TableRejected:
        # Another one did, or it is being removed: whichever it is, that shows when it is waited for.
        try:
            await _described(table)
        except TableError:
            pass
        else:
            return False
        raise
    return True


async def _wait_until_active(table: Table) -> None:
    deadline = time.monotonic() + _ACTIVE_SECONDS
    while True:
        description = await _described(table)
        indexes = [index.get("IndexStatus") for index in description.get("GlobalSecondaryIndexes", ())]
        if description.get("TableStatus") == "ACTIVE" and set(indexes) <= {"ACTIVE", None}:
            return
        if time.monotonic() > deadline:
            raise TableUnavailable(
                f"the table {table.name} is {description.get('TableStatus')} after {_ACTIVE_SECONDS:.0f} s",
                table=table.name,
                hint="Run takhin-tiered fleet init again: it goes on where it is",
            )
        await asyncio.sleep(_LOOK_SECONDS)


async def _described(table: Table) -> dict[str, Any]:
    with telling_how_to_create():
        answer = await table.database.call("describe_table", TableName=table.name)
    description: dict[str, Any] = answer["Table"]
    return description


async def _ttl_of(table: Table) -> str:
    answer = await table.database.call("describe_time_to_live", TableName=table.name)
    return str(answer.get("TimeToLiveDescription", {}).get("TimeToLiveStatus", "DISABLED"))
