"""Promote: bring archived segments back to the disk because they are read, the hottest first, within a budget.

What comes back may leave again: it is only done where this program may unlink local files, and never beneath a running
Kafka. A segment that left the disk within a day is left alone, so that none moves more than twice a day.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.brokers import look_at_brokers
from takhin_tiered.engine.choosing import Chooser
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.evict import Evictor
from takhin_tiered.engine.heating import Heating
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.marks import note_failure
from takhin_tiered.engine.restore import ToRestore
from takhin_tiered.engine.restores import Restores
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import DiskFull, InGlacier, OverBudget, TakhinError
from takhin_tiered.heat.promotion import Candidate, Choice, Promotion, choose
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import StoreHealth
from takhin_tiered.vault.owned import OwnedPrefix

PROMOTED_LEASE = 6 * 3600.0
"""So long a promoted segment stays at least, or for the configured lease if that is shorter."""
_FREE_SHARE = 0.05
"""A promotion leaves at least so much of the file system free, whatever is configured."""
_STAYS = "this mode never deletes a local file: what comes back could not leave again"
Own = Callable[[], Awaitable[OwnedPrefix]]


@dataclass(slots=True)
class Evaluation:
    """What one evaluation of the tiers did. Paths are those of segments.

    ``waiting`` segments are hot and stay in the archive for now, for ``reason``. ``failures`` are paths with the error.
    """

    evaluated_at: float
    hot: int = 0
    promoted: list[str] = field(default_factory=list)
    promoted_bytes: int = 0
    demoted: list[str] = field(default_factory=list)
    waiting: int = 0
    reason: str = ""
    failures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Promoter:
    """One evaluation at a time. ``stopping``: when it is set, no further segment is begun."""

    catalog: Catalog
    data_dir: DataDirs
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    health: StoreHealth
    heating: Heating
    restores: Restores
    evictor: Evictor
    chooser: Chooser
    stopping: asyncio.Event
    has_store: bool
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def evaluate(self, own: Own) -> Evaluation:
        """Let rates decay, forget segments that are gone, and promote. ``own`` is asked where something has to leave.

        What fails for one segment is in the result; what fails for all is raised.
        """
        async with self._lock:
            await self.heating.settle()
            now = self.clock.now()
            done = Evaluation(now, hot=len(self.heating.tracker.hot(now)))
            if self.has_store:
                await in_thread(look_at_brokers, self.situation, self.data_dir)
            archived = self._archived(now)
            done.waiting, done.reason = len(archived), self._hindrance()
            if done.reason or not archived:
                return done
            movable = [segment for segment in archived if self._may_leave(segment)]
            choice = self._choose(movable, now)
            done.waiting = len(archived) - len(choice.promotions)
            done.reason = choice.reason or (_STAYS if len(movable) < len(archived) else "")
            for promotion in choice.promotions:
                if self.stopping.is_set():
                    break
                await self._promote(promotion, own, done)
            return done

    def _hindrance(self) -> str:
        """Why nothing is promoted at all."""
        policy = self.situation.policy
        if not policy.enabled or not self.has_store:
            return "tiered storage is not enabled"
        if not policy.unlinks_somewhere and not policy.broker_running:
            return _STAYS
        if policy.broker_running:
            return "Kafka runs on the data directory"
        return "" if policy.promoted_hourly else "storage.tiered.hot.promote.mb.hourly is 0"

    def _archived(self, now: float) -> list[Segment]:
        """The hot segments that are in the archive only, and may come back."""
        found = (self.catalog.get(identity) for identity in self.heating.tracker.hot(now))
        return [segment for segment in found if segment is not None and self._may_come_back(segment, now)]

    def _may_leave(self, segment: Segment) -> bool:
        """Whether it may be unlinked, by the mode of its topic: what could not leave again would fill the disk."""
        return self.situation.policy.of(segment.id.topic).may_unlink

    def _may_come_back(self, segment: Segment, now: float) -> bool:
        identity = segment.id
        is_ours = segment.archive_only and not segment.is_others and self.catalog.is_current(identity)
        is_wanted = is_ours and self.situation.policy.covers(identity.topic)
        return is_wanted and self.heating.tracker.is_rested(identity, now)

    def _choose(self, archived: list[Segment], now: float) -> Choice:
        usage, policy, sure = self.heating.tracker.at(now), self.situation.policy, self.clock.sure_now()
        copies = [segment for segment in self.catalog.restored() if self._may_leave(segment)]

        def described(segment: Segment, size: int) -> Candidate:
            may_leave = not segment.lease_left(sure) and segment.is_proven and not segment.active
            stays = not may_leave or not self.catalog.is_current(segment.id)
            return Candidate(segment.id, size, usage.rate(segment.id), stays=stays)

        return choose(
            [described(segment, segment.size) for segment in archived],
            [described(segment, segment.local.size) for segment in copies],
            policy.cache_size,
            self.heating.budget,
            now,
        )

    async def _promote(self, promotion: Promotion, own: Own, done: Evaluation) -> None:
        identity, path = promotion.id, promotion.id.full_path
        try:
            if self.situation.policy.kafka and (await self.chooser.choose(Wanted((identity.exact_path,)))).problems:
                # It would leave a gap, or Kafka would delete it again.
                done.waiting += 1
                return
            lease = min(PROMOTED_LEASE, self.situation.policy.lease)
            wanted = ToRestore(identity, lease, None, logs.correlation_id(), "heat", may_request=False)
            # Before anything leaves for it, and counts as spent.
            await self.restores.require_possible(wanted)
            for other in promotion.instead_of:
                if await self.evictor.evict(await own(), other):
                    done.demoted.append(other.full_path)
            await in_thread(self._require_room, identity, promotion.size)
            await self.heating.spend(promotion.size)
            await self.restores.restore(wanted)
        except (InGlacier, OverBudget) as error:
            # Whoever wants it back all the same asks for it, and pays.
            logs.logger().info("a hot segment is not promoted", segment=path, reason=str(error))
            done.waiting += 1
        except TakhinError as error:
            note_failure(self.health, self.metrics.restores, error)
            logs.logger().warning("a hot segment was not promoted", segment=path, error=str(error))
            done.failures.append((path, str(error)))
        else:
            logs.logger().info("promoted", segment=path, reads_per_hour=round(promotion.rate, 3))
            done.promoted.append(path)
            done.promoted_bytes += promotion.size

    def _require_room(self, identity: SegmentId, size: int) -> None:
        root = self.data_dir.root_for(identity.directory)
        system = os.fstatvfs(root.fd)
        # What made the disk miss its reserve would drive others off it.
        share = max(_FREE_SHARE, self.situation.policy.reserve)
        kept = max(self.limits.reserve_bytes, int(system.f_blocks * system.f_frsize * share))
        free = system.f_bavail * system.f_frsize - self.data_dir.held[root.device]
        if free - size < kept:
            raise DiskFull(
                f"segment {identity.path} takes {size} bytes, and {max(0, free - kept)} are free, with {kept} held "
                "back",
                segment=identity.path,
                hint="It is whole in the archive, and is read in place",
            )
