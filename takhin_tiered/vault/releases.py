"""Removals of adoption records that were sent: until each has arrived for certain, nobody may rely on its record.

A process may be killed after it sent one, and the next one of the same state directory would find the record as it was.
So the journal has it before it is sent. Where no answer came, or the process died, it may arrive for `LATE_AFTER`
seconds; of a dead process, after the first start that finds it.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from takhin_tiered import machine
from takhin_tiered.vault.identity import Meta

LATE_AFTER = 300.0
"""Seconds after which a request arrives no more, whose sender got no answer or is dead."""
_NAME = "releases"


class Releases:
    """Of one state directory: the removals of its replica's adoption records that may still arrive."""

    def __init__(self, meta: Meta) -> None:
        self._meta, self._boot = meta, machine.boot_id()
        # By the machine's time. Endless while this process sends it.
        self._until: dict[str, float] = {}
        self._is_loaded, self._loading = False, asyncio.Lock()
        self._changes = self._written = 0
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """What earlier processes sent; to be called before the others. Only the first call reads."""
        async with self._loading:
            if self._is_loaded:
                return
            if text := await self._meta.get_meta(_NAME):
                found = json.loads(text)
                # The time of another boot says nothing here.
                is_same = bool(self._boot) and found["boot"] == self._boot
                now = machine.uptime()
                for key, until in found["until"].items():
                    self._until[key] = until if is_same and until is not None else now + LATE_AFTER
                if self._until:
                    await self._write()
            self._is_loaded = True

    def may_arrive(self, key: str) -> bool:
        """Whether the record may be removed by what was sent, although it stands or is written anew."""
        return self._until.get(key, 0.0) > machine.uptime()

    @asynccontextmanager
    async def sending(self, key: str) -> AsyncIterator[None]:
        """Within, the removal of this record is sent; an error tells that its answer is not known."""
        before = self._until.get(key, 0.0)
        self._until[key] = math.inf
        try:
            await self._write()
        except BaseException:
            self._until[key] = before
            raise
        try:
            yield
        except BaseException:
            self._until[key] = machine.uptime() + LATE_AFTER
            raise
        # The answer is for this request: an earlier one may still be on its way.
        self._until[key] = before
        await self._write()

    async def _write(self) -> None:
        """Once for all that change something while another write is in progress."""
        self._changes += 1
        mine = self._changes
        async with self._writing:
            if self._written >= mine:
                return
            now, changes = machine.uptime(), self._changes
            self._until = {key: until for key, until in self._until.items() if until > now}
            until = {key: None if math.isinf(until) else until for key, until in self._until.items()}
            await self._meta.set_meta(_NAME, json.dumps({"boot": self._boot, "until": until}))
            self._written = changes
