"""Expire: remove from the archive what its retention no longer holds, the manifest first.

Intents for the objects are journaled first. Without its manifest a segment is not archived, and its objects are
orphans. So the removal of orphans finishes an expire that was killed. What a superseded generation names stays, if that
generation stays: see `takhin_tiered.vault.generations.leaving_with`.

Where replicas share the prefix, this one's adoption record goes before that. What others rely on stays then, and only
the catalog forgets it.

A segment that stands only under a read-only prefix is refused. Where such a prefix also has a copy of the segment, the
archive has that copy once the own one is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.read_only import REASON, ReadOnlyPrefixes
from takhin_tiered.engine.refresh import refresh, require_known
from takhin_tiered.engine.relying import Reliance
from takhin_tiered.engine.removing import remove_manifests, remove_objects
from takhin_tiered.errors import SegmentRefused, SegmentShared
from takhin_tiered.points import reached
from takhin_tiered.segments.model import State
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.splice import Part
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.generations import Leaving, leaving_with
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest
from takhin_tiered.verbs import verb


def _require_current(catalog: Catalog, identity: SegmentId) -> None:
    if not catalog.is_current(identity):
        raise SegmentRefused(
            f"segment {identity.full_path} is of an earlier incarnation, and is not removed by itself",
            segment=identity.path,
        )


@dataclass(frozen=True, slots=True)
class Expirer:
    """Removes segments from the archive."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    read_only: ReadOnlyPrefixes
    reliance: Reliance

    async def expire(self, owned: OwnedPrefix, identity: SegmentId) -> None:
        """Remove one archived segment for good.

        `SegmentRefused` where it has a local file, as it is in use then, and where it stands under a read-only prefix.
        """
        with verb("expire", identity.path):
            parts: frozenset[Part] = frozenset()
            async with self.catalog.lock(identity):
                segment = require_known(await refresh(self.catalog, self.data_dir, identity), identity)
                _require_current(self.catalog, identity)
                if segment.state is not State.ARCHIVED or segment.local:
                    raise SegmentRefused(
                        f"segment {identity.path} is on disk, and is not removed", segment=identity.path
                    )
                if await self.read_only.is_read_only(identity):
                    raise SegmentRefused(f"segment {identity.path} {REASON}", segment=identity.path)
                manifest = await load_manifest(self.store, identity)
                if manifest is not None:
                    leaving = await leaving_with(self.store, manifest)
                    parts = leaving.parts
                    if owned.is_shared and segment.archive is not None:
                        self.catalog.put(replace(segment, archive=replace(segment.archive, held=False)))
                    self.catalog.intend(leaving.intents(self.clock.stamp_now()))
                    await self.catalog.flush()
                    reached("expire.intended")
                    _require_current(self.catalog, identity)
                    await self._remove(owned, leaving)
                elif owned.is_shared:
                    await owned.release(identity)
                if (
                    await self.read_only.is_read_only(identity)
                    and (below := await load_manifest(self.store, identity)) is not None
                ):
                    self.catalog.put(
                        replace(segment, archive=below.in_short(), damage=below.problem, last_failure="", quarantine="")
                    )
                else:
                    self.catalog.remove(identity)
                await self.catalog.flush()
                reached("expire.journaled")
                logs.logger().info("expired", bytes=segment.size)
            for shared in {part.id for part in parts}:
                await self.reliance.drop(owned, shared)

    async def _remove(self, owned: OwnedPrefix, leaving: Leaving) -> None:
        identity = leaving.id
        if owned.is_shared:
            # First: else of two that expire it at once each would leave it to the other.
            await owned.release(identity)
            reached("expire.released")
        try:
            await remove_manifests(owned, self.catalog, leaving, gives_up_parts=False)
        except SegmentShared as error:
            logs.logger().info("other replicas still rely on it", key=error.key)
            # What only a superseded generation named has its intent until the removal of orphans has judged it.
            self.catalog.settle(leaving.manifest.objects)
            place = identity.place
            self.catalog.withdrawn[place] = max(identity.base_offset, self.catalog.withdrawn.get(place, -1))
            return
        await remove_objects(owned, leaving, gives_up_parts=False)
        self.catalog.settle(leaving.keys)
