"""Learn from the store what is archived, one manifest at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.brokers import learn_kafka
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import (
    FileKind,
    SegmentId,
    parse_adoption_key,
    parse_manifest_key,
    parse_object_key,
    replica_of,
)
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest


@dataclass(frozen=True, slots=True)
class Learner:
    """Takes manifests over into the catalog."""

    catalog: Catalog
    store: ReadableStore
    situation: Situation
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def learn(self, identity: SegmentId, *, held: bool = True) -> bool:
        """Take over one manifest; True if the catalog did not know it so. ``held``: this daemon relies on it."""
        try:
            manifest = await load_manifest(self.store, identity)
        except ObjectCorrupt as error:
            logs.logger().error("a manifest cannot be read", segment=identity.path, error=str(error))
            return False
        if manifest is None:
            return False
        if manifest.kafka:
            learn_kafka(self.situation)
        self.catalog.learn(identity.place.partition, manifest.incarnation)
        async with self.catalog.lock(identity):
            known = self.catalog.get(identity) or Segment(identity)
            held = held or (known.archive is not None and known.archive.held)
            archived = replace(manifest.in_short(), held=held)
            if known.archive is not None and replace(known.archive, proven=archived.proven) == archived:
                if known.damage == manifest.problem:
                    return False
                archived = known.archive
            self.catalog.put(replace(known, archive=archived, damage=manifest.problem))
            return True

    async def look_at(self, owned: OwnedPrefix, identity: SegmentId) -> None:
        """Learn what other replicas archived of a segment's partition; once for each `OwnedPrefix`. `StoreError`.

        To be called without the lock of a segment.
        """
        partition = identity.place.partition
        if not owned.is_shared:
            return
        async with self._looking:
            if partition in owned.looked_at:
                return
            own, logs_of = set[SegmentId](), set[SegmentId]()
            async for info in self.store.list(f"{identity.directory}/"):
                if (adoption := parse_adoption_key(info.key)) is not None and adoption[1] == owned.replica:
                    own.add(adoption[0])
                if (file := parse_object_key(info.key)) is not None and file[1] is FileKind.LOG:
                    logs_of.add(file[0])
                found = parse_manifest_key(info.key)
                if found not in logs_of and found is not None and replica_of(found.label) not in {"", owned.replica}:
                    # A log of another replica that is made of parts of others: its records are known already.
                    continue
                # Whoever works on a segment looks at its manifest, and must not be waited for.
                if found is None or self.catalog.is_held(found):
                    continue
                if found.base_offset <= self.catalog.withdrawn.get(found.place, -1):
                    # Else it would be forgotten and learned again by each cycle.
                    continue
                known = self.catalog.get(found)
                if known is None or known.archive is None:
                    await self.learn(found, held=found in own)
            owned.looked_at.add(partition)
