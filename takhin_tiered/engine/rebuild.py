"""Rebuild and reconcile: compare the catalog with the bucket, and correct it, always toward more copies.

- A manifest that the catalog does not know: the segment is archived.
- The catalog says archived, and the manifest or the log's object is gone: a segment that is whole on disk is archived
  again; one that is not is quarantined, reported at every reconcile, and never dropped.
- Objects without a manifest are counted and reported. They are removed only if an intent says that they are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.brokers import learn_kafka
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import FileKind, SegmentId, parse_manifest_key, parse_object_key, parse_superseded_key
from takhin_tiered.segments.results import RebuildResult
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.proof import load_manifest

_AT_ONCE = 16


@dataclass(slots=True)
class Reconciliation:
    """``learned``: manifests taken over; ``lost``: archived, but not in the bucket; ``strays``: of no archive.

    ``superseded``: generations that are kept, and that a later one took the place of; ``rewritten``: their segments.
    """

    learned: int = 0
    lost: list[str] = field(default_factory=list)
    strays: int = 0
    superseded: int = 0
    rewritten: list[SegmentId] = field(default_factory=list)

    @property
    def result(self) -> RebuildResult:
        """In the stable form."""
        return RebuildResult(self.learned, tuple(self.lost), self.strays)


@dataclass(slots=True)
class _Found:
    """What a listing shows of one segment."""

    id: SegmentId
    manifest: bool = False
    superseded: int = 0
    objects: int = 0
    logs: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Compares the catalog with the bucket, and corrects it."""

    catalog: Catalog
    store: ReadableStore
    situation: Situation

    async def rebuild(self, *, full: bool, progress: Callable[[int, int], None] = lambda *_: None) -> Reconciliation:
        """Compare catalog and bucket. ``full`` reads every manifest, else those of segments not known as archived.

        ``progress`` is told how many segments were looked at, and their bytes. Raises `StoreError` where the store
        does not answer.
        """
        result = Reconciliation()
        seen: set[SegmentId] = set()
        total = 0
        waiting: set[asyncio.Task[bool]] = set()
        try:
            async for found in self._segments():
                seen.add(found.id)
                total += found.size
                progress(len(seen), total)
                result.superseded += found.superseded
                if found.superseded:
                    result.rewritten.append(found.id)
                if not found.manifest:
                    result.strays += found.objects
                known = self.catalog.get(found.id)
                if known is not None and known.archive is not None and not (found.manifest and found.logs):
                    await self._missing(found.id, result)
                elif found.manifest and (full or known is None or known.archive is None):
                    if len(waiting) >= _AT_ONCE:
                        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        result.learned += sum(task.result() for task in done)
                    waiting.add(asyncio.create_task(self._learn(found.id)))
            result.learned += sum([await task for task in waiting])
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        unseen = await in_thread(lambda: [s.id for s in self.catalog.archived() if s.id not in seen])
        for identity in unseen:
            await self._missing(identity, result)
        await self.catalog.flush()
        self.catalog.superseded = result.superseded
        _log(result)
        return result

    async def _segments(self) -> AsyncIterator[_Found]:
        """The bucket's listing, gathered by segment: keys come in order, so a segment's stand together."""
        current: _Found | None = None
        async for info in self.store.list():
            manifest_of = parse_manifest_key(info.key)
            object_of = parse_object_key(info.key) if manifest_of is None else None
            superseded = parse_superseded_key(info.key)
            identity = manifest_of or (object_of[0] if object_of else superseded[0] if superseded else None)
            if identity is None:
                continue
            if current is None or current.id != identity:
                if current is not None:
                    yield current
                current = _Found(identity)
            if superseded is not None:
                current.superseded += 1
            elif object_of is None:
                current.manifest = True
            else:
                current.objects += 1
                current.size += info.size
                current.logs += object_of[1] is FileKind.LOG
        if current is not None:
            yield current

    async def _learn(self, identity: SegmentId) -> bool:
        """Take over one manifest; True if the catalog did not know it so."""
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
            archived = manifest.in_short()
            if known.archive is not None and replace(known.archive, proven=archived.proven) == archived:
                if known.damage == manifest.problem:
                    return False
                archived = known.archive
            self.catalog.put(replace(known, archive=archived, damage=manifest.problem))
            return True

    async def _missing(self, identity: SegmentId, result: Reconciliation) -> None:
        """The listing lacks an archived segment. Ask the store for it before that is believed."""
        async with self.catalog.lock(identity):
            segment = self.catalog.get(identity)
            if segment is None or segment.archive is None:
                return
            try:
                manifest = await load_manifest(self.store, identity)
            except ObjectCorrupt:
                manifest = None
            if manifest is not None and await self.store.head(manifest.log.key) is not None:
                return
            if segment.local.log is not None:
                # Whole on disk: the next cycle archives it again.
                self.catalog.put(replace(segment, archive=None, quarantine=""))
                return
            what = "its manifest" if manifest is None else f"its object {manifest.log.key}"
            self.catalog.put(replace(segment, quarantine=f"{what} is gone from the archive, and it is not on disk"))
            result.lost.append(identity.full_path)


def _log(result: Reconciliation) -> None:
    log = logs.logger()
    for path in result.lost:
        log.error("a segment is neither in the archive nor on disk", segment=path)
    if result.strays:
        log.warning("objects that belong to no archived segment were left alone", count=result.strays)
    if result.learned:
        log.info("learned archived segments from the store", segments=result.learned)
