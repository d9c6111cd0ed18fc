"""Expire: remove from the archive what its retention no longer holds, the manifest first.

Without its manifest a segment is not archived; its objects are then orphans of ours, by the intents written down
before, so that an expire that is killed is finished by the removal of orphans.
"""

from __future__ import annotations

from takhin_tiered import logs
from takhin_tiered.engine.context import Engine, load_manifest, refresh, require_known, verb
from takhin_tiered.errors import SegmentRefused
from takhin_tiered.points import reached
from takhin_tiered.segments.model import Intent, State
from takhin_tiered.segments.names import SegmentId


async def expire(engine: Engine, identity: SegmentId) -> None:
    """Remove one archived segment for good. `SegmentRefused` where it has a local file: then it is in use."""
    with verb("expire", identity):
        async with engine.catalog.lock(identity):
            segment = require_known(await refresh(engine, identity), identity)
            if not engine.catalog.is_current(identity):
                raise SegmentRefused(
                    f"segment {identity.full_path} is of an earlier incarnation, and is not removed by itself",
                    segment=identity.path,
                )
            if segment.state is not State.ARCHIVED or segment.local:
                raise SegmentRefused(f"segment {identity.path} is on disk, and is not removed", segment=identity.path)
            manifest = await load_manifest(engine, identity)
            if manifest is not None:
                now = engine.clock()
                engine.catalog.intend(
                    Intent(file.key, identity, file.size, file.sha256, file.part_size, now)
                    for file in manifest.files.values()
                )
                await engine.catalog.flush()
                reached("expire.intended")
                await engine.store.delete([identity.manifest_key])
                reached("expire.manifest.deleted")
                keys = [file.key for file in manifest.files.values()]
                await engine.store.delete(keys)
                reached("expire.objects.deleted")
                engine.catalog.settle(keys)
            engine.catalog.remove(identity)
            await engine.catalog.flush()
            reached("expire.journaled")
            logs.logger().info("expired", bytes=segment.size)
