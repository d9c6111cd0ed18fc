"""Orphans: objects that a broken upload of ours left, found by the intents that were written down before.

What nobody intended is somebody else's, or an archive that lost its manifest, and is never removed. Nor is what a
manifest of the segment names, the current one or that of a superseded generation.

An object of a lower generation than the current one is left where another replica was faster: it stored other bytes
under the next generation's keys, and committed them. No manifest can come to name it: whoever commits one from here on
uses keys of the current generation or of a later one, and what the current manifest names.
"""

from __future__ import annotations

from collections.abc import Callable

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.checksums import Checksum
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing, SegmentBusy, SegmentShared, StoreError
from takhin_tiered.points import reached
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import generation_of, is_ours
from takhin_tiered.vault.generations import named_by, superseded_of
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest, prove

_WAIT_FOR_ARCHIVE = 24 * 3600.0


async def remove_orphans(owned: OwnedPrefix, catalog: Catalog, now: Callable[[], float]) -> int:
    """Settle every intent that no upload is working on; returns how many objects were removed. `StoreError`.

    ``now`` tells a time that is never later than it is, in seconds since the epoch.
    """
    removed = 0
    for intent in catalog.intents():
        async with catalog.lock(intent.id):
            if catalog.intent(intent.key) == intent and not _waits(catalog, intent, now()):
                try:
                    removed += await settle_held(owned, catalog, intent)
                except (ObjectCorrupt, ObjectMissing) as error:
                    logs.logger().warning("what a broken upload left is kept", key=intent.key, error=str(error))
    await catalog.flush()
    if removed:
        logs.logger().info("removed objects of uploads that broke off", count=removed)
    return removed


def _waits(catalog: Catalog, intent: Intent, now: float) -> bool:
    """The segment still stands on disk: the next archive takes the object for its own, and uploads less."""
    segment = catalog.get(intent.id)
    awaited = segment is not None and segment.local.log is not None and segment.archive is None
    return awaited and now - intent.since < _WAIT_FOR_ARCHIVE


async def settle_held(owned: OwnedPrefix, catalog: Catalog, intent: Intent) -> int:
    """With the segment's lock held: remove the object unless a manifest names it; 1 if it was removed.

    `ObjectCorrupt` where a manifest cannot be read, which may name it, and other `StoreError`.
    """
    removed = 0
    if not await _is_kept(owned, intent) and await _is_ours(owned, intent):
        reached("orphan.before.delete")
        try:
            await owned.delete([intent.key])
        except (SegmentShared, SegmentBusy):
            # Another replica may be about to commit a manifest that names it.
            return 0
        reached("orphan.deleted")
        removed = 1
    catalog.settle([intent.key])
    return removed


async def _is_kept(owned: OwnedPrefix, intent: Intent) -> bool:
    manifest = await load_manifest(owned.store, intent.id)
    if manifest is not None:
        if intent.key in manifest.objects:
            return True
        if intent.is_earlier and generation_of(intent.key) < manifest.generation:
            # It may be of a generation that was superseded before those had manifests of their own.
            return True
    return intent.key in named_by([each async for each in superseded_of(owned.store, intent.id)])


async def _is_ours(owned: OwnedPrefix, intent: Intent) -> bool:
    """Whether the object has the very bytes that were to be written; a damaged one was named by our own manifest."""
    if not intent.sha256:
        return True
    checksum = Checksum(intent.sha256, intent.part_size)
    try:
        await prove(owned.store, intent.key, intent.size, checksum, segment=intent.id.path)
    except (ObjectMissing, ObjectCorrupt):
        return False
    return True


async def remove_stale_uploads(owned: OwnedPrefix, catalog: Catalog, older_than: float) -> None:
    """Abort unfinished uploads, which cost money. Best effort: not every server lists them."""
    try:
        begun = [intent.key for intent in catalog.intents()]
        removed = await owned.remove_stale_uploads(older_than, is_ours, begun)
    except StoreError as error:
        logs.logger().warning("uploads that broke off were not looked for", error=str(error))
        return
    if removed:
        logs.logger().info("removed uploads that were never finished", count=removed)
