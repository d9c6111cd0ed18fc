"""One of each at a time: whoever wants the result of work that runs already waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


@dataclass(slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    users: int = 0


class Flights(Generic[Name, Result]):
    def __init__(self) -> None:
        self._flights: dict[Name, _Flight[Result]] = {}

    async def share(self, name: Name, begin: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result, or what the work raises. It is cancelled once all who wait for it are."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(asyncio.create_task(begin()))
        flight.users += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.users -= 1
            if not flight.users or flight.task.done():
                flight.task.cancel()
                if self._flights.get(name) is flight:
                    del self._flights[name]
