"""Chunks in memory: bounded, shared, and never a deadlock."""

from __future__ import annotations

import asyncio

import pytest

from takhin_tiered.reader.memory import STALLED_SECONDS, Chunk, Memory


def there(memory: Memory, number: int, size: int) -> Chunk:
    assert memory.try_reserve(size)
    chunk = memory.join(memory.add(("object", number), size))
    memory.arrived(chunk, bytes(size))
    return chunk


async def test_what_nobody_uses_makes_room() -> None:
    memory = Memory(10)
    first, second = there(memory, 1, 4), there(memory, 2, 4)
    memory.leave(first)
    assert memory.find(("object", 1)) is first
    third = there(memory, 3, 6)
    assert memory.find(("object", 1)) is None
    assert first.is_dropped
    assert memory.used == 10
    assert not memory.try_reserve(1)
    memory.leave(second)
    memory.leave(third)
    assert memory.try_reserve(10)


async def test_who_waits_for_room_is_served_in_order() -> None:
    memory = Memory(10)
    first = there(memory, 1, 10)
    order: list[int] = []

    async def want(size: int) -> None:
        await memory.reserve(size)
        order.append(size)

    waiting = [asyncio.create_task(want(size)) for size in (8, 1, 1)]
    await asyncio.sleep(0)
    # Nobody overtakes, nor takes what the first one waits for.
    assert not memory.try_reserve(1)
    memory.leave(first)
    await asyncio.gather(*waiting)
    assert order == [8, 1, 1]


async def test_one_that_gives_up_lets_the_next_one_pass() -> None:
    memory = Memory(10)
    first = there(memory, 1, 5)
    large, small = asyncio.create_task(memory.reserve(10)), asyncio.create_task(memory.reserve(5))
    await asyncio.sleep(0)
    large.cancel()
    await asyncio.wait_for(small, 5)
    assert large.cancelled()
    assert (memory.used, first.is_dropped) == (10, False)


async def test_a_stalled_reader_loses_its_chunk_where_others_wait() -> None:
    now = 100.0
    memory = Memory(10, clock=lambda: now)
    chunk = there(memory, 1, 10)
    other = memory.join(chunk)
    memory.rest(chunk)
    now += STALLED_SECONDS + 1
    # Another reader is at work on it.
    assert not memory.try_reserve(1)
    memory.rest(other)
    assert not memory.try_reserve(1)
    now += STALLED_SECONDS
    assert memory.try_reserve(10)
    assert chunk.is_dropped
    assert chunk.plain is None


async def test_a_stalled_reader_is_noticed_by_itself() -> None:
    memory = Memory(10)
    chunk = there(memory, 1, 10)
    memory.rest(chunk)
    await asyncio.wait_for(memory.reserve(10), 30)
    assert chunk.is_dropped


async def test_one_that_is_larger_than_all_may_be_alone() -> None:
    memory = Memory(10)
    chunk = there(memory, 1, 100)
    assert memory.used == 10
    memory.leave(chunk)
    assert memory.try_reserve(3)
    assert memory.used == 3


async def test_an_error_reaches_all_and_is_not_kept() -> None:
    memory = Memory(10)
    assert memory.try_reserve(4)
    chunk = memory.add(("object", 1), 4)
    waiting = [asyncio.create_task(memory.join(chunk).wait()) for _ in range(3)]
    await asyncio.sleep(0)
    memory.failed(chunk, ValueError("no"))
    for found in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(found, ValueError)
    assert memory.find(("object", 1)) is None
    assert memory.used == 0
    with pytest.raises(ValueError, match="no"):
        await chunk.wait()
