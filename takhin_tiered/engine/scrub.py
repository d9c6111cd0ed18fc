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
from takhin_tiered.concurrency import all_of, in_thread
from takhin_tiered.disk.access import read_local_checksum
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.branching import OtherIncarnation
from takhin_tiered.engine.copying import Copier
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.refresh import refresh
from takhin_tiered.engine.turns import Turn
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing, StoreError, StoreUnavailable, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import State
from takhin_tiered.segments.names import FileKind, SegmentId, parse_manifest_key
from takhin_tiered.store import ReadableStore
from takhin_tiered.store.base import NotReadable
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest, prove_file, read_checksum
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
    more is known of it.
    """

    id: SegmentId
    size: int
    problem: str
    healed: bool = False
    may_lack_files: bool = False
    manifest: Manifest | None = None
    unreadable: bool = False


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
        names = await in_thread(lambda: {s.id for s in self.catalog.archived() if s.state is not State.LOCAL})
        async for info in self.store.list():
            if (identity := parse_manifest_key(info.key)) is not None:
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

    async def _verify_one(self, identity: SegmentId, *, deep: bool) -> Verdict:
        try:
            with work.working("verify", identity.path):
                manifest, problems = await self.examiner.examine(identity, self.limits.downloads if deep else None)
        except StoreError as error:
            # Where the store fails as a whole, raise that instead.
            await self.store.check()
            return Verdict(identity, 0, str(error), unreadable=True)
        lacks = manifest is not None and manifest.may_lack_files
        size = manifest.stored_size if manifest else 0
        return Verdict(identity, size, "; ".join(problems.values()), may_lack_files=lacks, manifest=manifest)


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
        archived = self.catalog.archived()
        # In a thread: a million rows of segments on disk may come before the next archived one.
        while (segment := await in_thread(next, archived, None)) is not None:
            await self.limits.turns.give_way(Turn.SCRUB)
            if self.stopping.is_set():
                return
            try:
                await self.scrub_one(owned, segment.id, pace)
            except TakhinError as error:
                logs.logger().warning("a segment could not be scrubbed", segment=segment.id.path, error=str(error))
                if isinstance(error, StoreError):
                    await self.store.check()

    async def scrub_one(self, owned: OwnedPrefix, identity: SegmentId, pace: Pace) -> Verdict:
        """Read one segment's objects, and take the consequences. `StoreError` where the store does not answer."""
        with verb("scrub", identity.path):
            manifest, problems = await self.examiner.examine(identity, pace)
            size = manifest.stored_size if manifest else 0
            async with self.catalog.lock(identity):
                if not problems:
                    _release(self.catalog, identity)
                    return Verdict(identity, size, "")
                problem = "; ".join(problems.values())
                if manifest is not None and await load_manifest(self.store, identity) != manifest:
                    # It was archived again while it was read. The next scrub reads that copy.
                    return Verdict(identity, size, "")
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
                return Verdict(identity, size, problem, healed)

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

    async def examine(self, identity: SegmentId, pace: Pace | None) -> tuple[Manifest | None, dict[FileKind, str]]:
        """What is wrong with each file; all of them, where the manifest is. Without a pace, only the store is asked."""
        try:
            manifest = await self._repeat(lambda: load_manifest(self.store, identity))
        except (ObjectCorrupt, Unreadable) as error:
            return None, dict.fromkeys((FileKind.LOG,), str(error))
        if manifest is None:
            return None, {FileKind.LOG: f"no manifest {identity.manifest_key} in the archive"}
        problems: dict[FileKind, str] = {}
        for kind, file in manifest.files.items():
            try:
                if pace is None:
                    await self._repeat(partial(prove_file, self.store, identity, file))
                else:
                    read = partial(read_checksum, self.store, file.key, file.part_size, pace)
                    found = await self._repeat(read)
                    self.metrics.scrubbed.inc(found[0])
                    if found != (file.size, file.sha256):
                        problems[kind] = f"object {file.key} does not hold the bytes that it should"
            except (ObjectMissing, ObjectCorrupt, Unreadable) as error:
                problems[kind] = str(error)
        return manifest, problems

    async def _repeat(self, look: Callable[[], Awaitable[Seen]]) -> Seen:
        """Look at an object, twice if need be. `Unreadable` where the store serves others, and not this one.

        An object that has to be thawed first, or that these credentials may not read, is not damaged: that error is
        raised as it is, and so is an outage.
        """
        for left in reversed(range(_LOOKS)):
            try:
                return await look()
            except NotReadable:
                raise
            except StoreUnavailable as error:
                await self.store.check()
                if not left:
                    raise Unreadable(
                        f"the store answers, and cannot read it: {error.message}", key=error.key
                    ) from error
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError


def _quarantine(catalog: Catalog, identity: SegmentId, problem: str) -> None:
    known = catalog.get(identity)
    if known is not None:
        catalog.put(replace(known, quarantine=problem))


def _release(catalog: Catalog, identity: SegmentId) -> None:
    known = catalog.get(identity)
    if known is not None and known.quarantine:
        catalog.put(replace(known, quarantine=""))
