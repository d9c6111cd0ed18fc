"""Write segments into the vault: the objects first, each with a checksum that the store checks, the manifest last.

Segments of one partition go together: one commit of their intents, one look at their names, and requests side by side.
Each of them fails alone. An object is never overwritten: where other bytes stand in its place, the segment's error is
`OtherBytes`, and another generation has to be tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from takhin_tiered import logs, work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.access import disk_errors, open_partition
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.errors import (
    HeldElsewhere,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    SegmentBusy,
    SegmentChanged,
    SegmentShared,
    StoreError,
    TakhinError,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import ManifestFile
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.retrieval import SMALLEST_IN_CLASS
from takhin_tiered.vault.encoding import Encoder, as_it_is, close_all
from takhin_tiered.vault.orphans import settle_held
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import OtherBytes, load_manifest, prove, prove_file, put_proven
from takhin_tiered.vault.stored import StoredSource
from takhin_tiered.vault.writing import Writing, entries_of, is_bound, kept, replaces, spliced_log
from takhin_tiered.verbs import for_each, resumed


class Writer:
    """``reading`` bounds how many segments are encoded at a time, ``requests`` how many objects are sent.

    ``stamp`` tells the time by which an age begins, in seconds since the epoch.
    """

    def __init__(
        self,
        owned: OwnedPrefix,
        catalog: Catalog,
        data_dir: DataDirs,
        encoder: Encoder,
        *,
        pace: Pace,
        reading: asyncio.Semaphore,
        requests: asyncio.Semaphore,
        metrics: Metrics,
        stamp: Callable[[], float],
    ) -> None:
        self._owned, self._catalog, self._data_dir, self._encoder = owned, catalog, data_dir, encoder
        self._pace, self._reading, self._requests = pace, reading, requests
        self._metrics, self._stamp = metrics, stamp

    async def write(self, writings: Sequence[Writing]) -> None:
        """Each ends with its ``manifest`` or its ``error``; what one that failed had stored is removed again.

        The segments are of one partition, and their locks are held. Raises what concerns all of them, as an error of
        the journal does.
        """
        try:
            await self._write(writings)
        except BaseException:
            await asyncio.shield(self._undo(writings))
            raise
        finally:
            await self._close_spools(writings)
        if failed := [each for each in writings if each.error is not None]:
            await asyncio.shield(self._undo(failed))

    async def _write(self, writings: Sequence[Writing]) -> None:
        await self._each(writings, self._find_archived, lambda each: each.existing is not None)
        await self._each(writings, self._splice, lambda each: bool(each.parts) and FileKind.LOG in each.missing)
        await self._encode([each for each in writings if each.error is None and each.missing])
        await self._intend([each for each in writings if each.error is None and each.missing])
        await self._each(writings, self._store_missing, lambda each: bool(each.missing))
        await self._each(writings, self._keep_superseded, replaces)
        await self._require_unchanged(writings)
        await self._each(writings, self._commit)

    async def _each(
        self,
        writings: Sequence[Writing],
        step: Callable[[Writing], Awaitable[None]],
        if_so: Callable[[Writing], bool] = lambda _: True,
    ) -> None:
        """See `takhin_tiered.verbs.for_each`; of those alone for which ``if_so`` holds."""
        chosen = [each for each in writings if each.is_to_do and if_so(each)]
        await for_each(chosen, step, lambda writing: resumed(writing.work), OtherBytes)

    async def _undo(self, writings: Sequence[Writing]) -> None:
        """Take away what these attempts stored. What cannot be reached now is found by its intent later.

        Not once a manifest was sent: it may have been stored even where the answer was an error.
        """
        made = [key for each in writings if not each.is_sent for key in each.made]
        with suppress(StoreError, HeldElsewhere, SegmentShared, SegmentBusy):
            if made:
                await self._owned.delete(made)
                self._catalog.settle(made)

    async def _find_archived(self, writing: Writing) -> None:
        """Find the objects that the archive has already with these bytes, as the store proves."""
        for kind in writing.opened.files:
            archived = await self._archived(writing, kind)
            if archived is not None:
                writing.entries[kind] = archived
        existing = writing.existing
        if existing is not None and any(is_bound(file) for file in kept(writing).values()):
            # Encrypted chunks are bound to the topic ID of their manifest.
            writing.draft = replace(writing.draft, topic_id=existing.topic_id)

    async def _archived(self, writing: Writing, kind: FileKind) -> ManifestFile | None:
        archived = writing.existing.files.get(kind) if writing.existing else None
        if archived is None or writing.existing is None:
            return None
        checksum = writing.content.checksums[kind]
        size = writing.opened.size(kind)
        is_same = (archived.plain_size, archived.plain_sha256) == (size, checksum.sha256)
        if (is_same or kind in writing.accepted) and kind not in writing.distrusted:
            try:
                await prove_file(self._owned.store, writing.id, archived)
                return archived
            except ObjectMissing as error:
                logs.logger().error("an archived object is gone, and is stored again", error=str(error))
                return None
            except ObjectCorrupt as error:
                logs.logger().error("an archived object is damaged, and is stored again", error=str(error))
        if writing.generation == writing.existing.generation:
            raise OtherBytes
        return None

    async def _splice(self, writing: Writing) -> None:
        """Name the log's bytes where they stand already, once the store proves them; else it is stored."""
        spliced = spliced_log(writing)
        try:
            await prove_file(self._owned.store, writing.id, spliced)
        except (ObjectMissing, ObjectCorrupt) as error:
            logs.logger().error("an archived log that has these bytes is bad: they are stored again", error=str(error))
            return
        writing.entries[FileKind.LOG] = spliced
        reached("archive.spliced")

    async def _encode(self, writings: Sequence[Writing]) -> None:
        """Make what is to be stored of each: its files as they are, or their encoded bytes."""
        todo = [each for each in writings if self._encoder.codecs.encodes(each.id.topic)]
        for each in writings:
            if each not in todo:
                each.stored = {kind: as_it_is(each.opened, each.content, kind) for kind in each.missing}
        if todo:
            async with self._reading:
                await in_thread(self._encode_in_turn, todo)

    def _encode_in_turn(self, writings: Sequence[Writing]) -> None:
        for each in writings:
            try:
                with resumed(each.work):
                    reached("archive.before.encoding")
                    each.stored = self._encoder.encode(each.opened, each.content, each.missing, each.draft.topic_id)
                    reached("archive.encoded")
            except TakhinError as error:
                each.error = error

    async def _close_spools(self, writings: Sequence[Writing]) -> None:
        """Their bytes are gone with them. To free much of a disk takes the kernel some time."""
        spools = [stored for each in writings for stored in each.stored.values() if stored.is_spooled]
        for each in writings:
            each.stored = {}
        if spools:
            await in_thread(close_all, spools)

    async def _intend(self, writings: Sequence[Writing]) -> None:
        """Write down what is about to be stored, so that a killed process's objects are known as ours."""
        await self._each(writings, self._settle_others)
        now, intents = self._stamp(), []
        for each in writings:
            if each.error is None:
                for kind in each.missing:
                    key, stored = each.id.key(kind, each.generation), each.stored[kind]
                    checksum = stored.checksum
                    intents.append(Intent(key, each.id, stored.size, checksum.sha256, checksum.part_size, now))
        if not intents:
            return
        self._catalog.intend(intents)
        await self._catalog.flush()
        for each in writings:
            if each.error is None:
                reached("archive.intended")

    async def _settle_others(self, writing: Writing) -> None:
        """Where an earlier attempt broke off with other bytes, what it left goes first: one key has one intent.

        Encrypted bytes of the same file are other ones each time, and other settings make other bytes. Where the
        server's writes are not conditional, one that was given up might still arrive, and take the place of the new
        ones: those get another key.
        """
        left = {kind: self._catalog.intent(writing.id.key(kind, writing.generation)) for kind in writing.missing}
        intents = [(intent, writing.stored[kind]) for kind, intent in left.items() if intent is not None]
        if any(intent.sha256 != stored.checksum.sha256 for intent, stored in intents):
            # All of it: nothing of this generation is named by a manifest later, and nothing removes it then.
            for intent, _ in intents:
                await settle_held(self._owned, self._catalog, intent)
            raise OtherBytes

    async def _store_missing(self, writing: Writing) -> None:
        kinds = writing.missing
        stored = await all_of([self._store(writing, kind) for kind in kinds])
        writing.entries |= dict(zip(kinds, stored, strict=True))

    async def _store(self, writing: Writing, kind: FileKind) -> ManifestFile:
        key, path = writing.id.key(kind, writing.generation), writing.id.path
        file, stored = writing.opened.files[kind], writing.stored[kind]
        size, checksum = stored.size, stored.checksum
        source = StoredSource(writing.id, stored, self._pace)
        async with self._requests:
            try:
                answer = await self._owned.put(
                    key,
                    source,
                    size=size,
                    checksum=checksum,
                    if_absent=True,
                    storage_class=writing.storage_class if size >= SMALLEST_IN_CLASS else "",
                )
                writing.made.append(key)
                if stored.encoding is None:
                    # Bytes that the kernel sent by itself are not counted yet.
                    work.moved(max(0, size - source.given))
                self._metrics.uploaded.inc(size)
            except ObjectExists:
                answer = None
            except ObjectCorrupt as error:
                # The store got other bytes than were read before: the file changed, or the network lies.
                await self._require_unchanged([writing])
                raise writing.error or ObjectCorrupt(error.message, segment=path, key=key, hint=error.hint) from error
            except StoreError:
                if source.problem is not None:
                    raise source.problem from None
                raise
            try:
                await prove(self._owned.store, key, size, checksum, answer=answer, segment=path)
            except ObjectMissing as error:
                if answer is None and self._owned.is_shared:
                    # It stood there a moment ago. Its replica removed it: the manifest of another one stands by now.
                    raise OtherBytes from error
                raise
            except ObjectCorrupt as error:
                if answer is None:
                    # Not ours: an object found there later must not be taken for one that a broken upload left.
                    self._catalog.settle([key])
                    raise OtherBytes from error
                raise
        reached(f"archive.{kind}.stored")
        return ManifestFile(
            key,
            size,
            checksum.sha256,
            checksum.part_size,
            file.found.mtime_ns,
            file.mode,
            stored.chunks,
            stored.encoding,
        )

    async def _keep_superseded(self, writing: Writing) -> None:
        """Give the manifest of the generation before a name of its own: its records may be nowhere else."""
        assert writing.existing is not None
        data, key = writing.existing.to_json(), writing.id.superseded_key(writing.existing.generation)
        await self._put_small(writing, key, data, if_absent=False)
        reached("archive.superseded.kept")

    async def _require_unchanged(self, writings: Sequence[Writing]) -> None:
        """`SegmentChanged` for each whose names and files are not what they were when they were opened."""
        todo = [each for each in writings if each.error is None]

        def look() -> None:
            with open_partition(self._data_dir, todo[0].id) as partition:
                for each in todo:
                    try:
                        with disk_errors(each.id):
                            # A name's file has the inode and times of the open one: it is that one, and unchanged.
                            if partition.stat_all(each.id) != each.opened.stats:
                                raise changed(each.id, "while it was uploaded")
                    except TakhinError as error:
                        each.error = error

        for each in todo:
            if not self._catalog.is_current(each.id):
                each.error = changed(each.id, "as its log was found to be another incarnation,")
        todo = [each for each in todo if each.error is None]
        if not todo:
            return
        try:
            await in_thread(look)
        except TakhinError as error:
            for each in todo:
                each.error = each.error or error

    async def _commit(self, writing: Writing) -> None:
        """Write the manifest: the first one only where there is none, a later one over the one before."""
        entries = entries_of(writing)
        if writing.existing is not None and entries == writing.existing.files:
            writing.manifest = writing.existing
            return
        reached("archive.before.manifest")
        manifest = replace(writing.draft, files=entries, generation=writing.generation, archived_at=self._stamp())
        key, data = writing.id.manifest_key, manifest.to_json()
        if writing.existing is None:
            writing.is_sent = True
            try:
                await self._put_small(writing, key, data, if_absent=True)
            except OtherBytes:
                await self._lose_to_another(writing)
                raise
        else:
            async with self._owned.replacing(writing.existing, manifest):
                writing.is_sent = True
                await self._put_small(writing, key, data, if_absent=False)
        writing.manifest = manifest

    async def _lose_to_another(self, writing: Writing) -> None:
        """Where the manifest of another replica stands, of a later generation: it names nothing of this attempt.

        And while this replica holds the segment, nobody takes that manifest away: ours is never committed.
        """
        if not self._owned.is_shared:
            return
        manifest = await load_manifest(self._owned.store, writing.id)
        if manifest is None or manifest.generation <= writing.generation:
            return
        named = {file.key for file in manifest.files.values()}
        writing.made = [key for key in writing.made if key not in named]
        writing.is_sent = False
        reached("archive.outrun")

    async def _put_small(self, writing: Writing, key: str, data: bytes, *, if_absent: bool) -> None:
        """Write an object and prove it. `OtherBytes` where ``if_absent`` and another one stands there."""
        async with self._requests:
            await put_proven(self._owned, key, data, segment=writing.id.path, if_absent=if_absent)


def changed(identity: SegmentId, when: str) -> SegmentChanged:
    return SegmentChanged(
        f"the files of segment {identity.path} changed {when}",
        segment=identity.path,
        hint="The local files stay, and nothing was archived; the next cycle tries again",
    )
