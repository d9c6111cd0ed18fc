"""The generations of a segment that stand in the store, and what may leave with its manifest.

A later generation names the objects of an earlier one that did not change. So the same object may be named by several
manifests, and none of them tells alone what may be deleted: an object goes when no manifest that stays names it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import SegmentId, generation_of, parse_superseded_key
from takhin_tiered.segments.splice import Part
from takhin_tiered.store import ObjectInfo, ReadableStore
from takhin_tiered.vault.proof import read_manifest


async def list_superseded(store: ReadableStore, identity: SegmentId) -> dict[int, ObjectInfo]:
    """The segment's superseded generations, as the store lists their manifests now."""
    found: dict[int, ObjectInfo] = {}
    async for info in store.list(identity.superseded_prefix):
        parsed = parse_superseded_key(info.key)
        if parsed is not None and parsed[0] == identity:
            found[parsed[1]] = info
    return found


async def read_superseded(store: ReadableStore, identity: SegmentId, generation: int) -> Manifest:
    """A superseded manifest. `ObjectMissing`, `ObjectCorrupt` where it is none of this generation, `StoreError`."""
    key = identity.superseded_key(generation)
    manifest = await read_manifest(store, identity, key)
    if manifest.generation != generation or any(generation_of(f.key) > generation for f in manifest.files.values()):
        raise ObjectCorrupt(f"{key} is not the manifest of generation {generation}", segment=identity.path, key=key)
    return manifest


async def superseded_of(store: ReadableStore, identity: SegmentId) -> AsyncIterator[Manifest]:
    """The manifests of the generations that a later one superseded, as the store lists them now.

    `ObjectMissing` where one is gone meanwhile, `ObjectCorrupt` where it is none, and other `StoreError`.
    """
    for generation in sorted(await list_superseded(store, identity)):
        yield await read_superseded(store, identity, generation)


def named_by(manifests: Iterable[Manifest]) -> frozenset[str]:
    """The keys of all objects that these name."""
    return frozenset(key for manifest in manifests for key in manifest.objects)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A segment on its way out of the archive.

    ``superseded`` are generations that leave with its ``manifest``, and ``files`` the objects that no manifest names
    then.
    """

    manifest: Manifest
    superseded: tuple[Manifest, ...]
    files: tuple[ManifestFile, ...]

    @property
    def id(self) -> SegmentId:
        return self.manifest.id

    @property
    def keys(self) -> list[str]:
        return [file.key for file in self.files]

    @property
    def superseded_keys(self) -> list[str]:
        return [self.id.superseded_key(each.generation) for each in self.superseded]

    @property
    def parts(self) -> frozenset[Part]:
        """The parts of others' logs that nothing of this segment is made of then."""
        return frozenset(part for each in (self.manifest, *self.superseded) for part in each.log.parts)

    def intents(self, now: float) -> list[Intent]:
        """By which the removal of orphans finishes what is killed; ``now`` is in seconds since the epoch."""
        return [Intent(file.key, self.id, file.size, file.sha256, file.part_size, now) for file in self.files]


async def leaving_with(store: ReadableStore, manifest: Manifest) -> Leaving:
    """What may leave the archive with this manifest, the segment's current one.

    A superseded generation stays, with all that it names: it may be the only copy of its records. One without a log of
    its own has no such records. It names the log of the current generation, or is made of other segments' logs. It
    leaves too: else the archive would keep a log whose retention is over.

    Nothing may leave where a superseded manifest cannot be read, as what it names is not known: `ObjectCorrupt`,
    `ObjectMissing` and other `StoreError`.
    """
    superseded: list[Manifest] = []
    stays: list[Manifest] = []
    for generation, info in sorted((await list_superseded(store, manifest.id)).items()):
        each = await read_superseded(store, manifest.id, generation)
        leaves = not info.read_only and (bool(each.log.parts) or each.log.key == manifest.log.key)
        (superseded if leaves else stays).append(each)
    named = named_by(stays)
    files = {
        file.key: file
        for each in (*superseded, manifest)
        for file in each.files.values()
        if not file.parts and file.key not in named
    }
    return Leaving(manifest, tuple(superseded), tuple(files.values()))
