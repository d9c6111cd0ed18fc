"""The pace of a scrub: so many bytes a second, and no more."""

from __future__ import annotations

import asyncio
import threading
import time

from takhin_tiered.pace import Pace


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def seconds_to_spend(pace: Pace, *counts: int) -> float:
    begun = time.monotonic()
    for count in counts:
        await pace.spend(count)
    return time.monotonic() - begun


async def returns_at_once(pace: Pace, *counts: int) -> bool:
    """Whether not even one turn of the event loop passes."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    for count in counts:
        await pace.spend(count)
    return not turned.is_set()


async def test_without_a_rate_nothing_waits() -> None:
    assert await returns_at_once(Pace(0), 10**15, 10**15)


async def test_a_tenth_of_a_second_is_owed_not_slept() -> None:
    pace = Pace(1000, clock=Clock())
    assert await returns_at_once(pace, 50, 49)
    assert not await returns_at_once(pace, 30)


async def test_what_is_owed_adds_up() -> None:
    pace = Pace(1000, clock=Clock())
    assert await returns_at_once(pace, *[9] * 11)
    assert await seconds_to_spend(pace, 51) >= 0.149


async def test_the_rate_holds_over_many_small_pieces() -> None:
    assert await seconds_to_spend(Pace(10_000), *[100] * 50) >= 0.39


async def test_the_rate_holds_for_one_large_piece() -> None:
    assert await seconds_to_spend(Pace(1000), 300) >= 0.299


async def test_those_who_share_a_pace_share_its_rate() -> None:
    pace = Pace(1000)
    begun = time.monotonic()
    await asyncio.gather(*(pace.spend(100) for _ in range(5)))
    assert time.monotonic() - begun >= 0.499


async def test_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    pace = Pace(1000, clock=clock)
    clock.now += 3600
    assert await seconds_to_spend(pace, 200) >= 0.199


async def test_what_is_owed_is_paid_off_by_waiting() -> None:
    clock = Clock()
    pace = Pace(1000, clock=clock)
    assert await returns_at_once(pace, 99)
    clock.now += 0.099
    assert await returns_at_once(pace, 99)


def test_threads_share_a_pace() -> None:
    pace, begun = Pace(1_000_000), time.monotonic()

    def spend() -> None:
        for _ in range(10):
            pace.spend_here(10_000)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 400,000 bytes, of which a tenth of a second may be owed.
    assert time.monotonic() - begun > 0.25
