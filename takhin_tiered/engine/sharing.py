"""What a shared catalog gets of the local one, and what the local one is told of it: a part of the façade."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from takhin_tiered.catalog.record import unpack
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import Place, SegmentId
from takhin_tiered.segments.results import FleetStatus

if TYPE_CHECKING:
    from takhin_tiered.catalog.catalog import Catalog
    from takhin_tiered.config import Settings
    from takhin_tiered.engine.preparation import Preparation
    from takhin_tiered.engine.scanning import Scanner


NOT_YET = "nothing was written since the start: the table was not asked yet, or has not answered in full"


@dataclass(frozen=True, slots=True)
class PackedPlace:
    """The segments of one incarnation of a partition, by base offset, as they were at one moment."""

    place: Place
    incarnation: Incarnation
    rows: dict[int, bytes]

    def segment(self, base_offset: int) -> Segment:
        return unpack(self.place.segment(base_offset), self.rows[base_offset])


class SharedCatalog(Protocol):
    """What the daemon needs of it."""

    def status(self) -> FleetStatus: ...

    def cycle_ended(self) -> None: ...

    async def begin(self) -> None:
        """Before the first cycle: take from the table what only it knows. It waits for a while at most."""
        ...

    async def run(self) -> None:
        """Follow the cycles until cancelled."""
        ...


class Shares:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        settings: Settings
        _catalog: Catalog
        _preparation: Preparation
        _scanner: Scanner

    fleet: SharedCatalog | None = None
    """Where this node's catalog is shared. Whoever opens it sets this."""

    @property
    def segment_count(self) -> int:
        """How many segments are known."""
        return len(self._catalog)

    def places(self) -> list[Place]:
        """Where there are segments, in order."""
        return self._catalog.places()

    def packed(self, place: Place) -> PackedPlace:
        """The segments there now, which may be none any more."""
        return PackedPlace(place, self.incarnation(place), self._catalog.packed(place))

    def incarnation(self, place: Place) -> Incarnation:
        """The one there. Its name is no other's: a topic ID that is the label of another one is left out."""
        lineage = self._catalog.lineage(place.partition)
        found = lineage.get(place.label)
        is_taken = any(each.label == found.name != found.label for each in lineage.incarnations)
        return replace(found, topic_id="") if is_taken else found

    async def know_all(self) -> None:
        """Return once the catalog knows what is on the disk and, unless it was closed in order, in the archive."""
        if not self._scanner.done.is_set():
            await self._scanner.scan()
        if self.settings.has_store and not self._preparation.is_reconciled:
            await self._preparation.know_archive()

    async def recall_lease(self, identity: SegmentId, until: float) -> bool:
        """Keep a copy on the disk for the rest of a lease that was known elsewhere; False if there is none to keep."""
        async with self._catalog.lock(identity):
            segment = self._catalog.get(identity)
            if segment is None or segment.local.log is None or not segment.in_archive or segment.lease_until:
                return False
            self._catalog.put(replace(segment, lease_until=until))
            await self._catalog.flush()
        return True

    def notes(self) -> dict[str, str]:
        """What does not stand against readiness, and is told with it: a text for each, empty if all is well."""
        if self.fleet is None:
            return {}
        found = self.fleet.status()
        # A table that hangs takes a while to be found out: until then nothing was written, and that is no "ok".
        return {"fleet": found.problem or ("" if found.synced_at else NOT_YET)}

    def _fleet_status(self) -> FleetStatus | None:
        if self.fleet is not None:
            return self.fleet.status()
        settings = self.settings
        if settings.fleet_mode == "local":
            return None
        return FleetStatus(settings.fleet_mode, settings.fleet_table, settings.fleet_node)
