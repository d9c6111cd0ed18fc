"""How segments are read, and the tiers by that: a part of the façade."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from takhin_tiered.engine.naming import known_segment, named_segment
from takhin_tiered.heat.access import Access, describe_access
from takhin_tiered.heat.rates import rate

if TYPE_CHECKING:
    from takhin_tiered.catalog.catalog import Catalog
    from takhin_tiered.engine.clock import Clock
    from takhin_tiered.engine.heating import Heating
    from takhin_tiered.engine.preparation import Preparation
    from takhin_tiered.engine.promoting import Evaluation, Promoter


class Warmth:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        _catalog: Catalog
        _clock: Clock
        _heating: Heating
        _preparation: Preparation
        _promoter: Promoter

    def access(self, path: str, *, topic_id: str | None = None) -> Access | None:
        """How a segment is read; None if no read of it is known. It costs the same however many segments there are."""
        segment = known_segment(self._catalog, path, topic_id)
        reads = self._heating.tracker.get(segment.id)
        if reads is None or not reads.total:
            return None
        return describe_access(segment.id.full_path, reads, self._clock.now())

    def heat_of(self, paths: Iterable[str]) -> dict[str, float]:
        """Reads an hour of each of these segments, 0.0 where no read is known: for a page of many."""
        now, tracker = self._clock.now(), self._heating.tracker
        found = ((path, tracker.get(named_segment(self._catalog, path))) for path in paths)
        return {path: 0.0 if reads is None else rate(reads, now) for path, reads in found}

    @property
    def tracked_segments(self) -> int:
        """How many segments have known reads; the least read are forgotten beyond a fixed number."""
        return len(self._heating.tracker)

    def report_read(self, path: str, read_bytes: int = 0, *, topic_id: str | None = None) -> None:
        """A segment was read elsewhere, as by a broker that has it on its disk."""
        self._heating.note(known_segment(self._catalog, path, topic_id).id, read_bytes)

    def update_access_time(self, path: str) -> None:
        """Note that the segment was read just now; see `report_read`."""
        self.report_read(path)

    async def evaluate_tiers(self) -> Evaluation:
        """Bring archived segments that are hot back to the disk, within the budget. Failures of single ones are told.

        Raises what concerns all of them: `StoreError`, `CatalogError`.
        """
        return await self._promoter.evaluate(self._preparation.own)

    async def save_reads(self) -> None:
        """Write to the state directory what is known of reads, where it changed. `CatalogError`."""
        await self._heating.save()
