"""Rebuild and reconcile: compare the catalog with the bucket, and correct it, always toward more copies.

- A manifest that the catalog does not know: the segment is archived.
- The catalog says archived, and the manifest or the log's object is gone: a segment that is whole on disk is archived
  again; one that is not is quarantined, reported at every reconcile, and never dropped.
- Objects without a manifest are counted and reported. They are removed only if an intent says that they are ours.

Where replicas share the prefix, the adoption records tell which segments this daemon relies on. What it does not rely
on may be gone at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.learning import Learner
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import (
    FileKind,
    SegmentId,
    parse_adoption_key,
    parse_manifest_key,
    parse_mark_key,
    parse_object_key,
    parse_superseded_key,
    parts_record,
    replica_of,
)
from takhin_tiered.segments.results import RebuildResult
from takhin_tiered.segments.splice import Part
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.proof import load_manifest, log_of

_AT_ONCE = 16


@dataclass(slots=True)
class Reconciliation:
    """``learned``: manifests taken over; ``lost``: archived, but not in the bucket; ``strays``: of no archive.

    ``superseded``: generations that are kept, and that a later one took the place of; ``rewritten``: their segments.

    Where replicas share the prefix: ``unrecorded`` are segments that this daemon relies on without an adoption record,
    and ``left`` those with records or marks of it that may be of no use any more. ``parts`` are those with a record
    which says that logs of this replica have parts of them; ``spliced`` are those parts, as their manifests name them.
    """

    learned: int = 0
    lost: list[str] = field(default_factory=list)
    strays: int = 0
    superseded: int = 0
    rewritten: list[SegmentId] = field(default_factory=list)
    unrecorded: list[SegmentId] = field(default_factory=list)
    left: list[SegmentId] = field(default_factory=list)
    parts: list[SegmentId] = field(default_factory=list)
    spliced: list[Part] = field(default_factory=list)

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
    is_adopted: bool = False
    is_marked: bool = False
    has_parts: bool = False


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Compares the catalog with the bucket, and corrects it.

    ``replica`` tells the name of this one of several replicas that share the prefix; None for a single owner.
    """

    catalog: Catalog
    store: ReadableStore
    learner: Learner
    replica: Callable[[], Awaitable[str]] | None = None

    async def rebuild(self, *, full: bool, progress: Callable[[int, int], None] = lambda *_: None) -> Reconciliation:
        """Compare catalog and bucket. ``full`` reads every manifest, else those of segments not known as archived.

        ``progress`` is told how many segments were looked at, and their bytes. Raises `StoreError` where the store
        does not answer.
        """
        result = Reconciliation()
        seen: set[SegmentId] = set()
        total = 0
        replica = await self.replica() if self.replica is not None else ""
        waiting: set[asyncio.Task[bool]] = set()
        try:
            async for found in self._segments(replica):
                seen.add(found.id)
                total += found.size
                progress(len(seen), total)
                result.superseded += found.superseded
                if found.superseded:
                    result.rewritten.append(found.id)
                if not found.manifest:
                    result.strays += found.objects
                known = self.catalog.get(found.id)
                held = found.is_adopted or not replica
                is_held = known is not None and known.archive is not None and known.archive.held
                if found.has_parts:
                    result.parts.append(found.id)
                if found.is_marked or (found.is_adopted and not found.manifest):
                    result.left.append(found.id)
                if is_held and found.manifest and not held:
                    result.unrecorded.append(found.id)
                if known is not None and known.archive is not None and not (found.manifest and found.logs):
                    await self._begin(waiting, self._missing(found.id, result), result)
                elif found.manifest and (full or known is None or known.archive is None or (held and not is_held)):
                    await self._begin(waiting, self.learner.learn(found.id, held=held), result)
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

    async def _begin(
        self, waiting: set[asyncio.Task[bool]], look: Coroutine[None, None, bool], result: Reconciliation
    ) -> None:
        """Look at one segment beside others, once there is room for it."""
        if len(waiting) >= _AT_ONCE:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting -= done
            result.learned += sum(task.result() for task in done)
        waiting.add(asyncio.create_task(look))

    async def _segments(self, replica: str) -> AsyncIterator[_Found]:
        """The bucket's listing, gathered by segment: keys come in order, so a segment's stand together.

        Segments of another replica that have no log of their own are left out: their records are others'.
        """
        async for found in self._listed(replica):
            if found.logs or replica_of(found.id.label) in {"", self.catalog.replica}:
                yield found

    async def _listed(self, replica: str) -> AsyncIterator[_Found]:
        current: _Found | None = None
        async for info in self.store.list():
            manifest_of = parse_manifest_key(info.key)
            object_of = parse_object_key(info.key) if manifest_of is None else None
            superseded = parse_superseded_key(info.key)
            identity = manifest_of or (object_of[0] if object_of else superseded[0] if superseded else None)
            record = _record_of(info.key) if identity is None and replica and not info.read_only else None
            if identity is None and record is not None and record[1] in {replica, parts_record(replica)}:
                identity = record[0]
            if identity is None:
                continue
            if current is None or current.id != identity:
                if current is not None:
                    yield current
                current = _Found(identity)
            if record is not None:
                current.is_adopted |= not record[2] and record[1] == replica
                current.has_parts |= record[1] != replica
                current.is_marked |= record[2]
            elif superseded is not None:
                current.superseded += 1
            elif object_of is None:
                current.manifest = True
            else:
                current.objects += 1
                current.size += info.size
                current.logs += object_of[1] is FileKind.LOG
        if current is not None:
            yield current

    async def _missing(self, identity: SegmentId, result: Reconciliation) -> bool:
        """The listing lacks an archived segment, or its log. Ask the store for it before that is believed.

        False: nothing new was learned.
        """
        async with self.catalog.lock(identity):
            segment = self.catalog.get(identity)
            if segment is None or segment.archive is None:
                return False
            try:
                manifest = await load_manifest(self.store, identity)
            except ObjectCorrupt:
                manifest = None
            if manifest is not None and await self._has_log(manifest):
                result.spliced += manifest.log.parts
                return False
            if not segment.archive.held and segment.local.log is None:
                # Another replica's, which has removed it.
                self.catalog.remove(identity)
                return False
            if segment.local.log is not None:
                # Whole on disk: the next cycle archives it again.
                self.catalog.put(replace(segment, archive=None, quarantine=""))
                return False
            what = "its manifest" if manifest is None else f"its object {manifest.log.key}"
            self.catalog.put(replace(segment, quarantine=f"{what} is gone from the archive, and it is not on disk"))
            result.lost.append(identity.full_path)
            return False

    async def _has_log(self, manifest: Manifest) -> bool:
        """Whether the bytes of its log stand there, as far as the names of objects tell."""
        try:
            keys = [(await log_of(self.store, part)).log.key for part in manifest.log.parts] or [manifest.log.key]
        except (ObjectMissing, ObjectCorrupt):
            return False
        return all([await self.store.head(key) is not None for key in keys])


def _record_of(key: str) -> tuple[SegmentId, str, bool] | None:
    """The segment and the replica whose adoption record or mark this key holds, and whether it is a mark."""
    if (adoption := parse_adoption_key(key)) is not None:
        return (*adoption, False)
    mark = parse_mark_key(key)
    return None if mark is None else (mark[0], mark[1], True)


def _log(result: Reconciliation) -> None:
    log = logs.logger()
    for path in result.lost:
        log.error("a segment is neither in the archive nor on disk", segment=path)
    if result.strays:
        log.warning("objects that belong to no archived segment were left alone", count=result.strays)
    if result.learned:
        log.info("learned archived segments from the store", segments=result.learned)
