"""Manifests of archived segments, as readers need them: the last ones in memory, and each read once at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.errors import Damaged, ObjectCorrupt
from takhin_tiered.reader.flights import Flights
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.proof import load_manifest

_BYTES_EACH = 2048
_BYTES_PER_CHUNK = 160
_CHUNKS_PER_PART = 5

_Stamp = tuple[int, float] | None


@dataclass(slots=True)
class _Known:
    stamp: _Stamp
    manifest: Manifest
    weight: int


class Manifests:
    """``limit``: bytes of memory, roughly."""

    def __init__(self, catalog: Catalog, store: ReadableStore, limit: int) -> None:
        self._catalog, self._store, self._limit = catalog, store, limit
        self._known: OrderedDict[SegmentId, _Known] = OrderedDict()
        self._weight = 0
        self._loading: Flights[SegmentId, Manifest | None] = Flights()

    def find(self, identity: SegmentId) -> Manifest | None:
        """From memory, as long as the catalog knows of no later one."""
        known = self._known.get(identity)
        if known is None or known.stamp != self._stamp(identity):
            return None
        self._known.move_to_end(identity)
        return known.manifest

    async def get(self, identity: SegmentId, *, fresh: bool = False) -> Manifest | None:
        """None if the store has none. `Damaged` where it is no manifest, or of another topic, and `StoreError`."""
        if not fresh and (manifest := self.find(identity)) is not None:
            return manifest
        return await self._loading.share(identity, lambda: self._load(identity))

    def clear(self) -> None:
        """Read each of them again when it is needed."""
        self._known.clear()
        self._weight = 0

    async def _load(self, identity: SegmentId) -> Manifest | None:
        stamp = self._stamp(identity)
        try:
            manifest = await load_manifest(self._store, identity)
        except ObjectCorrupt as error:
            raise Damaged(error.message, segment=identity.path, key=identity.manifest_key, hint=error.hint) from error
        if manifest is None:
            self._forget(identity)
            return None
        self._require_topic(manifest)
        self._keep(identity, stamp, manifest)
        return manifest

    def _stamp(self, identity: SegmentId) -> _Stamp:
        """Changes whenever this process archives the segment anew, or learns that somebody did."""
        segment = self._catalog.get(identity)
        if segment is None or segment.archive is None:
            return None
        return segment.archive.generation, segment.archive.archived_at

    def _require_topic(self, manifest: Manifest) -> None:
        """A topic that was deleted and created again has the same paths and other records."""
        identity = manifest.id
        expected = self._catalog.lineage(identity.place.partition).get(identity.label).topic_id
        if manifest.topic_id and expected and manifest.topic_id != expected:
            raise Damaged(
                f"the manifest of segment {identity.full_path} is that of topic ID {manifest.topic_id}, "
                f"and the segment belongs to topic ID {expected}",
                segment=identity.path,
                key=identity.manifest_key,
                hint="Nothing was read. Somebody copied objects over: look for earlier versions of the manifest",
            )

    def _keep(self, identity: SegmentId, stamp: _Stamp, manifest: Manifest) -> None:
        self._forget(identity)
        chunks = _CHUNKS_PER_PART * len(manifest.log.parts)
        chunks += sum(len(file.chunks) for file in manifest.files.values() if file.chunks is not None)
        known = self._known[identity] = _Known(stamp, manifest, _BYTES_EACH + chunks * _BYTES_PER_CHUNK)
        self._weight += known.weight
        while self._weight > self._limit and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, identity: SegmentId) -> None:
        if (known := self._known.pop(identity, None)) is not None:
            self._weight -= known.weight
