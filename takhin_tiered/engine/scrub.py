"""Scrub: read archived bytes again, before somebody needs them; quarantine what is bad, and heal what can be.

A bad copy is reported, and never restored. Where the segment still stands whole on disk, bad objects are stored again
from there, as a new generation. An object that the store cannot read, while it serves others, is bad too: so damage of
a server's disk shows. A store that serves none ends the scrub, and nothing is quarantined.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from takhin_tiered import logs, work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.checksums import Hasher
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.access import read_local_checksum
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.branching import OtherIncarnation
from takhin_tiered.engine.copying import Copier
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.refresh import refresh
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import (
    InGlacier,
    NoKey,
    ObjectCorrupt,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
    TakhinError,
    WrongKey,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import Segment, State
from takhin_tiered.segments.names import FileKind, SegmentId, parse_manifest_key, replica_of
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest, log_of, prove_file, read_checksum
from takhin_tiered.vault.splicing import read_spliced, sources_of
from takhin_tiered.verbs import verb

_AT_ONCE = 16
_LOOKS = 2
_PAUSE_SECONDS = 1.0
_UNREADABLE_IN_A_ROW = 4 * _AT_ONCE

Seen = TypeVar("Seen")


class Unreadable(StoreError):
    """The store answers, and gives neither this object nor a reason that will pass."""

    code = "unreadable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one archived segment: bytes that were looked at, what is wrong (or an empty text), whether it was healed.

    ``manifest`` is None where it is missing or bad. ``may_lack_files``: an earlier release archived it, which left out
    transaction indexes and producer snapshots. ``unreadable``: the store said why it does not give an object, and no
    more is known of it. ``skipped`` says what was not read back, as it lies in an archive class; an empty text where
    everything was. Its size and checksum are what the manifest says.
    """

    id: SegmentId
    size: int
    problem: str
    healed: bool = False
    may_lack_files: bool = False
    manifest: Manifest | None = None
    unreadable: bool = False
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """``problems`` are by file: all of them, where the manifest is missing or bad. ``skipped``: see `Verdict`."""

    manifest: Manifest | None
    problems: dict[FileKind, str]
    skipped: str = ""

    def verdict(self, identity: SegmentId, *, healed: bool = False) -> Verdict:
        manifest = self.manifest
        return Verdict(
            identity,
            manifest.stored_size if manifest else 0,
            "; ".join(self.problems.values()),
            healed,
            may_lack_files=manifest is not None and manifest.may_lack_files,
            manifest=manifest,
            skipped=self.skipped,
        )


@dataclass(frozen=True, slots=True)
class Verifier:
    """Compares the archive with its manifests, and changes nothing."""

    catalog: Catalog
    store: ReadableStore
    limits: Limits
    examiner: Examiner

    async def verify(self, wanted: Callable[[SegmentId], bool], *, deep: bool) -> AsyncIterator[Verdict]:
        """Each archived segment, as it is done; ``deep`` reads every byte back, else sizes and checksums are asked for.

        A segment that the catalog knows as archived, and that has no manifest, is among them. Changes nothing.
        `StoreError` where the store serves nothing any more.
        """
        names = await in_thread(lambda: {s.id for s in self.catalog.archived() if _is_relied_on(s)})
        async for info in self.store.list():
            # Of another replica's log its own daemon takes care.
            if (identity := parse_manifest_key(info.key)) is not None and self._is_ours(identity):
                names.add(identity)
        todo = [identity for identity in sorted(names) if wanted(identity)]
        in_a_row = 0
        for at in range(0, len(todo), _AT_ONCE):
            for verdict in await all_of([self._verify_one(i, deep=deep) for i in todo[at : at + _AT_ONCE]]):
                yield verdict
                in_a_row = in_a_row + 1 if verdict.unreadable else 0
            if in_a_row >= _UNREADABLE_IN_A_ROW:
                raise StoreUnavailable(
                    f"none of {in_a_row} segments in a row could be read from {self.store.address}",
                    hint="It lists them: look whether these credentials may read objects, and at the store's own log",
                )

    def _is_ours(self, identity: SegmentId) -> bool:
        return replica_of(identity.label) in {"", self.catalog.replica}

    async def _verify_one(self, identity: SegmentId, *, deep: bool) -> Verdict:
        try:
            with work.working("verify", identity.path):
                found = await self.examiner.examine(identity, self.limits.downloads if deep else None)
        except StoreError as error:
            # Where the store fails as a whole, raise that instead.
            await self.store.check()
            return Verdict(identity, 0, str(error), unreadable=True)
        return found.verdict(identity)


