"""One try to bring the files of a segment into the store, under one generation, the manifest last."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from takhin_tiered import logs, work
from takhin_tiered.codec.checksums import Checksum, bytes_source, checksum_of
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.files import OpenFile
from takhin_tiered.engine.branching import incarnation_of, require_same_incarnation, require_same_topic
from takhin_tiered.engine.context import Engine, disk_errors, open_partition
from takhin_tiered.engine.opened import Content, OpenSegment
from takhin_tiered.engine.orphans import settle_held
from takhin_tiered.engine.outlook import is_compacted
from takhin_tiered.engine.pace import Pace
from takhin_tiered.engine.prove import prove, prove_file
from takhin_tiered.errors import (
    HeldElsewhere,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    SegmentChanged,
    SegmentRefused,
    StoreError,
    TakhinError,
)
from takhin_tiered.formats.kafka import LogSummary
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import MAX_PARTS, Manifest, ManifestFile
from takhin_tiered.segments.model import Intent, LocalFiles
from takhin_tiered.segments.names import FileKind, SegmentId

MULTIPART_THRESHOLD = 64 << 20
PART_SIZE = 16 << 20


class OtherBytes(Exception):
    """An object that was to be written exists with other bytes: another generation has to be tried."""


class _FileSource:
    """A file's bytes; why they cannot be read is kept, as an HTTP library reports only a broken connection.

    ``data`` is all of a small file, as it was read for its checksum.
    """

    def __init__(self, identity: SegmentId, file: OpenFile, data: bytes | None, pace: Pace) -> None:
        self._identity, self._file, self._data, self._pace = identity, file, data, pace
        self.in_memory = data is not None and not pace.rate
        self.problem: TakhinError | None = None
        self.given = 0

    def __call__(self, offset: int, length: int) -> bytes:
        if self.in_memory and self._data is not None:
            return self._data[offset : offset + length]
        try:
            with disk_errors(self._identity):
                data = self._file.read(offset, length)
            if length and not data:
                raise changed(self._identity, "while it was uploaded: it became shorter")
        except TakhinError as error:
            self.problem = error
            raise
        self._pace.spend_here(len(data))
        self.given += len(data)
        work.moved(len(data))
        return data

    def fileno(self) -> int:
        """For the kernel, which may send from it by itself; -1 where it would be too fast."""
        return -1 if self._pace.rate or self.in_memory else self._file.fd


class Upload:
    """See `run`. ``existing`` is the committed manifest, and ``distrusted`` what is known to be damaged of it."""

    def __init__(
        self,
        engine: Engine,
        opened: OpenSegment,
        existing: Manifest | None,
        generation: int,
        distrusted: frozenset[FileKind] = frozenset(),
    ) -> None:
        self._engine, self._opened, self._existing = engine, opened, existing
        self._generation, self._distrusted = generation, distrusted
        self._identity = opened.identity
        self._made: list[str] = []
        self._committing = False
        self.was_compacted = False

    async def run(self) -> Manifest:
        """The committed manifest: a new one, or the existing one where it says all this already.

        Raises `OtherBytes`, and whatever `archive` raises; then `undo` is to be called.
        """
        require_same_topic(self._engine, self._opened)
        content = await self._read()
        checksums, summary = content.checksums, content.summary
        if summary.problem and not self._engine.archive_corrupt:
            known = self._engine.catalog.get(self._identity)
            if known is not None:
                self._engine.catalog.put(replace(known, damage=summary.problem))
            raise SegmentRefused(
                f"segment {self._identity.path} is damaged: {summary.problem}",
                segment=self._identity.path,
                hint="It stays on disk. storage.tiered.archive.corrupt: archive moves it as it is",
            )
        # What the cleaner leaves may have no gaps: a segment of which it has left nothing, for one.
        compacts = summary.has_gaps or is_compacted(self._engine, self._identity.place.partition)
        self.was_compacted = compacts and self._engine.policy.kafka and self._engine.policy.takes_compacted
        if summary.has_gaps and self._engine.policy.kafka and not self._engine.policy.takes_compacted:
            self._engine.catalog.gapped.add(self._identity.place.partition)
            raise SegmentRefused(
                f"segment {self._identity.path} is of a compacted topic, as its offsets have gaps",
                segment=self._identity.path,
                hint="It stays on disk. storage.tiered.topics.compacted: archive takes compacted topics too",
            )
        require_same_incarnation(self._engine, self._opened, summary, self._existing, checksums[FileKind.LOG].sha256)
        entries: dict[FileKind, ManifestFile] = {}
        for kind in self._opened.files:
            archived = await self._archived(kind, checksums[kind])
            if archived is not None:
                entries[kind] = archived
        missing = [kind for kind in self._opened.files if kind not in entries]
        if missing:
            await self._intend(missing, checksums)
            stored = await all_of([self._store(kind, content) for kind in missing])
            entries |= dict(zip(missing, stored, strict=True))
        entries = {kind: entries[kind] for kind in FileKind if kind in entries}
        if self._existing is not None and entries[FileKind.LOG] == self._existing.log:
            # An index that is gone from the disk is still that of this log: the archive keeps it.
            entries = {**self._existing.files, **entries}
        if self._existing is not None and entries == self._existing.files:
            await self.require_unchanged()
            return self._existing
        manifest = self._describe(entries, summary)
        await self._keep_superseded(manifest)
        await self.require_unchanged()
        reached("archive.before.manifest")
        await self._commit(manifest)
        return manifest

    async def undo(self) -> None:
        """Take away what this attempt stored. What cannot be reached now is found by its intent later.

        Not once the manifest was sent: it may have been stored even where the answer was an error.
        """
        with suppress(StoreError, HeldElsewhere):
            if self._made and not self._committing:
                await self._engine.store.delete(self._made)
                self._engine.catalog.settle(self._made)

    async def require_unchanged(self) -> None:
        """Raise `SegmentChanged` unless names and files are what they were when they were opened."""

        if not self._engine.catalog.is_current(self._identity):
            raise changed(self._identity, "as its log was found to be another incarnation,")

        def look() -> LocalFiles:
            with open_partition(self._engine, self._identity) as partition:
                return partition.stat_all(self._identity)

        # A name's file has the inode and the times that the open one had: it is that one, and unchanged.
        if await in_thread(look) != self._opened.stats:
            raise changed(self._identity, "while it was uploaded")

    async def _read(self) -> Content:
        """Where the archive has a file, its checksum is in the form that the archive has."""
        if self._opened.content is not None and self._existing is None:
            return self._opened.content
        part_sizes: dict[FileKind, int] = {}
        for kind in self._opened.files:
            size = self._opened.size(kind)
            archived = self._existing.files.get(kind) if self._existing else None
            part_sizes[kind] = archived.part_size if archived and archived.size == size else part_size_for(size)
        with_md5 = await self._engine.store.wants_md5()
        async with self._engine.reading:
            with disk_errors(self._identity):
                return await in_thread(self._opened.read, part_sizes, with_md5=with_md5)

    async def _archived(self, kind: FileKind, checksum: Checksum) -> ManifestFile | None:
        """The archive's entry for this file, if it has these bytes, and the store proves that it does."""
        archived = self._existing.files.get(kind) if self._existing else None
        if archived is None or self._existing is None:
            return None
        is_same = (archived.size, archived.sha256) == (self._opened.size(kind), checksum.sha256)
        if is_same and kind not in self._distrusted:
            try:
                await prove_file(self._engine, self._identity, archived)
                return archived
            except ObjectMissing as error:
                logs.logger().error("an archived object is gone, and is stored again", error=str(error))
                return None
            except ObjectCorrupt as error:
                logs.logger().error("an archived object is damaged, and is stored again", error=str(error))
        if self._generation == self._existing.generation:
            raise OtherBytes
        return None

    async def _intend(self, kinds: list[FileKind], checksums: dict[FileKind, Checksum]) -> None:
        """Write down what is about to be stored, so that a killed process's objects are known as ours.

        Where an earlier attempt broke off with other bytes, what it left goes first: one key has one intent.
        """
        for before in self._engine.catalog.intents(self._identity):
            for kind in kinds:
                is_same_key = before.key == self._identity.key(kind, self._generation)
                if is_same_key and before.sha256 != checksums[kind].sha256:
                    await settle_held(self._engine, before)
        now = self._engine.stamp_now
        self._engine.catalog.intend(
            Intent(
                self._identity.key(kind, self._generation),
                self._identity,
                self._opened.size(kind),
                checksums[kind].sha256,
                checksums[kind].part_size,
                now,
            )
            for kind in kinds
        )
        await self._engine.catalog.flush()
        reached("archive.intended")

    async def _keep_superseded(self, manifest: Manifest) -> None:
        """Give the manifest of the generation before a name of its own: its records may be nowhere else."""
        if self._existing is None or self._existing.generation == manifest.generation:
            return
        key = self._identity.superseded_key(self._existing.generation)
        data = self._existing.to_json()
        checksum = checksum_of(bytes_source(data), len(data))
        said = await self._engine.store.put(key, bytes_source(data), size=len(data), checksum=checksum)
        await prove(self._engine.store, key, len(data), checksum, said=said, segment=self._identity.path)
        reached("archive.superseded.kept")

    async def _store(self, kind: FileKind, content: Content) -> ManifestFile:
        key, path = self._identity.key(kind, self._generation), self._identity.path
        file, checksum = self._opened.files[kind], content.checksums[kind]
        size = file.found.size
        source = _FileSource(self._identity, file, content.small.get(kind), self._engine.uploads)
        try:
            said = await self._engine.store.put(key, source, size=size, checksum=checksum, if_absent=True)
            self._made.append(key)
            # What the kernel sent by itself passed nobody here.
            work.moved(max(0, size - source.given))
            self._engine.metrics.uploaded.inc(size)
        except ObjectExists:
            said = None
        except ObjectCorrupt as error:
            # The store got other bytes than were read before: the file changed, or the network lies.
            await self.require_unchanged()
            raise ObjectCorrupt(error.message, segment=path, key=key, hint=error.hint) from error
        except StoreError:
            if source.problem is not None:
                raise source.problem from None
            raise
        try:
            await prove(self._engine.store, key, size, checksum, said=said, segment=path)
        except ObjectCorrupt as error:
            if said is None:
                # Not ours: nothing that is found there later may be taken for what a broken upload left.
                self._engine.catalog.settle([key])
                raise OtherBytes from error
            raise
        reached(f"archive.{kind}.stored")
        return ManifestFile(key, size, checksum.sha256, checksum.part_size, file.found.mtime_ns, file.mode)

    def _describe(self, entries: dict[FileKind, ManifestFile], summary: LogSummary) -> Manifest:
        incarnation = incarnation_of(self._engine, self._identity)
        return Manifest(
            id=self._identity,
            files=entries,
            generation=self._generation,
            format=summary.format,
            first_offset=summary.first_offset,
            last_offset=summary.last_offset,
            first_timestamp=summary.first_timestamp,
            last_timestamp=summary.last_timestamp,
            archived_at=self._engine.stamp_now,
            problem=summary.problem,
            topic_id=self._opened.topic_id,
            leader_epochs=summary.leader_epochs,
            kafka=self._engine.policy.kafka,
            follows=incarnation.follows,
            from_offset=incarnation.from_offset,
        )

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
                raise OtherBytes from error
            raise


def changed(identity: SegmentId, when: str) -> SegmentChanged:
    return SegmentChanged(
        f"the files of segment {identity.path} changed {when}",
        segment=identity.path,
        hint="The local files stay, and nothing was archived; the next cycle tries again",
    )


def part_size_for(size: int) -> int:
    """0 for one piece; else bytes in each part, so that there are at most 10,000 of them."""
    if size <= MULTIPART_THRESHOLD:
        return 0
    smallest = -(-size // MAX_PARTS)
    return max(PART_SIZE, -(-smallest // (1 << 20)) << 20)
