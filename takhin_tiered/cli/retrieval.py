"""``restore`` of what lies in an archive class such as GLACIER: request everything, and wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import groupby
from typing import Protocol

from takhin_tiered.cli.output import counted, error_console, escape, say
from takhin_tiered.errors import InGlacier, TakhinError
from takhin_tiered.segments.names import PLAIN

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Restore(Protocol):
    async def __call__(self, path: str, /, *, request_only: bool = False) -> None: ...


class Move(Protocol):
    async def __call__(self, path: str, /) -> None: ...


def in_turn(restore: Restore) -> Move:
    """For logs that are restored from above: below one that has to be waited for, the others are only requested.

    Else each of them would be requested when the one above it is there.
    """
    waiting: set[str] = set()

    async def move(path: str, /) -> None:
        partition = path.partition("/")[0]
        if partition not in waiting:
            try:
                await restore(path)
            except TakhinError as error:
                if error.code == InGlacier.code:
                    waiting.add(partition)
                raise
            return
        await restore(path, request_only=True)
        raise InGlacier("it waits for the segment above it")

    return move


async def wait_for(requested: Mapping[str, str], restore: Restore) -> int:
    """Restore each once it can be read, those of a partition in the given order. Returns the number of failures."""
    out = error_console()
    left, failures, pause, told = dict(requested), 0, _FIRST_PAUSE, 0
    out.print(escape(next(iter(requested.values()))), soft_wrap=True)
    while left:
        if told != len(left):
            told = len(left)
            out.print(f"waiting for {counted(told, 'segment')}; Ctrl-C ends the wait, and not the retrieval")
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.3)
        for _, paths in groupby(list(left), key=lambda path: path.partition("/")[0]):
            for path in paths:
                try:
                    await restore(path)
                except TakhinError as error:
                    if error.code == InGlacier.code:
                        break
                    out.print(f"[red]Error:[/red] {escape(path)}:", error, markup=True)
                    failures += 1
                else:
                    say(f"restored {path.removesuffix(f'@{PLAIN}')}")
                del left[path]
    return failures
