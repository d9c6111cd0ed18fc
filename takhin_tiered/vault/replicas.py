"""A prefix that the daemons of several replicas share: nobody removes or replaces what another one relies on.

Two kinds of small objects beside a segment's manifest tell that, and one listing shows them all:

- An **adoption record** of each replica that relies on the archived copy, or is making it. It stands before the replica
  does either (`hold`), and goes when the copy's retention there is over (`release`).
- A **mark** of the replica that is just removing or replacing objects. It is put first; then the listing is read. Of
  two that race, each writes before it reads: so at least one of them sees the other, whatever is delayed.

Who sees an adoption record of another replica removes nothing that a manifest names, and replaces a manifest only by
one with the same log. Who sees a mark of another waits, and then leaves the segment for its next cycle. So a manifest
that was read after `hold` stays as it is in all that matters, for as long as the record stands.

A mark names the process that put it. It counts while that process owns its replica's owner record. What a dead one
left is removed once it was made to lose that, and once no request that it had sent can arrive any more: the same time
a mark stands whose process got no clear answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby

from takhin_tiered import machine
from takhin_tiered.errors import ObjectCorrupt, ObjectExists, ObjectMissing, SegmentBusy, SegmentShared, StoreError
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import (
    FileKind,
    SegmentId,
    generation_of,
    parse_adoption_key,
    parse_mark_key,
    parse_object_key,
    parts_record,
    segment_of,
)
from takhin_tiered.segments.owner import Party
from takhin_tiered.store.base import ObjectStore
from takhin_tiered.vault.challenging import Fencer, put
from takhin_tiered.vault.generations import named_by, superseded_of
from takhin_tiered.vault.owned import Fence, OwnedPrefix
from takhin_tiered.vault.proof import load_manifest, prove_file, read_manifest
from takhin_tiered.vault.releases import LATE_AFTER, Releases
from takhin_tiered.vault.sharing import adoption_record

LOOKS = 12
LOOK_EVERY = 0.4
"""Seconds, at most, between looks at a mark of another replica: most marks stand for less than a second."""
_PATIENCE_SECONDS = 24 * 3600.0
"""Seconds for which the replica that held a segment first is waited for."""
_STALE_UPLOAD_SECONDS = 7 * 24 * 3600.0
_DERIVED = {FileKind.INDEX, FileKind.TIMEINDEX}


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a listing shows of a segment: the replicas that adopted it, and marks as (key, replica, nonce).

    ``put_at`` is when each mark was written, by the store's clock, in seconds since the epoch.
    """

    adopters: frozenset[str]
    marks: tuple[tuple[str, str, str], ...]
    put_at: Mapping[str, float]


@dataclass(slots=True)
class _Section:
    """While a mark stands: ``others`` adopted the segment too. ``is_sent``: what it protects may be on its way."""

    others: frozenset[str]
    is_sent: bool = False


@dataclass(slots=True)
class Unanswered:
    """What a process sent that may still arrive: the marks that stand for it, and removals of adoption records.

    Each mark has the time of the machine from which on nothing arrives any more. ``in_use`` are the marks of verbs at
    work, which may be ones that stand already.
    """

    releases: Releases
    marks: dict[str, float] = field(default_factory=dict)
    in_use: set[str] = field(default_factory=set)


