"""Copy open segments into the store, with their locks held: the middle part of an archive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from takhin_tiered import logs, work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors, open_partition
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.adopting import Adopter, require_replaceable
from takhin_tiered.engine.branching import OtherIncarnation
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.judging import draft_manifest, is_compacting, judge
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.merged import MergedRemover, forget_compacted
from takhin_tiered.engine.relying import Uses
from takhin_tiered.engine.situation import Situation, usage_now
from takhin_tiered.engine.splicing import NotYet, Splicer
from takhin_tiered.errors import SegmentConflict, StoreError, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import NO_FILES, LocalFiles, Segment
from takhin_tiered.segments.names import MAX_OFFSET, FileKind, SegmentId, replica_of
from takhin_tiered.segments.policy import classify
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.encoding import Encoder
from takhin_tiered.vault.opened import Content, OpenSegment, close_all
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import OtherBytes, load_manifest
from takhin_tiered.vault.stored import part_size_for
from takhin_tiered.vault.writer import Writer, changed
from takhin_tiered.vault.writing import Writing
from takhin_tiered.verbs import for_each, named, resumed

_GENERATIONS_TRIED = 100


@dataclass(slots=True, eq=False)
class ToArchive:
    """A segment to be archived. ``expected``: its files as a plan saw them. If they differ now, nothing is moved."""

    id: SegmentId
    expected: LocalFiles | None = None


@dataclass(slots=True, eq=False)
class Task:
    """One segment through all steps: ``segment`` is how it stands, until the end or an ``error``."""

    wanted: ToArchive
    opened: OpenSegment
    work: work.Work
    segment: Segment | None = None
    # The committed manifest, once it was copied.
    manifest: Manifest | None = None
    # How its files stood when they were last seen.
    before: LocalFiles | None = None
    is_done: bool = False
    error: TakhinError | OtherIncarnation | None = None
    # Whether another replica had archived it, and nothing was uploaded.
    is_adopted: bool = False
    # Archived segments of other replicas that have its offsets, in runs.
    runs: list[list[SegmentId]] = field(default_factory=list)
    # Its identity where the log turned out to be another incarnation.
    becomes: SegmentId | None = None

    @property
    def id(self) -> SegmentId:
        return self.opened.identity

    @property
    def known(self) -> Segment:
        assert self.segment is not None
        return self.segment

    @property
    def is_to_do(self) -> bool:
        return not self.is_done and self.error is None


async def step_of_each(tasks: Sequence[Task], step: Callable[[Task], Awaitable[None]]) -> None:
    """See `takhin_tiered.verbs.for_each`."""
    await for_each(tasks, step, lambda task: resumed(task.work), OtherIncarnation)


@dataclass(frozen=True, slots=True)
class _Copying:
    """``distrusted`` files are stored anew; ``uses`` is what the parts of logs are taken of."""

    owned: OwnedPrefix
    distrusted: frozenset[FileKind]
    uses: Uses


@dataclass(frozen=True, slots=True)
class Copier:
    """Brings segments into the store, with their locks held. Large files are encoded in ``spool_dir``."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    merged: MergedRemover
    codecs: Codecs
    spool_dir: Path
    adopter: Adopter
    splicer: Splicer

    async def copy_held(
        self, owned: OwnedPrefix, segment: Segment, distrusted: frozenset[FileKind] = frozenset()
    ) -> Segment:
        """Bring a segment into the store while its lock is held; ``distrusted`` files are stored anew.

        Raises what `archive` does, and `OtherIncarnation`.
        """
        with work.shown("archive", segment.id.path) as shown:
            task = Task(ToArchive(segment.id), OpenSegment(segment.id, self.codecs.chunk_size), shown, segment)
            try:
                await self.copy(owned, [task], distrusted)
            finally:
                await close_all([task.opened])
        if task.error is not None:
            raise task.error
        return task.known

    async def copy(
        self, owned: OwnedPrefix, tasks: Sequence[Task], distrusted: frozenset[FileKind] = frozenset()
    ) -> None:
        """Bring segments of one partition into the store; each is as it stands then, or has its error."""
        async with self.splicer.reliance.using() as uses:
            await self._copy(_Copying(owned, distrusted, uses), tasks)

    async def _copy(self, copying: _Copying, tasks: Sequence[Task]) -> None:
        owned = copying.owned
        writings: dict[Task, Writing] = {}

        async def begin(task: Task) -> None:
            await self._open(task)
            try:
                task.runs = await self._look_for(owned, task)
            except NotYet:
                logs.logger().info("waits: other replicas have not archived as far as this log goes")
                task.is_done = True
                return
            # What another replica archived may be unknown here. It is read while nobody may remove it any more.
            await owned.hold(task.id)
            existing = await load_manifest(owned.store, task.id) if task.known.archive or owned.is_shared else None
            if existing is None and self._may_wait(task) and await owned.is_behind(task.id):
                # Another replica is at it.
                lowest = owned.waits.get(task.id.place.partition, task.id.base_offset)
                owned.waits[task.id.place.partition] = min(lowest, task.id.base_offset)
                return
            writings[task] = await self._begin_first(copying, task, existing)

        async def postpone(task: Task) -> None:
            """Where a lower one waits, it is not known yet whether this log is the one that others archive."""
            lowest = owned.waits.get(task.id.place.partition, MAX_OFFSET)
            if task.id.base_offset < lowest or replica_of(task.id.label) or not self._may_wait(task):
                return
            if not (task.known.archive is not None and task.known.archive.held):
                await owned.release(task.id)
            task.is_done = True

        async def next_generation(task: Task) -> None:
            # Either another generation is committed that the catalog does not know, or an upload broke off.
            existing, before = await load_manifest(owned.store, task.id), writings[task]
            generation = max(before.generation, existing.generation if existing else 0) + 1
            if owned.is_shared and before.existing is None and existing is not None:
                # Another replica was faster: what it archived may be this very segment.
                generation = existing.generation
            # Each attempt reads the files again.
            task.opened.content = None
            writings[task] = await self._begin(copying, task, existing, generation)

        await step_of_each(tasks, begin)
        if owned.is_shared:
            _go_together(tasks)
            await step_of_each(tasks, postpone)
        writer = Writer(
            owned,
            self.catalog,
            self.data_dir,
            await self._encoder(tasks),
            pace=self.limits.uploads,
            reading=self.limits.reading,
            requests=self.limits.requests,
            metrics=self.metrics,
            stamp=self.clock.stamp_now,
        )
        todo = [task for task in tasks if task.is_to_do and writings[task].manifest is None]
        for _ in range(_GENERATIONS_TRIED):
            if not todo:
                break
            await writer.write([writings[task] for task in todo])
            again = [task for task in todo if isinstance(writings[task].error, OtherBytes)]
            await step_of_each(again, next_generation)
            todo = [task for task in again if task.is_to_do and writings[task].manifest is None]
        for task in todo:
            path = task.id.path
            task.error = SegmentConflict(f"{_GENERATIONS_TRIED} generations of {path} are taken", segment=path)
        for task in tasks:
            if task.is_to_do and isinstance(error := writings[task].error, TakhinError):
                task.error = error
        await self._take_over(owned, [(task, writings[task]) for task in tasks if task.is_to_do])

    async def _encoder(self, tasks: Sequence[Task]) -> Encoder:
        """With the settings as they are now: a reload does not change them between two files of a segment."""
        codecs = replace(self.codecs)
        with_md5 = any(codecs.encodes(task.id.topic) for task in tasks) and await self.store.wants_md5()
        return Encoder(codecs, self.spool_dir, self.limits.reserve_bytes, with_md5)

    async def _begin_first(self, copying: _Copying, task: Task, existing: Manifest | None) -> Writing:
        """See `_begin`. What cannot be archived, and has nothing in the store, holds up no other replica."""
        try:
            return await self._begin(copying, task, existing, existing.generation if existing else 1)
        except TakhinError as error:
            is_held = task.known.archive is not None and task.known.archive.held
            has_objects = existing is not None or bool(self.catalog.intents(task.id))
            if not is_held and not has_objects and not isinstance(error, StoreError):
                with suppress(StoreError):
                    await copying.owned.release(task.id)
            raise

    async def _begin(self, copying: _Copying, task: Task, existing: Manifest | None, generation: int) -> Writing:
        """Read what is to be written, and judge whether it may be. Raises as `archive` does, and `OtherIncarnation`."""
        await self._open(task)
        opened, owned, distrusted = task.opened, copying.owned, copying.distrusted
        content = await self._read(opened, existing)
        policy, accepted = self.situation.policy.of(task.known.id.topic), None
        if owned.is_shared and existing is not None:
            accepted = await self.adopter.accepted(opened, content, existing)
        judge(self.catalog, policy, opened, content, existing, is_adopted=accepted is not None)
        if owned.is_shared and existing is not None and accepted is None:
            await require_replaceable(owned, opened)
        draft = draft_manifest(self.catalog, policy, opened, content)
        parts = await self.splicer.find(opened, content, task.runs) if existing is None else ()
        await copying.uses.hold(owned, parts or (existing.log.parts if existing is not None else ()))
        usage, sure = usage_now(self.situation, self.clock), self.clock.sure_now()
        tier = classify(replace(task.known, lease_until=0.0), policy, self.clock.now(), usage, sure=sure)
        writing = Writing(
            opened,
            content,
            draft,
            existing,
            generation,
            distrusted,
            task.work,
            parts=parts,
            storage_class=policy.class_of(tier),
        )
        if accepted is not None and existing is not None and not distrusted:
            writing.accepted = accepted
            if FileKind.SNAPSHOT in existing.files:
                writing.draft = replace(draft, open_transactions=existing.open_transactions)
            await self.adopter.prove(writing)
        return writing

    async def _open(self, task: Task) -> None:
        opened = task.opened
        if not opened.files:
            await in_thread(_open, self.data_dir, opened)
        if opened.stats != task.known.local or FileKind.LOG not in opened.files:
            raise changed(task.id, "before it was read")

    async def _look_for(self, owned: OwnedPrefix, task: Task) -> list[list[SegmentId]]:
        """See `Splicer.look`. By hand, and before the broker's retention, nothing waits."""
        if not owned.is_shared or task.known.archive is not None:
            return []
        return await self.splicer.look(task.opened, may_wait=self._may_wait(task))

    def _may_wait(self, task: Task) -> bool:
        return task.wanted.expected is not None and task.id not in self.situation.outlook.due

    async def _read(self, opened: OpenSegment, existing: Manifest | None) -> Content:
        """Read the files. A file that is archived gets its checksum in the same form, whole or of parts."""
        if opened.content is not None and existing is None:
            return opened.content
        part_sizes: dict[FileKind, int] = {}
        for kind in opened.files:
            size = opened.size(kind)
            archived = existing.files.get(kind) if existing else None
            part_sizes[kind] = (
                archived.plain_part_size if archived and archived.plain_size == size else part_size_for(size)
            )
        with_md5 = await self.store.wants_md5()
        async with self.limits.reading:
            with disk_errors(opened.identity):
                return await in_thread(opened.read, part_sizes, with_md5=with_md5)

    async def _take_over(self, owned: OwnedPrefix, written: Sequence[tuple[Task, Writing]]) -> None:
        """Mark the committed segments as archived, in one commit of the journal."""
        for task, writing in written:
            manifest, identity = writing.manifest, task.id
            assert manifest is not None
            archived = manifest.in_short(task.opened.stats)
            before = task.known.archive
            is_others = manifest == writing.existing or bool(manifest.log.parts)
            task.is_adopted = owned.is_shared and is_others and (before is None or not before.held)
            if task.is_adopted:
                self.metrics.adopted.inc()
                self.metrics.adopted_bytes.inc(manifest.size - (manifest.stored_size if manifest.log.parts else 0))
            segment = replace(task.known, archive=archived, damage=manifest.problem, last_failure="", quarantine="")
            if not self.catalog.is_current(identity):
                # Meanwhile the log was found to be another incarnation from a lower segment on. The files belong to
                # that one.
                segment = replace(segment, local=NO_FILES, active=False, lease_until=0.0)
            with named("archive", identity.path):
                self.catalog.put(segment)
            task.segment, task.manifest = segment, manifest
            self.catalog.learn(identity.place.partition, manifest.incarnation)
            self.catalog.settle(file.key for file in manifest.files.values())
            reached("archive.committed")
        if not written:
            return
        await self.catalog.flush()
        for task, writing in written:
            reached("archive.journaled")
            await self._after(owned, task, writing)

    async def _after(self, owned: OwnedPrefix, task: Task, writing: Writing) -> None:
        """Handle what was archived before: a later generation supersedes it, and compaction removes it."""
        manifest, existing = writing.manifest, writing.existing
        assert manifest is not None
        replaced = existing is not None and manifest.generation != existing.generation
        compacts = is_compacting(self.situation, self.catalog, task.id, writing.content.summary)
        try:
            with named("archive", task.id.path):
                if replaced and compacts and existing is not None:
                    await forget_compacted(owned, existing, manifest)
                elif replaced and existing is not None:
                    self.catalog.superseded += 1
                    logs.logger().warning(
                        "other bytes were archived before under this name, and are kept", generation=existing.generation
                    )
                if compacts:
                    await self.merged.expire_merged(owned, manifest)
        except TakhinError as error:
            task.error = error


def apart_from(tasks: Sequence[Task]) -> int | None:
    """The lowest base offset of those that turned out to be of another incarnation."""
    return min((task.id.base_offset for task in tasks if isinstance(task.error, OtherIncarnation)), default=None)


def _go_together(tasks: Sequence[Task]) -> None:
    """Where one is of another incarnation, those above it are too: nothing of them is archived with the old one."""
    apart = apart_from(tasks)
    for task in tasks:
        if apart is not None and task.error is None and task.id.base_offset > apart:
            task.error = OtherIncarnation("one below it is of another incarnation", is_other_topic=False)


def _open(data_dir: DataDirs, opened: OpenSegment) -> None:
    with open_partition(data_dir, opened.identity) as partition:
        opened.open(partition)
