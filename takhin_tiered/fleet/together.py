"""Work side by side, whose first failure is raised as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager

from takhin_tiered.errors import TakhinError


@asynccontextmanager
async def unwrapped() -> AsyncIterator[None]:
    """Within: of a group with this project's errors the first is raised, without the group."""
    try:
        yield
    except* TakhinError as errors:
        raise _first(errors) from None


async def side_by_side(work: Iterable[Awaitable[None]], *, at_once: int) -> None:
    limit = asyncio.Semaphore(at_once)

    async def limited(each: Awaitable[None]) -> None:
        async with limit:
            await each

    async with unwrapped(), asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(limited(each))


def _first(errors: ExceptionGroup[TakhinError]) -> TakhinError:
    error: TakhinError | ExceptionGroup[TakhinError] = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
