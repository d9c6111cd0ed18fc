"""What logs that are made of parts of others rely on: nobody removes the segments that their parts are of.

Of such a segment this replica has an adoption record for parts, beside the one for the segment as a whole, if it has
that too: each of the two comes and goes by itself. It stands before the parts are proven, and until no log of this
replica is archived, or is just being archived, that has any of the segment's offsets.

Within the process both go one after the other: a record that is about to be removed is not relied on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.removing import remove_manifests, remove_objects
from takhin_tiered.errors import SegmentBusy, SegmentShared
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import MAX_OFFSET, Place, SegmentId, parts_record, replica_of
from takhin_tiered.segments.splice import Part
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.generations import leaving_with
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest


@dataclass(frozen=True, slots=True)
class Reliance:
    """Of one process on segments of others."""

    catalog: Catalog
    store: ReadableStore
    clock: Clock
    _locks: WeakValueDictionary[SegmentId, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    # Segments that parts are just being taken of.
    _in_use: Counter[SegmentId] = field(default_factory=Counter)

    @asynccontextmanager
    async def using(self) -> AsyncIterator[Uses]:
        """Within, what `Uses.hold` was called for is not given up: the catalog knows of its use at the end."""
        uses = Uses(self)
        try:
            yield uses
        finally:
            for identity in uses.held.elements():
                self._in_use[identity] -= 1
                if not self._in_use[identity]:
                    del self._in_use[identity]

    async def hold(self, owned: OwnedPrefix, parts: Iterable[Part]) -> None:
        """Before these are proven, for a log that the catalog knows. `SegmentBusy` where one is just being removed."""
        for identity in {part.id for part in parts}:
            async with self._lock(identity):
                await owned.hold_parts(identity)

    async def hold_archived(self, owned: OwnedPrefix, identity: SegmentId) -> None:
        """Before the archived copy is proven, so that the local one may go: nobody removes what it consists of.

        To be called with the segment's lock. `SegmentBusy` where another replica just does so, and `StoreError`.
        """
        await owned.hold(identity)
        if replica_of(identity.label) and (manifest := await load_manifest(self.store, identity)) is not None:
            await self.hold(owned, manifest.log.parts)

    async def drop(self, owned: OwnedPrefix, identity: SegmentId) -> None:
        """Give up a segment that no log has parts of any more; remove it, if nobody else relies on it.

        To be called without the lock of a segment. `StoreError`.
        """
        async with self.catalog.lock(identity), self._lock(identity):
            known = self.catalog.get(identity)
            if self._in_use[identity] or (
                known and known.archive and self._is_needed(identity, known.archive.last_offset)
            ):
                return
            manifest = await load_manifest(self.store, identity)
            if manifest is not None and self._is_needed(identity, manifest.end):
                return
            mine = {parts_record(owned.replica)}
            if manifest is not None and await owned.adopters(identity) <= mine:
                # The record goes last: a removal that was killed is found by it.
                await self._remove(owned, manifest)
                manifest = None
            await owned.release_parts(identity)
            if manifest is not None and not await owned.adopters(identity):
                # The other one gave it up in the same moment.
                await self._remove(owned, manifest)
        reached("parts.dropped")

    def _is_needed(self, identity: SegmentId, last: int) -> bool:
        """Whether a log of this replica may be made of parts of this one: whether it has any of its offsets."""
        partition, last = identity.place.partition, MAX_OFFSET if last < identity.base_offset else last
        for incarnation in self.catalog.lineage(partition).incarnations:
            if replica_of(incarnation.label) != self.catalog.replica:
                continue
            place = Place(*partition, incarnation.label)
            for segment in self.catalog.archived_within(place, identity.base_offset, last):
                end = segment.archive.last_offset if segment.archive is not None else -1
                if end < segment.id.base_offset or end >= identity.base_offset:
                    return True
        return False

    async def _remove(self, owned: OwnedPrefix, manifest: Manifest) -> None:
        """Its retention is over for all replicas. The manifest goes first; see `takhin_tiered.engine.expire`."""
        identity = manifest.id
        leaving = await leaving_with(self.store, manifest)
        self.catalog.intend(leaving.intents(self.clock.stamp_now()))
        await self.catalog.flush()
        try:
            await remove_manifests(owned, self.catalog, leaving, gives_up_parts=True)
            await remove_objects(owned, leaving, gives_up_parts=True)
        except (SegmentShared, SegmentBusy) as error:
            logs.logger().info("another replica relies on it", segment=identity.full_path, key=error.key)
            self.catalog.settle(manifest.objects)
        else:
            self.catalog.settle(leaving.keys)
            if (known := self.catalog.get(identity)) is not None and not known.local:
                self.catalog.remove(identity)
            logs.logger().info("removed what no replica relies on any more", segment=identity.full_path)
        await self.catalog.flush()

    def _lock(self, identity: SegmentId) -> asyncio.Lock:
        lock = self._locks.get(identity)
        if lock is None:
            lock = self._locks[identity] = asyncio.Lock()
        return lock


@dataclass(slots=True)
class Uses:
    """Of one archive."""

    reliance: Reliance
    held: Counter[SegmentId] = field(default_factory=Counter)

    async def hold(self, owned: OwnedPrefix, parts: Iterable[Part]) -> None:
        """Before these are proven. `SegmentBusy` where one is just being removed."""
        for identity in {part.id for part in parts}:
            async with self.reliance._lock(identity):  # noqa: SLF001
                await owned.hold_parts(identity)
                self.held[identity] += 1
                self.reliance._in_use[identity] += 1  # noqa: SLF001
            reached("parts.held")
