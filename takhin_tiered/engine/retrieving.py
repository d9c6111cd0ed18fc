"""What lies in an archive class such as GLACIER is requested, and restored once it can be read.

That takes minutes to days. So a restore is not held up: it is told when to expect the segment, and the daemon restores
it then. What was requested is in the journal before the request is sent, so that a restart goes on waiting.

Nothing is paid for that the budget did not allow: what was noted and never sent, and what only a retrieved manifest
names, asks it again. What lapsed before it was restored is given up. It was paid for, and a person has to ask anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import Journal
from takhin_tiered.concurrency import all_of
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.restore import ToRestore
from takhin_tiered.errors import InGlacier, InvalidSegmentPath, ObjectMissing
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.names import SegmentId, parse_manifest_key
from takhin_tiered.segments.retrieval import (
    DEEP_ARCHIVE,
    GLACIER,
    STANDARD_TIER,
    Retrieval,
    days_needed,
    longest_retrieval,
    minute_of,
    pause_before_look,
)
from takhin_tiered.store import ObjectInfo, ReadableStore
from takhin_tiered.vault.proof import load_manifest, log_of

_PREFIX = "retrieval:"
_SHORTEST = 86400.0
"""Seconds for which nothing lapses that was requested: copies are asked for in days."""
Admit = Callable[[str], AbstractAsyncContextManager[None]]


class Progress(StrEnum):
    COMING = "coming"
    READABLE = "readable"
    UNREQUESTED = "unrequested"
    """Something has to be requested that was not: the budget has to be asked."""
    LAPSED = "lapsed"
    """It was retrieved, and not restored while it could be read."""
    GONE = "gone"
    """Nothing is to be restored any more."""


@dataclass(slots=True)
class Retriever:
    """``tier`` and ``days`` are as in the settings. ``pending`` is everything that is waited for."""

    catalog: Catalog
    store: ReadableStore
    clock: Clock
    limits: Limits
    metrics: Metrics
    journal: Journal | None
    tier: str = STANDARD_TIER
    days: int = 1
    pending: dict[SegmentId, Retrieval] = field(default_factory=dict)
    # When each is looked at again.
    _next_look: dict[SegmentId, float] = field(default_factory=dict)

    def apply(self, tier: str, days: int) -> None:
        self.tier, self.days = tier, days

    async def load(self) -> None:
        """What an earlier process requested."""
        found = await self.journal.metas(_PREFIX) if self.journal is not None else {}
        for name, text in found.items():
            try:
                retrieval = Retrieval.from_json(json.loads(text))
            except (ValueError, LookupError, TypeError, InvalidSegmentPath) as error:
                logs.logger().warning("a noted retrieval cannot be read, and is left out", name=name, error=repr(error))
                continue
            self.pending[retrieval.id] = retrieval
        self._tell()

    async def require_readable(self, identity: SegmentId) -> None:
        """`InGlacier` where something would have to be retrieved before the segment can be restored."""
        for info in await self._frozen(identity):
            raise InGlacier(
                f"segment {identity.path} is in {info.storage_class or GLACIER}, and would have to be retrieved first",
                segment=identity.path,
                key=info.key,
                storage_class=info.storage_class,
            )

    async def request(self, wanted: ToRestore, admit: Admit, because: InGlacier | None = None) -> None:
        """Have everything retrieved that the segment needs. Raises `InGlacier`, which says when it is expected.

        Returns if all of it can be read by now. ``admit`` is asked before anything is paid for, with the class in which
        it was found. It is ``because`` of this error of a restore, which is raised where it concerns another segment.
        """
        frozen = await self._frozen(wanted.id)
        if not frozen:
            if because is not None and because.segment and because.segment != wanted.id.path:
                raise because
            return
        storage_class = next((info.storage_class for info in frozen if info.storage_class), GLACIER)
        before, now = self.pending.get(wanted.id), self.clock.now()
        # The pauses between looks grow from then on, also where a server refuses a request again and again.
        goes_on = before is not None and now - before.requested_at < _SHORTEST and not _is_next(before, frozen)
        since = before.requested_at if before is not None and goes_on else now
        retrieval = Retrieval(
            wanted.id,
            storage_class,
            since,
            since + max(longest_retrieval(info.storage_class, self._tier_for(info.storage_class)) for info in frozen),
            wanted.lease,
            wanted.log,
            wanted.by,
            wanted.correlation,
            over_budget=wanted.over_budget,
            only_manifest=_is_manifest(frozen),
        )
        async with admit(storage_class):
            await self._note(retrieval)
            reached("retrieve.journaled")
            await self._send(frozen)
            await self._note(replace(retrieval, sent=True))
        self._next_look[wanted.id] = now + pause_before_look(retrieval, now)
        raise self.not_yet(retrieval)

    async def _send(self, frozen: Sequence[ObjectInfo]) -> None:
        classes = {info.storage_class for info in frozen}
        days = days_needed(self.days, classes, self.tier, before_others=_is_manifest(frozen))
        for info in frozen:
            if not info.is_coming:
                await self.store.retrieve(info.key, days=days, tier=self._tier_for(info.storage_class))
                logs.logger().info("requested an object", key=info.key, storage_class=info.storage_class)
                reached("retrieve.requested")

    def due(self) -> list[Retrieval]:
        """What is worth looking at now; the highest segment of a partition first, as Kafka's logs are restored."""
        now = self.clock.now()
        found = [each for each in self.pending.values() if self._next_look.get(each.id, 0.0) <= now]
        return sorted(found, key=lambda each: (each.id.place, -each.id.base_offset))

    async def look(self, retrieval: Retrieval) -> Progress:
        """How far it is, by the store's word."""
        now = self.clock.now()
        self._next_look[retrieval.id] = now + pause_before_look(retrieval, now)
        segment = self.catalog.get(retrieval.id)
        if segment is not None and segment.local.log is not None:
            return Progress.GONE
        try:
            frozen = await self._frozen(retrieval.id)
        except ObjectMissing:
            return Progress.GONE
        if not frozen:
            return Progress.READABLE
        if all(info.is_coming for info in frozen):
            return Progress.COMING
        if not retrieval.sent or _is_next(retrieval, frozen) or now - retrieval.requested_at < _SHORTEST:
            return Progress.UNREQUESTED
        return Progress.LAPSED

    async def forget(self, identities: Iterable[SegmentId]) -> None:
        for identity in identities:
            if self.pending.pop(identity, None) is not None and self.journal is not None:
                await self.journal.drop_meta(_name(identity))
            self._next_look.pop(identity, None)
        self._tell()

    async def _note(self, retrieval: Retrieval) -> None:
        if self.journal is not None:
            await self.journal.set_meta(_name(retrieval.id), json.dumps(retrieval.to_json()))
        self.pending[retrieval.id] = retrieval
        self._tell()

    def _tell(self) -> None:
        self.metrics.retrievals.set(len(self.pending))

    async def _frozen(self, identity: SegmentId) -> list[ObjectInfo]:
        """What has to be retrieved before the segment can be restored."""
        try:
            manifest = await load_manifest(self.store, identity)
        except InGlacier:
            return await self._frozen_of([identity.manifest_key])
        if manifest is None:
            raise ObjectMissing(
                f"the archive has no manifest {identity.manifest_key}", segment=identity.path, key=identity.manifest_key
            )
        keys = [file.key for file in manifest.files.values() if not file.parts]
        keys += [(await log_of(self.store, part)).log.key for part in manifest.log.parts]
        return await self._frozen_of(keys)

    async def _frozen_of(self, keys: Sequence[str]) -> list[ObjectInfo]:
        async def head(key: str) -> ObjectInfo | None:
            async with self.limits.requests:
                return await self.store.head(key)

        found = await all_of([head(key) for key in dict.fromkeys(keys)])
        return [info for info in found if info is not None and info.is_frozen]

    def _tier_for(self, storage_class: str) -> str:
        """The deep archive knows no expedited retrieval."""
        return STANDARD_TIER if storage_class == DEEP_ARCHIVE and self.tier == "Expedited" else self.tier

    def not_yet(self, retrieval: Retrieval) -> InGlacier:
        path = retrieval.id.path
        return InGlacier(
            f"segment {path} is in {retrieval.storage_class}: it was requested at {minute_of(retrieval.requested_at)}, "
            f"and is expected by {minute_of(retrieval.expected_at)}",
            segment=path,
            hint="The daemon restores it as soon as it can be read; takhin-tiered status shows what is waited for",
            storage_class=retrieval.storage_class,
            seconds=max(0.0, retrieval.expected_at - self.clock.now()),
            is_requested=True,
        )


def _is_manifest(frozen: Sequence[ObjectInfo]) -> bool:
    """Whether it is a manifest alone: what it names is not known yet."""
    return all(parse_manifest_key(info.key) is not None for info in frozen)


def _is_next(retrieval: Retrieval, frozen: Sequence[ObjectInfo]) -> bool:
    """Whether the manifest came, and has told what else has to be retrieved."""
    return retrieval.only_manifest and not _is_manifest(frozen)


def _name(identity: SegmentId) -> str:
    return _PREFIX + identity.exact_path