class SharedPrefix(OwnedPrefix):
    """``me`` is this process, with the nonce of its present claim: ``fence`` lets only that one pass.

    ``unanswered`` outlives this object.
    """

    def __init__(self, store: ObjectStore, fence: Fence, me: Party, fencer: Fencer, unanswered: Unanswered) -> None:
        super().__init__(store, fence)
        self.replica = me.id
        self._me, self._fencer, self._left, self._releases = me, fencer, unanswered.marks, unanswered.releases
        self._in_use = unanswered.in_use

    async def sweep(self) -> None:
        """Remove marks of this process that are due: what they protected arrives no more."""
        now = machine.uptime()
        if due := sorted(key for key, until in self._left.items() if until <= now and key not in self._in_use):
            with suppress(StoreError):
                await self._store.delete(due)
                for key in due:
                    del self._left[key]

    async def hold(self, identity: SegmentId) -> None:
        await self._hold(identity, self.replica)

    async def hold_parts(self, identity: SegmentId) -> None:
        await self._hold(identity, parts_record(self.replica))

    async def _hold(self, identity: SegmentId, name: str) -> None:
        key = identity.adoption_key(name)
        if self._releases.may_arrive(key):
            raise SegmentBusy(
                f"the removal of this replica's adoption record of segment {identity.full_path} may still arrive",
                segment=identity.path,
                key=key,
                hint=f"The local files stay as they are; the first cycle after {LATE_AFTER:.0f} s tries again",
            )
        standing = await self._look(identity)
        if name not in standing.adopters:
            await self._fence(fresh=False)
            record = adoption_record(self._me, self.replica)
            with suppress(ObjectExists):
                await put(self._store, key, record, if_absent=True)
            reached("replicas.adopting")
            standing = await self._look(identity)
        for _ in range(LOOKS):
            # A mark of this process is a late one where the segment's lock is held: then no verb is at work on it.
            if not await self._others_marks(standing) and not await self._own_late(standing):
                reached("replicas.adopted")
                return
            await _pause()
            standing = await self._look(identity)
        raise _busy(identity)

    async def adopters(self, identity: SegmentId) -> frozenset[str]:
        return (await self._look(identity)).adopters

    async def is_behind(self, identity: SegmentId) -> bool:
        since: dict[str, tuple[float, str]] = {}
        async for info in self._store.list(f"{identity.stem}adopted."):
            if not info.read_only and (adoption := parse_adoption_key(info.key)) is not None:
                since[adoption[1]] = info.modified, adoption[1]
        ours = since.get(self.replica)
        begun = await self._now() - _PATIENCE_SECONDS
        before = [name for name, when in since.items() if ours is not None and when < ours and when[0] > begun]
        return any([await self._fencer.may_be_alive(name) for name in before])

    async def others(self, identity: SegmentId) -> frozenset[str]:
        return (await self._look(identity)).adopters - {self.replica}

    async def tidy(self, identity: SegmentId) -> None:
        """Remove marks that count no more, with the segment's lock held."""
        standing = await self._look(identity)
        await self._own_late(standing)
        await self._others_marks(standing)

    async def release(self, identity: SegmentId) -> None:
        await self._release(identity, self.replica)
        reached("replicas.released")

    async def release_parts(self, identity: SegmentId) -> None:
        await self._release(identity, parts_record(self.replica))
        reached("parts.released")

    async def _release(self, identity: SegmentId, name: str) -> None:
        await self._fence(fresh=True)
        key = identity.adoption_key(name)
        async with self._releases.sending(key):
            await self._store.delete([key])

    @asynccontextmanager
    async def replacing(self, before: Manifest, after: Manifest, key: str = "") -> AsyncIterator[None]:
        identity = after.id
        async with self._marked(identity, relies=True) as section:
            if section.others and not _preserves(before, after):
                raise _shared(identity, section.others)
            try:
                current = await read_manifest(self._store, identity, key or identity.manifest_key)
            except ObjectMissing as error:
                raise _busy(identity) from error
            if current != before:
                raise _busy(identity)
            # The objects of the manifest that stands are safe. Others might have been an orphan that is gone by now.
            safe = {file.key for file in before.files.values()}
            for file in after.files.values():
                if file.key not in safe:
                    await prove_file(self._store, identity, file)
            await self._fence(fresh=True)
            section.is_sent = True
            yield

    async def delete(self, keys: Sequence[str], *, gives_up_parts: bool = False) -> None:
        """See `ObjectStore.delete`. `SegmentShared` where others rely on a key: other segments' keys are gone then."""
        refused: SegmentShared | SegmentBusy | None = None
        for identity, group in groupby(sorted(keys, key=lambda key: str(segment_of(key))), key=segment_of):
            if identity is None:
                await super().delete([*group])
                continue
            try:
                await self._delete_of(identity, [*group], gives_up_parts=gives_up_parts)
            except (SegmentShared, SegmentBusy) as error:
                refused = refused or error
        if refused is not None:
            raise refused

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        """See `ObjectStore.remove_stale_uploads`. One of another replica may be under way: only those of days ago."""
        return await super().remove_stale_uploads(max(older_than, _STALE_UPLOAD_SECONDS), ours, begun)

    async def _delete_of(self, identity: SegmentId, keys: Sequence[str], *, gives_up_parts: bool) -> None:
        async with self._marked(identity, relies=False) as section:
            if gives_up_parts:
                section.others -= {parts_record(self.replica)}
            if section.others and await self._may_be_relied_on(identity, keys):
                raise _shared(identity, section.others)
            await self._fence(fresh=True)
            section.is_sent = True
            await self._store.delete(keys)
            reached("replicas.deleted")

    async def _may_be_relied_on(self, identity: SegmentId, keys: Sequence[str]) -> bool:
        """Whether a manifest names one of these, the current one or a superseded one; or is one of them.

        Without a manifest another replica may be about to commit one that names these objects.
        """
        manifest = await load_manifest(self._store, identity)
        if manifest is None or any(parse_object_key(key) is None for key in keys):
            return True
        manifests = [manifest]
        if any(generation_of(key) < manifest.generation for key in keys):
            try:
                manifests += [each async for each in superseded_of(self._store, identity)]
            except (ObjectMissing, ObjectCorrupt):
                return True
        return not named_by(manifests).isdisjoint(keys)

    @asynccontextmanager
    async def _marked(self, identity: SegmentId, *, relies: bool) -> AsyncIterator[_Section]:
        """Within, no other replica removes or replaces objects of the segment. `SegmentBusy` where one does so now.

        ``relies``: on what stands there afterwards, so that nothing that is late may take it away.
        """
        key = identity.mark_key(self.replica, self._me.nonce)
        await self._fence(fresh=True)
        section = _Section(frozenset())
        self._in_use.add(key)
        try:
            await put(self._store, key, adoption_record(self._me, self.replica), if_absent=False)
            reached("replicas.marked")
            section.others = (await self._alone(identity, relies=relies)).adopters - {self.replica}
            yield section
        except BaseException:
            if section.is_sent:
                # Without a clear answer it may still arrive.
                self._left[key] = machine.uptime() + LATE_AFTER
            raise
        finally:
            self._in_use.discard(key)
            if key not in self._left:
                await asyncio.shield(self._unmark(key))

    async def _unmark(self, key: str) -> None:
        try:
            await self._store.delete([key])
        except StoreError:
            self._left[key] = machine.uptime()
        reached("replicas.unmarked")

    async def _alone(self, identity: SegmentId, *, relies: bool) -> _Standing:
        """Wait until ours is the only mark. Of two that wait for each other the one with the greater name gives up."""
        for _ in range(LOOKS):
            standing = await self._look(identity)
            others = await self._others_marks(standing, relies=relies)
            if not others:
                reached("replicas.looked")
                return standing
            if min(others) < self.replica:
                break
            await _pause()
        raise _busy(identity)

    async def _look(self, identity: SegmentId) -> _Standing:
        adopters, marks, put_at = set[str](), list[tuple[str, str, str]](), dict[str, float]()
        async for info in self._store.list(identity.stem):
            if info.read_only:
                continue
            if (adoption := parse_adoption_key(info.key)) is not None:
                adopters.add(adoption[1])
            elif (mark := parse_mark_key(info.key)) is not None:
                marks.append((info.key, *mark[1:]))
                put_at[info.key] = info.modified
        return _Standing(frozenset(adopters), tuple(marks), put_at)

    async def _others_marks(self, standing: _Standing, *, relies: bool = True) -> list[str]:
        """The replicas whose marks count, of other processes than this one. See `_is_over` for those of dead ones."""
        counting: list[str] = []
        for key, replica, nonce in standing.marks:
            if replica == self.replica and nonce == self._me.nonce:
                continue
            is_dead = replica == self.replica or await self._fencer.is_fenced(replica, nonce)
            if not is_dead or (not await self._is_over(standing, key) and relies):
                counting.append(replica)
        return counting

    async def _own_late(self, standing: _Standing) -> bool:
        """Whether a mark of this very process counts, as no verb of it is at work."""
        own = [key for key, replica, nonce in standing.marks if (replica, nonce) == (self.replica, self._me.nonce)]
        return any([not await self._is_over(standing, key) for key in own])

    async def _is_over(self, standing: _Standing, key: str) -> bool:
        """Of a mark of no verb at work: whether all that was sent under it has arrived. Then it is removed."""
        if key in self._in_use:
            return False
        if await self._now() - standing.put_at[key] < LATE_AFTER:
            return False
        await self._remove([key])
        self._left.pop(key, None)
        return True

    async def _now(self) -> float:
        """By the store's clock, where it tells the time."""
        now = await self._store.now()
        return time.time() if now is None else now.seconds

    async def _remove(self, marks: Sequence[str]) -> None:
        """Best effort: one that stays counts no more either."""
        if marks:
            with suppress(StoreError):
                await self._store.delete(marks)


