"""Restores are requested one by one. Small ones of a partition that are requested together share a batch."""

from __future__ import annotations

from collections.abc import Sequence

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.gathering import Gatherer
from takhin_tiered.engine.restore import Restorer, ToRestore
from takhin_tiered.errors import TakhinError
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import Place
from takhin_tiered.vault.opened import SMALL
from takhin_tiered.verbs import only

_TOGETHER = 32


class Restores:
    def __init__(self, catalog: Catalog, restorer: Restorer) -> None:
        self._catalog, self._restorer = catalog, restorer
        self._gatherer: Gatherer[tuple[Place, str | None], ToRestore, Segment] = Gatherer(
            self._together, lambda wanted: wanted.id, _TOGETHER
        )

    async def restore(self, wanted: ToRestore) -> Segment:
        """See `Restorer.restore_together`; an error is raised."""
        known = self._catalog.get(wanted.id)
        if known is not None and known.archive is not None and known.archive.size <= SMALL:
            return await self._gatherer.ask((wanted.id.place, wanted.log), wanted)
        # A large one takes long, and no other should wait for it.
        return only(await self._together([wanted]))

    async def _together(self, wanted: Sequence[ToRestore]) -> list[Segment | TakhinError]:
        # The highest first: in Kafka's log each one has to stand right below what is on the disk.
        ordered = sorted(wanted, key=lambda each: each.id.base_offset, reverse=True)
        results = await self._restorer.restore_together(ordered)
        found = {each.id: result for each, result in zip(ordered, results, strict=True)}
        return [found[each.id] for each in wanted]
