"""Cold segments go to the class of cold ones: what the store lists tells which are in the class of warm ones still.

An object in any other class was moved by a lifecycle rule, or by hand: it stays there. Nothing is remembered of single
objects. The store's listing is the truth, and is read again at each interval.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.concurrency import all_of
from takhin_tiered.engine.class_walks import ClassWalks
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.situation import Situation, usage_now
from takhin_tiered.errors import (
    InGlacier,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreError,
    TakhinError,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.classes import Walk
from takhin_tiered.segments.model import Segment, Tier
from takhin_tiered.segments.names import SegmentId, parse_object_key
from takhin_tiered.segments.policy import classify
from takhin_tiered.segments.retrieval import SMALLEST_IN_CLASS, class_or_default
from takhin_tiered.store.base import PROBE_KEY, Notes, NotSupported
from takhin_tiered.vault.classes import change_class
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import load_manifest
from takhin_tiered.vault.stored import MULTIPART_THRESHOLD, PART_SIZE
from takhin_tiered.verbs import verb

_AT_ONCE = 8
_META = "classes"
_SHARE_OF_INTERVAL = 0.25


@dataclass(frozen=True, slots=True, order=True)
class _Change:
    """From the class of warm segments to that of cold ones, of some topics."""

    source: str
    target: str

    @property
    def note(self) -> str:
        """The name of what is remembered: when it was done last."""
        return f"{_META} {self.source} {self.target}"


@dataclass(frozen=True, slots=True)
class ClassChanger:
    """``notes`` outlive the process: when everything was looked at last."""

    catalog: Catalog
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    stopping: asyncio.Event
    notes: Notes | None
    walks: ClassWalks

    async def change(self, owned: OwnedPrefix) -> None:
        """Change the classes of cold segments, if that is due. It ends after a part of the cycle's interval.

        `StoreError` where the store does not answer.
        """
        policy = self.situation.policy
        if not policy.enabled or not policy.auto_archive:
            return
        for change in sorted({self._change_of(topic) for topic in {place.topic for place in self.catalog.places()}}):
            if not change.target or change.source == change.target or not await self._is_due(change):
                continue
            began = self.clock.sure_now()
            largest = await self._largest(owned, change)
            if largest is not None:
                if not await self._change_all(owned, change, largest):
                    return
                await self.walks.note(change.source, change.target, Walk(began, largest))
            await self._note(change)

    def _change_of(self, topic: str) -> _Change:
        policy = self.situation.policy.of(topic)
        return _Change(class_or_default(policy.class_of(Tier.WARM)), policy.class_of(Tier.COLD))

    async def _is_due(self, change: _Change) -> bool:
        with suppress(ValueError):
            found = float(await self.notes.get_meta(change.note) or "nan") if self.notes is not None else math.nan
            return not 0 <= self.clock.now() - found < self.limits.class_seconds
        return True

    async def _note(self, change: _Change) -> None:
        if self.notes is not None:
            await self.notes.set_meta(change.note, str(self.clock.now()))

    async def _largest(self, owned: OwnedPrefix, change: _Change) -> int | None:
        """Bytes of the largest object whose class the server changes; None where it changes none.

        Tried with objects of one byte: a server may refuse a class, or take it for no word at all. And where an object
        in parts loses the checksum of its parts, it could only be proven by reading it from then on.
        """
        for part_size in (0, PART_SIZE):
            if problem := await self._try(owned, change, part_size):
                logs.logger().warning(
                    "the store does not change storage classes: segments stay in the class in which they are",
                    source=change.source,
                    target=change.target,
                    larger_than=MULTIPART_THRESHOLD if part_size else 0,
                    problem=problem,
                )
                return MULTIPART_THRESHOLD if part_size else None
        return sys.maxsize

    async def _try(self, owned: OwnedPrefix, change: _Change, part_size: int) -> str:
        """What is wrong with the class of an object that was changed, or its checksum; empty if nothing is."""
        key, body = f"{PROBE_KEY}-{uuid4().hex}", bytes_source(b"?")
        checksum = checksum_of(body, 1, part_size)
        try:
            await owned.put(key, body, size=1, checksum=checksum, storage_class=change.source)
            before = await owned.store.head(key)
            await owned.change_class(key, change.target, size=1, checksum=checksum)
            found = await owned.store.head(key)
        except (NotSupported, StoreDenied, ObjectCorrupt, ObjectExists) as error:
            return str(error)
        finally:
            with suppress(StoreError):
                await owned.delete([key])
        if before is None or found is None or found.storage_class != change.target:
            return "an object stays in its class"
        return "" if found.sha256 == before.sha256 else "an object loses its checksum"

    async def _change_all(self, owned: OwnedPrefix, change: _Change, largest: int) -> bool:
        """False where time was up before everything was looked at."""
        until = time.monotonic() + self.situation.view.cycle_seconds * _SHARE_OF_INTERVAL
        waiting: list[tuple[SegmentId, list[str]]] = []
        async for identity, keys in self._candidates(owned, change, largest):
            waiting.append((identity, keys))
            if len(waiting) < _AT_ONCE:
                continue
            await all_of([self._change_one(owned, each, named, change) for each, named in waiting])
            waiting = []
            if self.stopping.is_set() or time.monotonic() > until:
                return False
        await all_of([self._change_one(owned, each, named, change) for each, named in waiting])
        return True

    async def _candidates(
        self, owned: OwnedPrefix, change: _Change, largest: int
    ) -> AsyncIterator[tuple[SegmentId, list[str]]]:
        """Cold segments, each with the keys of its objects that are in this class. Keys come in order."""
        current: SegmentId | None = None
        keys: list[str] = []
        async for info in owned.store.list():
            found = parse_object_key(info.key)
            if found is None or info.read_only or not SMALLEST_IN_CLASS <= info.size <= largest:
                continue
            if class_or_default(info.storage_class) != change.source:
                continue
            if found[0] != current:
                if current is not None and self._may_change(current, change):
                    yield current, keys
                current, keys = found[0], []
            keys.append(info.key)
        if current is not None and self._may_change(current, change):
            yield current, keys

    def _may_change(self, identity: SegmentId, change: _Change) -> bool:
        segment = self.catalog.get(identity)
        if segment is None or segment.archive is None or not segment.archive.held or segment.quarantine:
            return False
        if self._change_of(identity.topic) != change:
            return False
        # What is read much is dear to read in a class of what is not, and cannot be promoted from some.
        usage, sure = usage_now(self.situation, self.clock), self.clock.sure_now()
        return classify(segment, self.situation.policy, sure, usage, sure=sure) is Tier.COLD

    async def _change_one(self, owned: OwnedPrefix, identity: SegmentId, keys: list[str], change: _Change) -> None:
        try:
            with verb("change class", identity.path):
                async with self.catalog.lock(identity):
                    await self._change_held(owned, identity, keys, change)
        except (InGlacier, NotSupported) as error:
            logs.logger().warning("a segment stays in its storage class", segment=identity.path, error=str(error))
        except TakhinError as error:
            self.metrics.class_changes.labels("failure").inc()
            logs.logger().error("the class of a segment was not changed", segment=identity.path, error=str(error))
            if isinstance(error, StoreError):
                await owned.store.check()

    async def _change_held(self, owned: OwnedPrefix, identity: SegmentId, keys: list[str], change: _Change) -> None:
        # What was listed may have been removed, restored or replaced while it waited for the lock.
        if not self._may_change(identity, change) or (manifest := await load_manifest(owned.store, identity)) is None:
            return
        changed = 0
        for file in manifest.files.values():
            if file.key not in keys or file.parts:
                continue
            try:
                async with self.limits.requests:
                    await change_class(owned, identity, file, change.target)
            except (ObjectMissing, ObjectCorrupt) as error:
                await self._quarantine(identity, error)
                raise
            changed += file.size
        if changed:
            self.metrics.class_changes.labels("success").inc()
            logs.logger().info("changed the storage class", storage_class=change.target, bytes=changed)

    async def _quarantine(self, identity: SegmentId, error: StoreError) -> None:
        """It is not what was archived. What stands on the disk stays there, and heals it."""
        known: Segment | None = self.catalog.get(identity)
        if known is not None:
            self.catalog.put(replace(known, quarantine=str(error)))
            await self.catalog.flush()
        reached("class.quarantined")
