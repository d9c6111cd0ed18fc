"""Opens segments to be read in place: on the disk if they stand there, else in the archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import DataDirs, OpenFile
from takhin_tiered.errors import (
    CatalogError,
    Damaged,
    InGlacier,
    ObjectMissing,
    SegmentChanged,
    SegmentNotFound,
    StoreError,
    TakhinError,
)
from takhin_tiered.reader.archived import ArchivedFile, Proof, chunked_file, is_proven_by_chunks
from takhin_tiered.reader.fetching import Fetcher
from takhin_tiered.reader.local import open_local
from takhin_tiered.reader.manifests import Manifests
from takhin_tiered.reader.opened import ArchivedSegment, LocalOpened, OpenedSegment, OpenRange, range_of
from takhin_tiered.reader.spliced import SplicedReader
from takhin_tiered.reader.whole import WholeObjects
from takhin_tiered.reader.window import ArchivedReader
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.vault.proof import is_that_of, log_of

_LOOKS = 3
_QUARANTINE_SECONDS = 5.0
_TAG_SECONDS = 2.0


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Reader:
    """``keys`` are those of the key file as it was read last."""

    catalog: Catalog
    data_dir: DataDirs
    manifests: Manifests
    fetcher: Fetcher
    whole: WholeObjects
    keys: Callable[[], KeyRing]
    _quarantining: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def open_segment(
        self, identity: SegmentId, *, near_end: Callable[[], None] | None = None
    ) -> AsyncIterator[OpenedSegment]:
        """One segment: all that is read of it within comes from the same files, or the same objects.

        ``near_end`` is called once, when the end of a file in the archive is near.

        Raises `SegmentNotFound`, `Damaged`, `StoreError`, and `SegmentChanged` if it left the disk and is not archived.
        """
        opened = await self._open(identity, near_end or _nothing)
        try:
            yield opened
        except InGlacier as error:
            # The store names an object, which for a spliced log is another segment's: this one is to be restored.
            error.segment = identity.full_path
            raise
        finally:
            if isinstance(opened, ArchivedSegment):
                opened.close()
            else:
                await in_thread(opened.local.close)

    @asynccontextmanager
    async def open_range(
        self, identity: SegmentId, kind: FileKind, start: int, end: int | None
    ) -> AsyncIterator[OpenRange]:
        """Bytes of one file. `RangeNotSatisfiable` too, and `NoKey` or `WrongKey`."""
        async with self.open_segment(identity) as segment:
            file = segment.file(kind)
            if file is None:
                raise SegmentNotFound(f"segment {identity.path} has no {kind}", segment=identity.path)
            yield await range_of(segment, file, kind, start, end)

    async def prefetch(self, identity: SegmentId) -> None:
        """Bring the first chunks of an archived segment's log into memory, if there is room. It never fails."""
        with suppress(TakhinError):
            async with self.open_segment(identity) as segment:
                file = segment.file(FileKind.LOG)
                if isinstance(file, ArchivedReader):
                    await file.prefetch()

    async def close(self) -> None:
        await self.fetcher.close()
        for task in self._quarantining:
            task.cancel()
        await asyncio.gather(*self._quarantining, return_exceptions=True)

    async def on_damage(self, file: ArchivedFile, error: Damaged) -> TakhinError:
        """Quarantine the segment, unless it was archived anew or removed meanwhile; returns the reader's error."""
        try:
            manifest = await self.manifests.get(file.id, fresh=True)
        except Damaged:
            manifest = None
        except StoreError as failure:
            return failure
        now = manifest.files.get(file.kind) if manifest is not None else None
        is_other = now is not None and (now.key, now.sha256) != (file.key, file.archived.sha256)
        if self.catalog.get(file.id) is None or is_other:
            return SegmentChanged(
                f"segment {file.id.path} was archived anew or removed while it was read",
                segment=file.id.path,
                hint="Read it again",
            )
        if manifest is not None and now is not None and file.proof is Proof.OBJECT and file.decoder is not None:
            try:
                await self.whole.prove_again(manifest, file.kind)
            except TakhinError as found:
                return found
            return SegmentChanged(
                f"what was kept of the checksums of segment {file.id.path} was wrong, and was made anew",
                segment=file.id.path,
                hint="The archive's copy is right. Read it again",
            )
        await self._quarantine(file.id, error)
        return error

    async def _open(self, identity: SegmentId, near_end: Callable[[], None]) -> ArchivedSegment | LocalOpened:
        # It may move between the two while it is looked for.
        for _ in range(_LOOKS):
            segment = self.catalog.get(identity)
            if segment is None:
                break
            if segment.local.log is not None and (local := await self._open_local(segment)) is not None:
                return local
            manifest = await self._manifest(identity)
            if manifest is not None:
                spliced = await self._logs_of(manifest)
                return ArchivedSegment(manifest, partial(self._reader_of, manifest, spliced, near_end))
        segment = self.catalog.get(identity)
        if segment is None:
            raise SegmentNotFound(
                f"segment {identity.full_path} is neither on disk nor in the archive", segment=identity.path
            )
        if segment.archive is None:
            raise SegmentChanged(
                f"segment {identity.path} left the disk, and was not archived",
                segment=identity.path,
                hint="If the broker deleted it, there is nothing to do",
            )
        error = Damaged(
            f"the manifest of segment {identity.path} is not in the archive",
            segment=identity.path,
            key=identity.manifest_key,
            hint="Somebody removed it: look for it in the bucket's versions or backups",
        )
        await self._quarantine(identity, error)
        raise error

    async def _manifest(self, identity: SegmentId) -> Manifest | None:
        try:
            return await self.manifests.get(identity)
        except Damaged as error:
            await self._quarantine(identity, error)
            raise

    async def _open_local(self, segment: Segment) -> LocalOpened | None:
        identity = segment.id
        if not self.catalog.is_current(identity):
            return None
        local = await in_thread(open_local, self.data_dir, identity)
        if local is None:
            return None
        lineage = self.catalog.lineage(identity.place.partition)
        expected = lineage.get(lineage.current).topic_id
        if not self.catalog.is_current(identity) or (expected and local.topic_id and expected != local.topic_id):
            # The topic was deleted and created again since the last scan.
            await in_thread(local.close)
            return None
        return LocalOpened(
            identity,
            local,
            self.catalog.may_be_active(identity),
            lambda kind, file: self._manifest_of(identity, kind, file),
        )

    async def _manifest_of(self, identity: SegmentId, kind: FileKind, file: OpenFile) -> Manifest | None:
        """The manifest, if this is the file that was archived, and if it comes soon."""
        segment = self.catalog.get(identity)
        if segment is None or segment.archive is None or segment.archive.proven.get(kind) != file.found:
            return None
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_TAG_SECONDS):
                return await self.manifests.get(identity)
        return None

    async def _logs_of(self, manifest: Manifest) -> list[Manifest]:
        """The manifests of the logs that the parts of this one are of."""
        found: list[Manifest] = []
        for part in manifest.log.parts:
            known = await self._manifest(part.id)
            if known is None or not is_that_of(part, known.log):
                try:
                    known = await log_of(self.fetcher.store, part)
                except ObjectMissing as missing:
                    error = Damaged(missing.message, segment=manifest.id.path, key=part.key, hint=missing.hint)
                    await self._quarantine(manifest.id, error)
                    raise error from missing
            found.append(known)
        return found

    def _reader_of(
        self, manifest: Manifest, logs_of_parts: list[Manifest], near_end: Callable[[], None], kind: FileKind
    ) -> ArchivedReader | SplicedReader:
        if kind is not FileKind.LOG or not manifest.log.parts:
            return self._archived(manifest, kind, near_end=near_end)
        readers = [self._archived(each, FileKind.LOG, near_end=_nothing) for each in logs_of_parts]
        return SplicedReader(manifest.log.parts, readers, near_end)

    def _archived(self, manifest: Manifest, kind: FileKind, *, near_end: Callable[[], None]) -> ArchivedReader:
        if is_proven_by_chunks(manifest, kind):
            return ArchivedReader(self.fetcher, chunked_file(manifest, kind, self.keys()), near_end)
        unproven = self.whole.unproven(manifest, kind)
        return ArchivedReader(self.fetcher, unproven, near_end, lambda: self.whole.prove(manifest, kind))

    async def _quarantine(self, identity: SegmentId, error: Damaged) -> None:
        """A verb that works on the segment may have its lock for long: the reader does not wait for that."""
        logs.logger().error("the archive's copy of a segment is bad", problem=str(error))
        task = asyncio.create_task(self._put_quarantine(identity, str(error)))
        self._quarantining.add(task)
        task.add_done_callback(self._quarantining.discard)
        await asyncio.wait([task], timeout=_QUARANTINE_SECONDS)

    async def _put_quarantine(self, identity: SegmentId, problem: str) -> None:
        async with self.catalog.lock(identity):
            known = self.catalog.get(identity)
            if known is not None and known.archive is not None:
                self.catalog.put(replace(known, quarantine=problem))
                # The journal has it with its next write otherwise.
                with suppress(CatalogError):
                    await self.catalog.flush()
