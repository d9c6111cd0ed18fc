"""Who goes first: restores, then archives, then the scrub."""

from __future__ import annotations

import asyncio

import pytest

from takhin_tiered.engine.turns import Turn, Turns

FOR_EVER = 1e6


async def waits(task: asyncio.Task[None]) -> bool:
    """Whether a task that has had every chance to end has not."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not task.done()


@pytest.mark.parametrize("turn", Turn)
async def test_nobody_waits_for_nothing(turn: Turn) -> None:
    await asyncio.wait_for(Turns(FOR_EVER).give_way(turn), 5)


@pytest.mark.parametrize(
    ("before", "after"),
    [(Turn.RESTORE, Turn.ARCHIVE), (Turn.RESTORE, Turn.SCRUB), (Turn.ARCHIVE, Turn.SCRUB)],
)
async def test_what_goes_after_waits_until_the_last_one_ended(before: Turn, after: Turn) -> None:
    turns = Turns(FOR_EVER)
    with turns.take(before):
        with turns.take(before):
            waiting = asyncio.create_task(turns.give_way(after))
            assert await waits(waiting)
        assert await waits(waiting)
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("turn", Turn)
async def test_nobody_waits_for_their_like_or_for_what_goes_after(turn: Turn) -> None:
    turns = Turns(FOR_EVER)
    with turns.take(turn), turns.take(Turn.SCRUB):
        await asyncio.wait_for(turns.give_way(turn), 5)


async def test_patience_ends() -> None:
    turns = Turns(patience=0.01)
    with turns.take(Turn.RESTORE):
        await asyncio.wait_for(turns.give_way(Turn.ARCHIVE), 5)


async def test_a_turn_that_fails_is_over() -> None:
    turns = Turns(FOR_EVER)
    with pytest.raises(ValueError, match="broken"), turns.take(Turn.RESTORE):
        raise ValueError("broken")
    await asyncio.wait_for(turns.give_way(Turn.ARCHIVE), 5)


async def test_whoever_is_cancelled_while_waiting_is_cancelled() -> None:
    turns = Turns(FOR_EVER)
    with turns.take(Turn.RESTORE):
        waiting = asyncio.create_task(turns.give_way(Turn.ARCHIVE))
        assert await waits(waiting)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
