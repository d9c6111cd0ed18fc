"""Remove from the archive what compaction has replaced or merged: it holds keys that were deleted on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.expire import Expirer
from takhin_tiered.engine.superseded import SupersededRemover, remove_generation
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing, SegmentBusy, SegmentShared
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.vault.generations import superseded_of
from takhin_tiered.vault.owned import OwnedPrefix


async def forget_compacted(owned: OwnedPrefix, old: Manifest, new: Manifest) -> None:
    """Remove the generation that compaction has replaced, but for objects that another one names."""
    stays = [new]
    try:
        stays += [each async for each in superseded_of(owned.store, old.id) if each.generation != old.generation]
        await remove_generation(owned, old, stays)
    except (SegmentShared, SegmentBusy, ObjectCorrupt, ObjectMissing) as error:
        logs.logger().warning("what compaction replaced is kept", generation=old.generation, error=str(error))
        return
    logs.logger().info("removed what compaction replaced", generation=old.generation)


@dataclass(frozen=True, slots=True)
class MergedRemover:
    """Removes what compaction has merged into another segment."""

    catalog: Catalog
    expirer: Expirer
    superseded: SupersededRemover

    async def expire_merged(self, owned: OwnedPrefix, manifest: Manifest) -> None:
        """The cleaner merges segments into the lowest of them: remove those that it contains now."""
        for other in self.catalog.log_of(manifest.id.place.partition):
            if manifest.id.base_offset < other.id.base_offset <= manifest.end and other.local.log is None:
                logs.logger().info("a segment was merged into one below it by compaction", merged=other.id.path)
                await self.expirer.expire(owned, other.id)
                await self.superseded.remove_all(owned, other.id)
