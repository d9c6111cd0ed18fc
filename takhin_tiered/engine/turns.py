"""Turns: a restore goes before archives, and archives go before the scrub.

Somebody waits for a restore, the disk fills up while nothing is archived, and a scrub has weeks. Running work is never
stopped: the next step waits, for a limited time, so that a day of restores does not fill the disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum

_PATIENCE = 10.0


class Turn(IntEnum):
    RESTORE = 0
    ARCHIVE = 1
    SCRUB = 2


class Turns:
    """``patience``: seconds that a step waits at most for those before it."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._running: Counter[Turn] = Counter()
        self._one_ended = asyncio.Event()

    @contextmanager
    def take(self, turn: Turn) -> Iterator[None]:
        self._running[turn] += 1
        try:
            yield
        finally:
            self._running[turn] -= 1
            # Wakes whoever waits now.
            self._one_ended.set()
            self._one_ended.clear()

    async def give_way(self, turn: Turn) -> None:
        """Return when nothing runs that goes before, or when patience ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while any(self._running[before] for before in Turn if before < turn):
                    await self._one_ended.wait()
