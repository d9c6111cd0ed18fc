"""How much goes on at a time, and how fast."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from takhin_tiered.engine.turns import Turns
from takhin_tiered.pace import Pace


async def _nobody(_: int) -> None:
    """There is no cache that could make room."""


@dataclass(slots=True)
class Limits:
    """``concurrency`` steps of a cycle run at a time. A restore leaves ``reserve_bytes`` free on the disk."""

    concurrency: int = 4
    reserve_bytes: int = 0
    # How often the storage classes of cold segments are looked at, in seconds.
    class_seconds: float = 86400.0
    uploads: Pace = field(default_factory=lambda: Pace(0))
    downloads: Pace = field(default_factory=lambda: Pace(0))
    turns: Turns = field(default_factory=Turns)
    # Segments read for their checksums at a time: more would only take the processors from everything else.
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(os.cpu_count() or 1))
    # Requests for small objects at a time, whatever the number of segments that go together.
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(24))
    # Ranges of large objects at a time, whatever is restored: each takes a connection, and a thread.
    ranges: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
    # One restore at a time looks at what stands in a partition, and places its files there.
    placing: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Lets a cache on this device make room for what restores have reserved there. The cache sets it.
    give_way: Callable[[int], Awaitable[None]] = _nobody

    def share_processors(self) -> None:
        """Checksums take half of the processors: the process also serves requests."""
        self.reading = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
