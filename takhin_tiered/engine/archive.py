"""Archive: the files of one segment go to the store, the manifest last.

The bytes are those of files held open, whose size, modification time and inode must be the same before
and after, under the same names. An object is never overwritten: where other bytes stand in its place,
the segment gets the next generation.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from takhin_tiered import logs
from takhin_tiered.codec.checksums import Checksum, Source, bytes_source, checksum_of
from takhin_tiered.disk.files import OpenFile
from takhin_tiered.engine.context import (
    Engine,
    disk_errors,
    load_manifest,
    open_partition,
    refresh,
    require_known,
)
from takhin_tiered.engine.evict import evict_held
from takhin_tiered.engine.points import reached
from takhin_tiered.engine.prove import prove, prove_file
from takhin_tiered.errors import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    SegmentActive,
    SegmentChanged,
    SegmentConflict,
    SegmentRefused,
    StoreError,
    TakhinError,
)
from takhin_tiered.formats.kafka import summarize
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.model import Archive, LocalFiles, Segment, State
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.threads import in_thread

MULTIPART_THRESHOLD = 64 << 20
PART_SIZE = 16 << 20
_MAX_PARTS = 10_000
_INDEX_READ_LIMIT = 64 << 20
_SETTLE_SECONDS = 1.0


async def archive(engine: Engine, identity: SegmentId, *, evict: bool, expected: LocalFiles | None = None) -> Segment:
    """Bring a segment into the store, and with ``evict`` off the disk. Success if it was there already.

    ``expected`` is how a plan saw its files: if they stand otherwise now, they are left alone.
    Raises `SegmentNotFound`, `SegmentActive`, `SegmentChanged`, `SegmentConflict`, `SegmentRefused`,
    `StoreError` or `DiskError`; the local files are whole then, and nothing half done counts as archived.
    """
    with logs.operation("archive", identity.path):
        async with engine.catalog.lock(identity):
            before = expected or _last_seen(engine, identity)
            segment = require_known(await refresh(engine, identity), identity)
            if segment.state is State.ARCHIVED:
                return segment
            _require_movable(engine, segment)
            if before is not None and before != segment.local:
                segment = await _require_settled(engine, segment, by_plan=expected is not None)
            fresh = not segment.is_proven
            if fresh:
                with engine.metrics.archive_seconds.time():
                    segment = await _copy(engine, segment)
                engine.metrics.archives.labels("success").inc()
                logs.logger().info("archived", bytes=segment.local.size)
            return await evict_held(engine, segment, proven_now=fresh) if evict else segment


def _require_movable(engine: Engine, segment: Segment) -> None:
    path = segment.id.path
    if not engine.policy.enabled:
        raise SegmentRefused(
            "tiered storage is not enabled, so nothing is moved",
            segment=path,
            hint="Set storage.tiered.enabled: true",
        )
    if not engine.policy.covers(segment.id.topic):
        raise SegmentRefused(
            f"the configuration leaves topic {segment.id.topic} out",
            segment=path,
            hint="See storage.tiered.topics.include and .exclude",
        )
    if segment.active:
        raise SegmentActive(
            f"segment {path} is the active one of its partition: the broker still writes to it", segment=path
        )


def _last_seen(engine: Engine, identity: SegmentId) -> LocalFiles | None:
    known = engine.catalog.get(identity)
    return known.local if known and known.local else None


async def _require_settled(engine: Engine, segment: Segment, *, by_plan: bool) -> Segment:
    """A segment that changed since it was last seen waits for the next cycle; by hand, it is looked at twice."""
    if not by_plan:
        await asyncio.sleep(_SETTLE_SECONDS)
        again = require_known(await refresh(engine, segment.id), segment.id)
        if again.local == segment.local and not again.active:
            return again
    raise _changed(segment.id, "since the last scan")


@dataclass(frozen=True, slots=True)
class _Opened:
    """The files of a segment, held open, as they stood when they were opened."""

    identity: SegmentId
    files: dict[FileKind, OpenFile]
    stats: LocalFiles


def _open_files(engine: Engine, identity: SegmentId, stack: ExitStack) -> _Opened:
    files: dict[FileKind, OpenFile] = {}
    stats = LocalFiles()
    with open_partition(engine, identity) as partition:
        for kind in FileKind:
            with suppress(FileNotFoundError):
                files[kind] = stack.enter_context(partition.open(identity.file(kind)))
                stats = stats.with_file(kind, files[kind].stat())
    return _Opened(identity, files, stats)


async def _copy(engine: Engine, segment: Segment) -> Segment:
    identity = segment.id
    existing = await load_manifest(engine, identity) if segment.archive else None
    generation = existing.generation if existing else 1
    with ExitStack() as stack:
        opened = await in_thread(_open_files, engine, identity, stack)
        if opened.stats != segment.local or FileKind.LOG not in opened.files:
            raise _changed(identity, "before it was read")
        for _ in range(100):
            attempt = _Attempt(engine, opened, existing, generation)
            try:
                manifest = await attempt.run()
                break
            except _OtherBytes:
                await attempt.undo()
                # Either another generation is committed that the catalog does not know, or an upload broke off.
                existing = await load_manifest(engine, identity)
                generation = max(generation, existing.generation if existing else 0) + 1
            except BaseException:
                await asyncio.shield(attempt.undo())
                raise
        else:
            raise SegmentConflict(f"a hundred generations of {identity.path} are taken", segment=identity.path)
        proven = opened.stats
    archived = Archive(manifest.generation, manifest.size, manifest.log.mtime_ns, manifest.archived_at, proven)
    segment = replace(segment, archive=archived, problem="")
    engine.catalog.put(segment)
    reached("archive.committed")
    await engine.catalog.flush()
    reached("archive.journaled")
    if existing is not None and manifest is not existing:
        await _remove_superseded(engine, existing, manifest)
    return segment


class _OtherBytes(Exception):
    """An object that was to be written exists, with other bytes."""


class _Attempt:
    """One try to bring all files into the store, under one generation."""

    def __init__(self, engine: Engine, opened: _Opened, existing: Manifest | None, generation: int) -> None:
        self._engine, self._opened, self._existing, self._generation = engine, opened, existing, generation
        self._identity = opened.identity
        self._made: list[str] = []
        self._committing = False
        self._read_error: TakhinError | None = None

    async def run(self) -> Manifest:
        entries: dict[FileKind, ManifestFile] = {}
        for kind, file in self._opened.files.items():
            entries[kind] = await self._file(kind, file)
            reached(f"archive.{kind}.stored")
        if self._existing is not None and entries[FileKind.LOG] == self._existing.log:
            # An index that is gone from the disk is still that of this log: the archive keeps it.
            entries = {**self._existing.files, **entries}
        if self._existing is not None and entries == self._existing.files:
            await self._require_unchanged()
            return self._existing
        manifest = await self._describe(entries)
        await self._require_unchanged()
        reached("archive.before.manifest")
        await self._commit(manifest)
        return manifest

    async def undo(self) -> None:
        """Take away what this attempt stored. What cannot be reached now is found as an orphan later.

        Not once the manifest was sent: it may have been stored even where the answer was an error.
        """
        with suppress(StoreError):
            if self._made and not self._committing:
                await self._engine.store.delete(self._made)

    async def _file(self, kind: FileKind, file: OpenFile) -> ManifestFile:
        stat = self._opened.stats.get(kind)
        assert stat is not None
        size, path = stat.size, self._identity.path
        archived = self._existing.files.get(kind) if self._existing else None
        part_size = archived.part_size if archived else part_size_for(size)
        checksum = await in_thread(self._checksum, file, size, part_size)
        if archived and (archived.size, archived.sha256) == (size, checksum.sha256):
            try:
                await prove_file(self._engine, self._identity, archived)
                return archived
            except (ObjectMissing, ObjectCorrupt) as error:
                logs.logger().error(
                    "the archived object is lost, and is stored again", key=archived.key, error=str(error)
                )
                if isinstance(error, ObjectCorrupt):
                    raise _OtherBytes from error
        elif archived and self._generation == self._existing_generation:
            raise _OtherBytes
        key = self._identity.key(kind, self._generation)
        try:
            said = await self._engine.store.put(key, self._source(file), size=size, checksum=checksum, if_absent=True)
            self._made.append(key)
            self._engine.metrics.uploaded.inc(size)
        except ObjectExists:
            said = None
        except ObjectCorrupt as error:
            # The store got other bytes than were read before: the file changed, or the network lies.
            await self._require_unchanged()
            raise ObjectCorrupt(error.message, segment=path, key=key, hint=error.hint) from error
        except StoreError:
            if self._read_error is not None:
                raise self._read_error from None
            raise
        try:
            await prove(self._engine.store, key, size, checksum, said=said, segment=path)
        except ObjectCorrupt as error:
            if said is None:
                raise _OtherBytes from error
            raise
        return ManifestFile(key, size, checksum.sha256, part_size, stat.mtime_ns, file.mode)

    def _source(self, file: OpenFile) -> Source:
        """The file's bytes; why they cannot be read is kept, as an HTTP library reports only a broken connection."""

        def read(offset: int, length: int) -> bytes:
            try:
                with disk_errors(self._identity):
                    data = file.read(offset, length)
                if length and not data:
                    raise _changed(self._identity, "while it was uploaded: it became shorter")
            except TakhinError as error:
                self._read_error = error
                raise
            return data

        return read

    @property
    def _existing_generation(self) -> int:
        return self._existing.generation if self._existing else 0

    def _checksum(self, file: OpenFile, size: int, part_size: int) -> Checksum:
        with disk_errors(self._identity):
            return checksum_of(file.read, size, part_size)

    async def _describe(self, entries: dict[FileKind, ManifestFile]) -> Manifest:
        files = self._opened.files

        def look() -> Manifest:
            small = {
                kind: file.read_all() if file.stat().size <= _INDEX_READ_LIMIT else b""
                for kind, file in files.items()
                if kind is not FileKind.LOG
            }
            with disk_errors(self._identity):
                summary = summarize(
                    files[FileKind.LOG].read,
                    entries[FileKind.LOG].size,
                    small.get(FileKind.INDEX, b""),
                    small.get(FileKind.TIMEINDEX, b""),
                )
            return Manifest(
                id=self._identity,
                files=entries,
                generation=self._generation,
                format=summary.format,
                first_offset=summary.first_offset,
                last_offset=summary.last_offset,
                first_timestamp=summary.first_timestamp,
                last_timestamp=summary.last_timestamp,
                archived_at=self._engine.clock(),
            )

        return await in_thread(look)

    async def _commit(self, manifest: Manifest) -> None:
        """Write the manifest: the first one only where there is none, a later one over the one before."""
        data = manifest.to_json()
        key, path = self._identity.manifest_key, self._identity.path
        checksum = checksum_of(bytes_source(data), len(data))
        self._committing = True
        try:
            said = await self._engine.store.put(
                key, bytes_source(data), size=len(data), checksum=checksum, if_absent=self._existing is None
            )
        except ObjectExists:
            said = None
        try:
            await prove(self._engine.store, key, len(data), checksum, said=said, segment=path)
        except ObjectCorrupt as error:
            if said is None:
                raise _OtherBytes from error
            raise

    async def _require_unchanged(self) -> None:
        def look() -> bool:
            with open_partition(self._engine, self._identity) as partition:
                named = [partition.stat(self._identity.file(kind)) for kind in FileKind]
            held = [file.stat() for file in self._opened.files.values()]
            before = [self._opened.stats.get(kind) for kind in FileKind]
            return named == before and held == [stat for stat in before if stat is not None]

        if not await in_thread(look):
            raise _changed(self._identity, "while it was uploaded")


def _changed(identity: SegmentId, when: str) -> SegmentChanged:
    return SegmentChanged(
        f"the files of segment {identity.path} changed {when}",
        segment=identity.path,
        hint="The local files stay, and nothing was archived; the next cycle tries again",
    )


async def _remove_superseded(engine: Engine, old: Manifest, new: Manifest) -> None:
    """Once a later generation is committed, the objects that only the former one named are of no use."""
    still = {file.key for file in new.files.values()}
    keys = [file.key for file in old.files.values() if file.key not in still]
    try:
        await engine.store.delete(keys)
    except StoreError as error:
        logs.logger().warning("a superseded generation was not removed", keys=keys, error=str(error))


def part_size_for(size: int) -> int:
    """0 for one piece; else bytes in each part, so that there are at most 10,000 of them."""
    if size <= MULTIPART_THRESHOLD:
        return 0
    smallest = -(-size // _MAX_PARTS)
    return max(PART_SIZE, -(-smallest // (1 << 20)) << 20)
