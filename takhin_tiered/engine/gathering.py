"""Requests that arrive while others of their kind run are gathered into one batch, as in a group commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from takhin_tiered.errors import TakhinError

Key = TypeVar("Key", bound=Hashable)
Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Request, Result]):
    request: Request
    answer: asyncio.Future[Result]
    batch: _Batch[Request, Result] | None = None


@dataclass(slots=True, eq=False)
class _Batch(Generic[Request, Result]):
    """Those that go together; ``work`` is the call that answers them."""

    members: list[_Waiting[Request, Result]]
    work: asyncio.Future[Sequence[Result | TakhinError]]

    async def abandon(self) -> None:
        """End the call if nobody is left whom it would answer."""
        if all(each.answer.done() for each in self.members):
            self.work.cancel()
            await asyncio.wait([self.work])


class Gatherer(Generic[Key, Request, Result]):
    """``carry_out`` takes up to ``at_most`` requests of one key, and answers each with its result or its error.

    For each key at most two calls run at the same time; later requests wait for the next call. Two requests of the same
    ``name`` never share a call: the second one sees the result of the first.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Request]], Awaitable[Sequence[Result | TakhinError]]],
        name: Callable[[Request], Hashable],
        at_most: int,
    ) -> None:
        self._carry_out, self._name, self._at_most = carry_out, name, at_most
        self._waiting: dict[Key, deque[_Waiting[Request, Result]]] = {}
        self._running: dict[Key, set[asyncio.Task[None]]] = {}

    async def ask(self, key: Key, request: Request) -> Result:
        """The result, or its error raised. A caller that is cancelled ends the call that has nobody left to answer."""
        waiting = _Waiting[Request, Result](request, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, deque()).append(waiting)
        running = self._running.setdefault(key, set())
        if len(running) < _AT_ONCE:
            task = asyncio.create_task(self._run(key))
            running.add(task)
            task.add_done_callback(running.discard)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.batch is not None:
                await waiting.batch.abandon()
            raise

    async def _run(self, key: Key) -> None:
        while self._waiting.get(key):
            # Requests of the same turn of the loop are in the queue by then.
            await asyncio.sleep(0)
            if batch := self._take(key):
                await self._answer(batch)

    def _take(self, key: Key) -> list[_Waiting[Request, Result]]:
        batch: dict[Hashable, _Waiting[Request, Result]] = {}
        later: deque[_Waiting[Request, Result]] = deque()
        for waiting in self._waiting.pop(key, deque()):
            name = self._name(waiting.request)
            if waiting.answer.done():
                continue
            if name in batch or len(batch) == self._at_most:
                later.append(waiting)
            else:
                batch[name] = waiting
        if later:
            self._waiting[key] = later
        return [*batch.values()]

    async def _answer(self, members: list[_Waiting[Request, Result]]) -> None:
        work = asyncio.ensure_future(self._carry_out([each.request for each in members]))
        batch = _Batch(members, work)
        for each in members:
            each.batch = batch
        try:
            results = await work
        except BaseException as error:  # noqa: BLE001 - whoever asked gets it, whatever it is
            for each in members:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, result in zip(members, results, strict=True):
            if each.answer.done():
                continue
            if isinstance(result, TakhinError):
                each.answer.set_exception(result)
            else:
                each.answer.set_result(result)


_AT_ONCE = 2
