"""Work side by side: blocking calls in threads, coroutines together."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_BULK = ThreadPoolExecutor(64, "bulk")
COMPUTING = (os.cpu_count() or 1) + 1
"""Threads that compute: one more than processors, as one of them may wait for the disk."""
_COMPUTING = ThreadPoolExecutor(COMPUTING, "computing")


async def in_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Like `asyncio.to_thread`, but a cancelled caller waits until the thread is done, at the end of the loop too.

    A thread cannot be stopped. If its caller went on, and closed the file that the thread still writes to,
    the descriptor's number could be another file's by then.
    """
    return await _to_its_end(_run(None, function, *args, **kwargs))


async def in_bulk_thread(
    give_up: Callable[[], None],
    function: Callable[Parameters, Result],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Result:
    """Like `in_thread`, for a transfer, which may wait long for the other side: it takes no thread from other work.

    A cancelled caller calls ``give_up``, which has to make ``function`` end soon.
    """
    return await _to_its_end(_run(_BULK, function, *args, **kwargs), give_up)


def _run(
    executor: Executor | None,
    function: Callable[Parameters, Result],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> asyncio.Future[Result]:
    call = partial(copy_context().run, partial(function, *args, **kwargs))
    return asyncio.get_running_loop().run_in_executor(executor, call)


def computed(function: Callable[[int], Result], count: int, *, at_once: int) -> Generator[Result, None, None]:
    """``function`` of 0 to ``count`` (exclusive), in order, computed on all processors; blocking.

    No more than ``at_once`` results are there before they are taken. The first failure is raised, or the iterator is
    closed, once no thread is at it any more. All callers share the threads.
    """
    running: deque[Future[Result]] = deque()
    try:
        for number in range(count):
            if len(running) >= at_once:
                yield running.popleft().result()
            running.append(_COMPUTING.submit(function, number))
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        wait(running)


def is_cancelled() -> bool:
    """Whether somebody cancelled this task: a library can give something up, and let a `CancelledError` show."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _to_its_end(work: asyncio.Future[Result], give_up: Callable[[], None] = lambda: None) -> Result:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        give_up()
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue
        if not work.cancelled():
            work.exception()
        raise


class Shared:
    """A look whose answer serves all who asked before it began: of many at a time, the first and the next one look."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._look, self._one_looks = look, asyncio.Lock()
        # How many looks have begun, and which of them ended last.
        self._begun = self._ended = 0
        self._error: Exception | None = None

    async def look(self) -> None:
        """Raises what the look raises."""
        asked = self._begun
        async with self._one_looks:
            if self._ended <= asked:
                self._begun += 1
                self._error = await self._outcome()
                # One that is cancelled does not come by here, and serves nobody.
                self._ended = self._begun
            if self._error is not None:
                raise self._error

    async def _outcome(self) -> Exception | None:
        try:
            await self._look()
        except Exception as error:  # noqa: BLE001 - whoever asked gets it, whatever it is
            return error
        return None


async def all_of(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Every result, in order. The first failure cancels the others, and is raised by itself, not in a group.

    Not a TaskGroup: one that fails leaves, in Python 3.11, its task marked as being cancelled, and what awaits
    later in that task takes a cancellation of its own helpers for one of the task.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    if not tasks:
        return []
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task in done and task.exception() is not None:
                task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
