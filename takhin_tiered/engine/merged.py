"""Remove from the archive what compaction has replaced or merged: it holds keys that were deleted on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.expire import Expirer
from takhin_tiered.engine.superseded import SupersededRemover
from takhin_tiered.errors import SegmentBusy, SegmentShared
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import generation_of
from takhin_tiered.vault.owned import OwnedPrefix


async def forget_compacted(owned: OwnedPrefix, old: Manifest, new: Manifest) -> None:
    """Remove the generation that compaction has replaced, but for objects that the new one names."""
    still = {file.key for file in new.files.values()}
    own = [key for key in old.objects if generation_of(key) == old.generation]
    keys = [key for key in own if key not in still]
    try:
        await owned.delete([*keys, old.id.superseded_key(old.generation)])
    except (SegmentShared, SegmentBusy) as error:
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
