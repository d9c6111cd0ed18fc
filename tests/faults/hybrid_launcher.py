"""One operation on a hybrid table, or one after the other, with a SIGKILL of itself at a named point.

``TORTURE_POINT`` and ``TORTURE_NTH`` say where; ``TORTURE_LEASE`` and ``TORTURE_SETTLES`` are the seconds of a lease,
and those after which a process is gone for good. The settings come from the environment; the first table is meant.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from takhin_tiered import Settings, logs, points
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import StoreError
from takhin_tiered.hybrid import HybridTable, HybridTables, records

POINT, NTH = os.environ.get("TORTURE_POINT", ""), int(os.environ.get("TORTURE_NTH", "1"))
seen = 0


def reached(point: str) -> None:
    global seen
    if point == POINT:
        seen += 1
        if seen == NTH:
            os.kill(os.getpid(), signal.SIGKILL)


async def operate(tables: HybridTables, table: HybridTable[Item], name: str, keys: list[tuple[str, str]]) -> None:
    operations: dict[str, Callable[[str, str], Awaitable[object]]] = {
        "unarchive": table.unarchive,
        "delete": table.delete,
        "update": lambda pk, sk: table.update(pk, sk, text={"S": "updated"}),
    }
    if name == "archive":
        result = await tables.archive_old_data(sweep=True)
        assert result.errors == [], result.errors
    elif name == "verify":
        await tables.verify()
    elif name == "put":
        for pk, sk in keys:
            whole = await table.load(pk, sk)
            assert whole is not None
            await table.put({**whole, "text": {"S": "put"}})
    else:
        for pk, sk in keys:
            await operations[name](pk, sk)


async def for_ever(tables: HybridTables, table: HybridTable[Item], what: str, keys: list[tuple[str, str]]) -> None:
    """What an archive does that never ends, or an application that brings items back; until it is killed."""
    while True:
        if what == "archiving":
            result = await tables.archive_old_data(sweep=random.random() < 0.3)
            assert result.errors == [], result.errors
        else:
            with suppress(StoreError):
                await table.unarchive(*random.choice(keys))
            if random.random() < 0.05:
                found = await tables.verify()
                assert found.bad == [], found.bad


async def main() -> None:
    name, *words = sys.argv[1:]
    keys = [(word.partition("/")[0], word.partition("/")[2]) for word in words]
    async with HybridTables.open(Settings.load()) as tables:
        table = tables.table(tables.names[0], typed=True)
        if name in {"archiving", "restoring"}:
            await for_ever(tables, table, name, keys)
        await operate(tables, table, name, keys)


logs.configure_for_command()
records.LEASE_SECONDS = float(os.environ.get("TORTURE_LEASE", records.LEASE_SECONDS))
records.SETTLES_IN = float(os.environ.get("TORTURE_SETTLES", "1"))
points.hook = reached
asyncio.run(main())
