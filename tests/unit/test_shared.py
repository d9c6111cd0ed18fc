"""A look that is shared by whoever asked before it began."""

from __future__ import annotations

import asyncio

import pytest

from takhin_tiered.concurrency import Shared


class Looks:
    """Counts looks; each waits at the gate, and raises the error if there is one."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.count += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error


async def asked(shared: Shared, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(shared.look()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_many_who_ask_at_once_share_two_looks() -> None:
    looks = Looks()
    shared = Shared(looks)
    tasks = await asked(shared, 10)
    looks.gate.set()
    await asyncio.gather(*tasks)
    # The first began before the others had asked.
    assert looks.count <= 2
    await shared.look()
    assert looks.count <= 3


async def test_whoever_asks_during_a_look_is_not_served_by_it() -> None:
    looks = Looks()
    shared = Shared(looks)
    first = await asked(shared, 1)
    second = await asked(shared, 1)
    looks.gate.set()
    await asyncio.gather(*first, *second)
    assert looks.count == 2


async def test_all_get_the_error_of_the_look_that_served_them() -> None:
    looks = Looks()
    shared = Shared(looks)
    tasks = [*await asked(shared, 1), *await asked(shared, 5)]
    looks.error = ValueError("down")
    looks.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 6
    assert looks.count == 2
    looks.error = None
    await shared.look()


async def test_a_look_that_is_cancelled_serves_nobody() -> None:
    looks = Looks()
    shared = Shared(looks)
    [first] = await asked(shared, 1)
    others = await asked(shared, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    looks.error = ValueError("down")
    looks.gate.set()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 2
