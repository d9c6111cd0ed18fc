"""Reads of segments, from wherever they are told: the reader, the Kafka endpoint, a broker, a program.

They are kept in memory and saved now and then. What leaves the disk is saved before it does: a restart must not make a
segment move more often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import Journal
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import CatalogError
from takhin_tiered.heat.promotion import Budget
from takhin_tiered.heat.rates import HotRule
from takhin_tiered.heat.tracker import Tracker
from takhin_tiered.segments.names import SegmentId

_FORGOTTEN, _SPENT = "heat_forgotten_demotion", "heat_spent"
"""Keys in ``meta``: `Tracker.forgotten_demotion`, and what is spent of the budget."""


@dataclass(slots=True)
class Heating:
    """``journal`` is None where nothing may be saved."""

    catalog: Catalog
    clock: Clock
    situation: Situation
    journal: Journal | None
    budget: Budget = field(default_factory=lambda: Budget(0.0))
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def tracker(self) -> Tracker:
        return self.situation.tracker

    def note(self, identity: SegmentId, read_bytes: int = 0) -> None:
        """A segment is read: all reads come through here."""
        now = self.clock.now()
        if self.catalog.touch(identity, now):
            self.tracker.note(identity, now, read_bytes)

    def note_more(self, identity: SegmentId, read_bytes: int) -> None:
        """So many more bytes of a read that was noted."""
        if read_bytes:
            self.tracker.note(identity, self.clock.now(), read_bytes, count=0)

    def apply(self) -> None:
        """The policy was set anew."""
        policy = self.situation.policy
        self.tracker.set_rule(HotRule(policy.hot_rate, policy.hot_count), self.clock.now())
        self.budget.hourly = policy.promoted_hourly

    async def load(self, journal: Journal | None) -> None:
        """What an earlier process saved; of a database, also one that may only be read."""
        # First the rule: one that is set later lets no segment keep what made it hot.
        self.apply()
        if journal is not None:
            self.tracker.load(await journal.heat())
            self.tracker.forgotten_demotion = float(await journal.get_meta(_FORGOTTEN) or 0.0)
            self.budget = Budget.from_text(0.0, await journal.get_meta(_SPENT))
        self.apply()

    async def settle(self) -> None:
        """Forget segments that are gone, and save."""
        await in_thread(self.tracker.settle, self.clock.now(), self.catalog.has)
        await self.save()

    async def save(self) -> None:
        """Write what changed. `CatalogError`; nothing of it is lost then."""
        if self.journal is None:
            return
        async with self._saving:
            changes = self.tracker.take_changes()
            if not changes:
                return
            try:
                await self._write(self.journal, changes)
            except BaseException:
                self.tracker.give_back(changes)
                raise

    async def note_demotions(self, identities: Sequence[SegmentId]) -> None:
        """These segments are about to leave the disk. Once it returns, that is saved."""
        self.tracker.note_demotions(identities, self.clock.now())
        await self.save()

    async def spend(self, size: int) -> None:
        """So many bytes are about to come back. Once it returns, that is saved."""
        self.budget.spend(size, self.clock.now())
        if self.journal is not None:
            async with self._saving:
                await self._write(self.journal, {})

    async def close(self) -> None:
        """Save once more. A failure costs the last reads, and must not hide why the process ends."""
        try:
            await self.save()
        except CatalogError as error:
            logs.logger().warning("the last reads of segments were not saved", error=str(error))

    async def _write(self, journal: Journal, changes: dict[SegmentId, bytes | None]) -> None:
        meta = {_FORGOTTEN: repr(self.tracker.forgotten_demotion), _SPENT: self.budget.to_text()}
        await asyncio.shield(journal.write_heat(changes, meta))