async def _pause() -> None:
    await asyncio.sleep(LOOK_EVERY * random.uniform(0.5, 1.0))  # noqa: S311 - so that two do not look in step


def _preserves(before: Manifest, after: Manifest) -> bool:
    """Whether who relies on the one may rely on the other: the same log and all that belongs to it.

    Indexes are made from the log: those of another replica serve as well.
    """
    if (before.topic_id, before.follows, before.from_offset) != (after.topic_id, after.follows, after.from_offset):
        return False
    if not set(before.leader_epochs) <= set(after.leader_epochs):
        return False
    for kind, file in before.files.items():
        now = after.files.get(kind)
        if now is None:
            return False
        same = (now.plain_size, now.plain_sha256) == (file.plain_size, file.plain_sha256)
        if not same and kind not in _DERIVED:
            return False
    return True


def _shared(identity: SegmentId, others: frozenset[str]) -> SegmentShared:
    return SegmentShared(
        f"{len(others)} other replicas rely on the archived copy of segment {identity.full_path}",
        segment=identity.path,
        key=identity.adoption_key(min(others)),
        hint="It stays as it is, and so do the local files",
    )


def _busy(identity: SegmentId) -> SegmentBusy:
    return SegmentBusy(
        f"another replica is changing the archived copy of segment {identity.full_path}",
        segment=identity.path,
        key=identity.manifest_key,
        hint="The local files stay as they are; the next cycle tries again",
    )
