"""How a process of ours begins and ends: its event loop, its signals, and one cycle without a daemon.

The first SIGTERM or SIGINT ends the taking of work: what is being moved is finished, within
`GRACE_SECONDS`, and then given up cleanly. A second signal skips the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop

from takhin_tiered import logs
from takhin_tiered.config import Settings
from takhin_tiered.engine.cycle import Listener
from takhin_tiered.tiered_storage import TieredStorage

GRACE_SECONDS = 30.0

Result = TypeVar("Result")


def run_in_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a loop of its own, made for much moving of bytes."""
    # What was imported stays: a collection need not walk it again and again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # More than a loop has by itself: those that wait for a slow disk, or a throttle, are not to stop all others.
        runner.get_loop().set_default_executor(ThreadPoolExecutor(32, "worker"))
        return runner.run(work)


Watch = Callable[[TieredStorage], contextlib.AbstractContextManager[Listener]]


@contextlib.contextmanager
def _unwatched(_: TieredStorage) -> Iterator[Listener]:
    yield lambda *_: None


async def run_once(settings: Settings, watch: Watch = _unwatched) -> int:
    """One cycle and no API; 1 if anything failed. A signal ends it as it ends the daemon.

    ``watch`` is entered for the cycle, and left when it has ended.
    """
    async with TieredStorage.open(settings, scan=False) as storage, contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(watch(storage))
        shutdown = Shutdown(storage.engine.stopping)
        with shutdown.signals():
            cycle = asyncio.create_task(storage.run_cycle(listener))
            stopped = asyncio.create_task(shutdown.begun.wait())
            await asyncio.wait({cycle, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            await shutdown.drain(cycle)
            if cycle.cancelled():
                return 1
            return 1 if cycle.result().failed or cycle.result().postponed else 0


class Shutdown:
    """``begun`` is set by the first signal."""

    def __init__(self, begun: asyncio.Event) -> None:
        self.begun = begun
        self._hurry = asyncio.Event()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Within: SIGTERM and SIGINT are ours."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def drain(self, work: asyncio.Task[Any]) -> None:
        """Wait for what is being moved, for as long as the grace period or the second signal allow."""
        if not work.done():
            hurry = asyncio.create_task(self._hurry.wait())
            timeout = GRACE_SECONDS if self.begun.is_set() else None
            await asyncio.wait({work, hurry}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if not work.done():
            logs.logger().warning("giving up what is being moved: it stays on disk, and is moved after the next start")
            work.cancel()
            await asyncio.wait({work})

    def _signalled(self, number: int) -> None:
        if self.begun.is_set():
            self._hurry.set()
        self.begun.set()
        logs.logger().info("signal", signal=signal.Signals(number).name)
