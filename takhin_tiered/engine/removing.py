"""Remove a segment from the store: the manifests first, so that it is not archived any more, then what they named.

The intents of the objects are journaled before. So the removal of orphans finishes one that was killed.
"""

from __future__ import annotations

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.points import reached
from takhin_tiered.vault.generations import Leaving, named_by, superseded_of
from takhin_tiered.vault.owned import OwnedPrefix


async def remove_manifests(owned: OwnedPrefix, catalog: Catalog, leaving: Leaving, *, gives_up_parts: bool) -> None:
    """With the segment's lock held. `SegmentShared` or `SegmentBusy` where the manifest stays."""
    if leaving.superseded:
        # Before the current one: while that stands, the next expire finds what is left to be done.
        await owned.delete(leaving.superseded_keys, gives_up_parts=gives_up_parts)
        catalog.superseded = max(0, catalog.superseded - len(leaving.superseded))
        reached("expire.superseded.deleted")
    await owned.delete([leaving.id.manifest_key], gives_up_parts=gives_up_parts)
    reached("expire.manifest.deleted")


async def remove_objects(owned: OwnedPrefix, leaving: Leaving, *, gives_up_parts: bool) -> None:
    """After its manifests. `SegmentShared` or `SegmentBusy` where another replica is about to rely on them."""
    keys = leaving.keys
    if owned.is_shared:
        # Another replica may have put a generation in the place of the one that was read here.
        named = named_by([each async for each in superseded_of(owned.store, leaving.id)])
        keys = [key for key in keys if key not in named]
    await owned.delete(keys, gives_up_parts=gives_up_parts)
    reached("expire.objects.deleted")
