"""Superseded generations whose time is over leave the archive: `storage.tiered.archive.superseded.keep.hours`.

The objects go first, and the manifest that names them goes last. So a removal that was killed is found by its manifest,
and begins again. An expire goes the other way, and the removal of orphans finishes it by its intents. That does not
work here: the removal of orphans never touches what a superseded manifest names.

Such a generation may be the only copy of some records: whoever sets the key gives those up. The segment itself must
stay. So, with its lock held, right before the removal, the current manifest is read from the store, and each of its
objects is proven. No object goes that another manifest of the segment names, current or superseded. Where one of them
cannot be read, nothing goes.

Two times say when it was superseded: the store's time of its superseded manifest, and when the next generation was
archived. Both have to be long ago, so that neither a wrong clock nor a copied bucket makes the removal early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing, StoreError, TakhinError
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.generations import list_superseded, named_by, read_superseded
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest, prove_archived
from takhin_tiered.verbs import verb


@dataclass(frozen=True, slots=True)
class SupersededRemover:
    """Removes superseded generations."""

    catalog: Catalog
    store: ReadableStore
    clock: Clock
    limits: Limits
    stopping: asyncio.Event
    codecs: Codecs

    async def remove(self, owned: OwnedPrefix, identities: Iterable[SegmentId], keep: float) -> int:
        """Remove what was superseded more than ``keep`` seconds ago; returns how many generations. 0 seconds: for ever.

        A segment that cannot be judged keeps all of its generations, with a warning. A store that does not answer ends
        the removal; the next call begins again.
        """
        removed = 0
        for identity in identities if keep else ():
            await self.limits.turns.give_way(Turn.SCRUB)
            if self.stopping.is_set():
                break
            try:
                removed += await self._remove_of(owned, identity, keep)
            except TakhinError as error:
                logs.logger().warning(
                    "superseded generations are kept", segment=identity.path, code=error.code, error=str(error)
                )
                if isinstance(error, StoreError) and not isinstance(error, ObjectMissing | ObjectCorrupt):
                    break
        return removed

    async def remove_all(self, owned: OwnedPrefix, identity: SegmentId) -> None:
        """Remove all superseded generations of a segment that is archived no more, as compaction has merged it away."""
        async with self.catalog.lock(identity):
            if self.catalog.get(identity) is not None or await load_manifest(self.store, identity) is not None:
                # Where its manifest stands, other replicas rely on it, or it is under a prefix that is only read.
                return
            found = await list_superseded(self.store, identity)
            manifests = {n: await read_superseded(self.store, identity, n) for n in sorted(found)}
            for generation in [n for n, info in sorted(found.items()) if not info.read_only]:
                await self._remove_generation(owned, manifests.pop(generation), manifests.values())

    async def _remove_of(self, owned: OwnedPrefix, identity: SegmentId, keep: float) -> int:
        with verb("remove superseded", identity.path):
            async with self.catalog.lock(identity):
                segment = self.catalog.get(identity)
                if segment is None or not segment.in_archive:
                    return 0
                if not self.catalog.is_current(identity):
                    # Nothing of an earlier incarnation is removed automatically.
                    return 0
                now = self.clock.sure_now()
                found = await list_superseded(self.store, identity)
                old = [n for n, info in found.items() if now - info.modified > keep and not info.read_only]
                if not old:
                    return 0
                current = await prove_archived(self.store, identity, self.codecs.keys)
                manifests = {n: await read_superseded(self.store, identity, n) for n in found}
                manifests[current.generation] = current
                reached("superseded.proven")
                removed = 0
                for generation in sorted(old):
                    after = min((n for n in manifests if n > generation), default=None)
                    # No later generation was committed: this one was never replaced.
                    if after is None or generation >= current.generation or now - manifests[after].archived_at <= keep:
                        continue
                    await self._remove_generation(owned, manifests.pop(generation), manifests.values())
                    removed += 1
                return removed

    async def _remove_generation(self, owned: OwnedPrefix, old: Manifest, others: Iterable[Manifest]) -> None:
        size = await remove_generation(owned, old, others)
        self.catalog.superseded = max(0, self.catalog.superseded - 1)
        logs.logger().info("removed a superseded generation", generation=old.generation, bytes=size)


async def remove_generation(owned: OwnedPrefix, old: Manifest, others: Iterable[Manifest]) -> int:
    """Remove a superseded manifest, and what it names and ``others`` do not; returns how many bytes.

    With the segment's lock held; ``others`` are all manifests of the segment that stay.
    """
    named = named_by(others)
    files = [file for file in old.files.values() if not file.parts and file.key not in named]
    await owned.delete([file.key for file in files])
    reached("superseded.objects.deleted")
    await owned.delete([old.id.superseded_key(old.generation)])
    reached("superseded.manifest.deleted")
    return sum(file.size for file in files)
