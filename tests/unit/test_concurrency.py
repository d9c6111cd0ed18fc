"""Threads beside the event loop."""

from __future__ import annotations

import asyncio
import threading

from takhin_tiered.concurrency import in_bulk_thread, in_thread


def test_a_thread_is_waited_for_when_its_caller_is_cancelled_and_at_the_end_of_the_loop() -> None:
    happened: list[str] = []
    left: list[asyncio.Task[None]] = []
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        happened.append("thread done")

    async def caller() -> None:
        try:
            await in_thread(work)
        finally:
            happened.append("caller done")

    async def main() -> None:
        # Left running: the loop's end cancels it, and all that it made.
        left.append(asyncio.create_task(caller()))
        await asyncio.to_thread(begun.wait)
        asyncio.get_running_loop().call_later(0.05, go_on.set)

    asyncio.run(main())
    assert happened == ["thread done", "caller done"]


async def test_a_transfer_is_given_up_at_once_when_its_caller_is_cancelled() -> None:
    given_up = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        given_up.wait()

    task = asyncio.create_task(in_bulk_thread(given_up.set, work))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert given_up.is_set()