@dataclass(frozen=True, slots=True)
class Scrubber:
    """Reads archived segments back, and takes the consequences."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    limits: Limits
    stopping: asyncio.Event
    examiner: Examiner
    copier: Copier

    async def scrub(self, owned: OwnedPrefix, pace: Pace) -> None:
        """Read the whole archive once, at that pace; single failures are logged, and the next segment follows.

        `StoreError` where the store serves nothing any more.
        """
        archived, skipped = self.catalog.archived(), 0
        # In a thread: a million rows of segments on disk may come before the next archived one.
        while (segment := await in_thread(next, archived, None)) is not None:
            await self.limits.turns.give_way(Turn.SCRUB)
            if self.stopping.is_set():
                return
            try:
                skipped += bool((await self.scrub_one(owned, segment.id, pace)).skipped)
            except TakhinError as error:
                logs.logger().warning("a segment could not be scrubbed", segment=segment.id.path, error=str(error))
                if isinstance(error, StoreError):
                    await self.store.check()
        if skipped:
            logs.logger().info("segments in an archive class were not read back", segments=skipped)

    async def scrub_one(self, owned: OwnedPrefix, identity: SegmentId, pace: Pace) -> Verdict:
        """Read one segment's objects, and take the consequences. `StoreError` where the store does not answer."""
        with verb("scrub", identity.path):
            found = await self.examiner.examine(identity, pace)
            manifest, problems = found.manifest, found.problems
            async with self.catalog.lock(identity):
                if not problems:
                    if not found.skipped:
                        _release(self.catalog, identity)
                    return found.verdict(identity)
                problem = "; ".join(problems.values())
                if manifest is not None and await load_manifest(self.store, identity) != manifest:
                    # It was archived again while it was read. The next scrub reads that copy.
                    return replace(found, problems={}).verdict(identity)
                logs.logger().error("the archive's copy of a segment is bad", problem=problem)
                _quarantine(self.catalog, identity, problem)
                reached("scrub.quarantined")
                try:
                    healed = await self._heal(owned, identity, manifest, frozenset(problems))
                except StoreError as error:
                    logs.logger().warning(
                        "the archive's copy could not be stored again from the disk", error=str(error)
                    )
                    healed = False
                await self.catalog.flush()
                return found.verdict(identity, healed=healed)

    async def _heal(
        self, owned: OwnedPrefix, identity: SegmentId, manifest: Manifest | None, bad: frozenset[FileKind]
    ) -> bool:
        """Store bad objects again from the disk, if the archived bytes stand there."""
        segment = await refresh(self.catalog, self.data_dir, identity)
        if segment is None or segment.local.log is None or segment.active:
            return False
        if manifest is not None:
            part_size = manifest.log.plain_part_size
            checksum = await read_local_checksum(self.data_dir, identity, FileKind.LOG, part_size)
            if checksum != manifest.log.plain_sha256:
                return False
        try:
            await self.copier.copy_held(owned, segment, distrusted=bad)
        except OtherIncarnation:
            return False
        logs.logger().info("healed the archive's copy from the local one")
        return True


@dataclass(frozen=True, slots=True)
class Examiner:
    """Reads the objects of a segment, and compares them with its manifest."""

    store: ReadableStore
    metrics: Metrics
    codecs: Codecs

    async def examine(self, identity: SegmentId, pace: Pace | None) -> Examined:
        """Compare each object with the manifest. Without a pace, only the store is asked.

        What lies in an archive class is not read: there too, only the store is asked.
        """
        try:
            manifest = await self._repeat(lambda: load_manifest(self.store, identity))
        except (ObjectCorrupt, Unreadable) as error:
            return Examined(None, {FileKind.LOG: str(error)})
        if manifest is None:
            return Examined(None, {FileKind.LOG: f"no manifest {identity.manifest_key} in the archive"})
        problems: dict[FileKind, str] = {}
        skipped = ""
        for kind, file in manifest.files.items():
            try:
                if pace is not None:
                    try:
                        problem = await self._repeat(partial(self._read, manifest, kind, pace))
                    except InGlacier as error:
                        skipped = error.message
                    else:
                        problems |= {kind: problem} if problem else {}
                        continue
                await self._repeat(partial(prove_file, self.store, identity, file))
            except InGlacier as error:
                skipped = error.message
            except (ObjectMissing, ObjectCorrupt, Unreadable) as error:
                problems[kind] = str(error)
        return Examined(manifest, problems, skipped)

    async def _read(self, manifest: Manifest, kind: FileKind, pace: Pace) -> str:
        """What is wrong with the bytes of a file; empty if nothing is."""
        file = manifest.files[kind]
        if file.parts:
            return await self._read_spliced(manifest, pace)
        found = await read_checksum(self.store, file.key, file.part_size, pace)
        self.metrics.scrubbed.inc(found[0])
        is_right = found == (file.size, file.sha256)
        return "" if is_right else f"object {file.key} does not hold the bytes that it should"

    async def _read_spliced(self, manifest: Manifest, pace: Pace) -> str:
        log = manifest.log
        try:
            sources = await sources_of(self.store, manifest, self.codecs.keys)
        except (NoKey, WrongKey):
            # The objects that its parts stand in can be compared all the same.
            others = [await log_of(self.store, part) for part in log.parts]
            return "; ".join(filter(None, [await self._read(other, FileKind.LOG, pace) for other in others]))
        hasher = Hasher(log.part_size)

        def came(count: int) -> None:
            pace.spend_here(count)
            work.moved(count)
            self.metrics.scrubbed.inc(count)

        await read_spliced(log.parts, sources, hasher.update, came)
        is_right = (hasher.size, hasher.checksum().sha256) == (log.size, log.sha256)
        return "" if is_right else "the log, which is made of parts of others, does not have the bytes that it should"

    async def _repeat(self, look: Callable[[], Awaitable[Seen]]) -> Seen:
        """Look at an object, twice if need be. `Unreadable` where the store serves others, and not this one.

        An object that has to be retrieved first, or that these credentials may not read, is not damaged: that error is
        raised as it is, and so is an outage.
        """
        for left in reversed(range(_LOOKS)):
            try:
                return await look()
            except StoreUnavailable as error:
                await self.store.check()
                if not left:
                    raise Unreadable(
                        f"the store answers, and cannot read it: {error.message}", key=error.key
                    ) from error
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError


def _is_relied_on(segment: Segment) -> bool:
    """Whether it has to be there: what only other replicas rely on may be gone by now."""
    return segment.state is not State.LOCAL and segment.archive is not None and segment.archive.held


def _quarantine(catalog: Catalog, identity: SegmentId, problem: str) -> None:
    known = catalog.get(identity)
    if known is not None:
        catalog.put(replace(known, quarantine=problem))


def _release(catalog: Catalog, identity: SegmentId) -> None:
    known = catalog.get(identity)
    if known is not None and known.quarantine:
        catalog.put(replace(known, quarantine=""))
