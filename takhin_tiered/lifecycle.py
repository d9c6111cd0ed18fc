"""Start and end of a process: its event loop, its signals, and one cycle without a daemon.

Every command handles termination signals itself, because the kernel ignores signals that the first process of a
container does not handle. The first signal ends a command cleanly, the second one at once.

The daemon stops taking work at the first SIGTERM or SIGINT: it finishes transfers in flight within `GRACE_SECONDS`,
then cancels the rest cleanly. A second signal skips the wait, a third one ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop

from takhin_tiered import logs, machine
from takhin_tiered.config import Settings
from takhin_tiered.dump import dump
from takhin_tiered.engine.report import Listener
from takhin_tiered.errors import TakhinError
from takhin_tiered.tiered_storage import TieredStorage

GRACE_SECONDS = 30.0
_COMMAND_GRACE_SECONDS = 8.0
_ARENAS = 1
"""With small segments one takes 20 MB less than one for each thread, and the same time."""

Result = TypeVar("Result")
OnSignal = Callable[[int], None]


class Interrupted(TakhinError):
    """A signal ended a command."""

    code = "interrupted"


def run_in_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a loop of its own, tuned for moving many bytes. `Interrupted` if a signal ends it."""
    # Imported modules stay: collections need not traverse them.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # `cli.start` disabled it.
    gc.enable()
    machine.limit_arenas(_ARENAS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # More threads than the default: those that wait for a slow disk or a throttle must not block the others.
        runner.get_loop().set_default_executor(ThreadPoolExecutor(32, "worker"))
        return runner.run(_until_signalled(work))


async def _until_signalled(work: Coroutine[Any, Any, Result]) -> Result:
    """Run the command; the first signal cancels it."""
    task = asyncio.current_task()
    assert task is not None
    received: list[str] = []

    def end(number: int) -> None:
        if received:
            end_at_once()
        received.append(signal.Signals(number).name)
        # A thread may hang, for example in a network file system: do not wait for it any longer than this.
        end_in(_COMMAND_GRACE_SECONDS)
        task.cancel()

    handlers: dict[int, OnSignal] = {signal.SIGTERM: end, signal.SIGUSR1: lambda _: dump()}
    # Ignored signals stay ignored: nohup, or a background job of a shell.
    handlers |= {n: end for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN}
    with handling(handlers):
        try:
            return await work
        except asyncio.CancelledError:
            if not received:
                raise
            raise Interrupted(
                f"interrupted by {received[0]}",
                hint="Nothing is lost: no local file was removed without a verified copy. The next run continues",
            ) from None


_handlers: dict[int, OnSignal] = {}


@contextlib.contextmanager
def handling(handlers: Mapping[int, OnSignal]) -> Iterator[None]:
    """Within: these signals call these functions, in the loop; afterwards the previous handlers apply again."""
    before = {number: _handlers.get(number) for number in handlers}
    _use(handlers)
    try:
        yield
    finally:
        _use(before)


def _use(handlers: Mapping[int, OnSignal | None]) -> None:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        if handler is None:
            loop.remove_signal_handler(number)
            _handlers.pop(number, None)
        else:
            loop.add_signal_handler(number, handler, number)
            _handlers[number] = handler


def end_at_once() -> None:
    """Exit like a kill, which loses nothing either."""
    os._exit(1)


def end_in(seconds: float) -> None:
    """Exit after so many seconds, whatever hangs, unless the process ends earlier."""
    timer = threading.Timer(seconds, end_at_once)
    timer.daemon = True
    timer.start()


Watch = Callable[[TieredStorage], contextlib.AbstractContextManager[Listener]]


@contextlib.contextmanager
def _unwatched(_: TieredStorage) -> Iterator[Listener]:
    yield lambda *_: None


async def _nothing(_: TieredStorage) -> None:
    """Do nothing after the cycle."""


async def run_once(
    settings: Settings, watch: Watch = _unwatched, after: Callable[[TieredStorage], Awaitable[None]] = _nothing
) -> int:
    """One cycle without the API; returns 1 if anything failed. Signals work as for the daemon.

    ``watch`` is entered before the cycle and left after it; ``after`` is done with the storage still open.
    """
    async with TieredStorage.open(settings, scan=False) as storage, contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(watch(storage))
        shutdown = Shutdown(storage.stopping)
        also: dict[int, OnSignal] = {signal.SIGUSR1: lambda _: dump(storage)}
        if signal.SIGHUP in _handlers:
            also[signal.SIGHUP] = shutdown.signalled
        with shutdown.signals(also):
            cycle = asyncio.create_task(storage.run_cycle(listener))
            stopped = asyncio.create_task(shutdown.begun.wait())
            await asyncio.wait({cycle, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            await shutdown.drain(cycle)
            if cycle.cancelled():
                return 1
            await after(storage)
            return 1 if cycle.result().failed or cycle.result().postponed else 0


class Shutdown:
    """``begun`` is set by the first signal."""

    def __init__(self, begun: asyncio.Event) -> None:
        self.begun = begun
        self._hurry = asyncio.Event()

    @contextlib.contextmanager
    def signals(self, also: Mapping[int, OnSignal]) -> Iterator[None]:
        """Within: handle SIGTERM, SIGINT and the given signals."""
        with handling({signal.SIGTERM: self.signalled, signal.SIGINT: self.signalled, **also}):
            yield

    async def drain(self, work: asyncio.Task[Any]) -> None:
        """Wait for transfers in flight until the grace period ends or a second signal arrives."""
        if not work.done():
            hurry = asyncio.create_task(self._hurry.wait())
            timeout = GRACE_SECONDS if self.begun.is_set() else None
            await asyncio.wait({work, hurry}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if not work.done():
            logs.logger().warning("cancelling transfers in flight: their files stay on disk until the next start")
            work.cancel()
            await asyncio.wait({work})

    def signalled(self, number: int) -> None:
        logs.logger().info("signal", signal=signal.Signals(number).name)
        if self._hurry.is_set():
            end_at_once()
        if self.begun.is_set():
            self._hurry.set()
            end_in(_COMMAND_GRACE_SECONDS)
        self.begun.set()
