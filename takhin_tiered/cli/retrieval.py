"""``restore`` of what lies in an archive class such as GLACIER: request everything, and wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from itertools import groupby
from typing import Protocol

from takhin_tiered.cli.output import counted, error_console, escape, say
from takhin_tiered.errors import InGlacier, TakhinError
from takhin_tiered.segments.names import PLAIN

UNATTENDED = 20.0
"""Seconds that a command waits where nobody watches it: enough for what is nearly there."""

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


async def wait_for(requested: MutableMapping[str, str], restore: Restore, at_most: float) -> int:
    """Restore each once it can be read, those of a partition in the given order.

    Returns the number of failures after ``at_most`` seconds; what is left in ``requested`` then is still on its way.
    """
    out = error_console()
    failures, pause, told = 0, _FIRST_PAUSE, 0
    ends = time.monotonic() + at_most
    out.print(escape(next(iter(requested.values()))), soft_wrap=True)
    while requested and (rest := ends - time.monotonic()) > 0:
        if told != len(requested):
            told = len(requested)
            out.print(f"waiting for {counted(told, 'segment')}; Ctrl-C ends the wait, and not the retrieval")
        await asyncio.sleep(min(pause, rest))
        pause = min(_LONGEST_PAUSE, pause * 1.3)
        for _, paths in groupby(list(requested), key=lambda path: path.partition("/")[0]):
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
                del requested[path]
    return failures
