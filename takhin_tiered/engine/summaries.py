"""Counts and bytes by partition, for people who look at many segments at once.

A partition is counted again when it changed, or when its segments have aged since. The work is done in turns of
bounded length, so that a look at a million segments stops nobody; what is not counted yet is told as such.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.record import unpack
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.situation import Situation, usage_now
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.names import Partition, Place
from takhin_tiered.segments.policy import classify

_AGES_SECONDS = 600.0
_COUNTED_AT_ONCE = 256


@dataclass(slots=True)
class Summary:
    """``archived`` are only in the archive, ``troubled`` have a problem of any kind.

    ``uncounted``: so many of the ``segments`` are not in the other numbers yet.
    """

    segments: int = 0
    hot: int = 0
    warm: int = 0
    cold: int = 0
    archived: int = 0
    troubled: int = 0
    hot_bytes: int = 0
    warm_bytes: int = 0
    cold_bytes: int = 0
    local_bytes: int = 0
    archived_bytes: int = 0
    uncounted: int = 0

    @property
    def total_bytes(self) -> int:
        return self.hot_bytes + self.warm_bytes + self.cold_bytes

    def add(self, other: Summary) -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_SUMS = tuple(each.name for each in fields(Summary))


@dataclass(slots=True)
class _Counted:
    summary: Summary
    version: int
    at: float


@dataclass(frozen=True, slots=True)
class Summaries:
    catalog: Catalog
    clock: Clock
    situation: Situation
    _known: dict[Partition, _Counted] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self, seconds: float, within: Iterable[Partition] | None = None) -> bool:
        """Count for so long at most, and to the end of a partition; True if all is counted. Blocking."""
        end = time.monotonic() + seconds
        if not self._turn.acquire(timeout=seconds):
            return False
        try:
            return self._refresh(end, within)
        finally:
            self._turn.release()

    def _refresh(self, end: float, within: Iterable[Partition] | None) -> bool:
        partitions = self.catalog.partitions() if within is None else list(within)
        if within is None:
            for gone in self._known.keys() - set(partitions):
                del self._known[gone]
        for partition in partitions:
            known, version = self._known.get(partition), self.catalog.version(partition)
            if known is not None and known.version == version and time.monotonic() - known.at < _AGES_SECONDS:
                continue
            if time.monotonic() >= end:
                return False
            self._known[partition] = _Counted(self._count(partition), version, time.monotonic())
        return True

    def of(self, partition: Partition) -> Summary:
        """As it was counted last; of one that was not, only the number of segments."""
        known = self._known.get(partition)
        if known is not None:
            return known.summary
        count = sum(self.catalog.count(place) for place in self._places(partition))
        return Summary(segments=count, uncounted=count)

    def _places(self, partition: Partition) -> list[Place]:
        return [Place(*partition, each.label) for each in self.catalog.lineage(partition).incarnations]

    def _count(self, partition: Partition) -> Summary:
        found, policy, now = Summary(), self.situation.policy, self.clock.now()
        usage, sure = usage_now(self.situation, self.clock), self.clock.sure_now()
        for place in self._places(partition):
            for number, (base, row) in enumerate(self.catalog.packed(place).items()):
                if number % _COUNTED_AT_ONCE == 0:
                    # Let the event loop have the interpreter.
                    time.sleep(0)
                segment = unpack(place.segment(base), row)
                size, tier = segment.size, classify(segment, policy, now, usage, sure=sure)
                found.segments += 1
                if tier is Tier.HOT:
                    found.hot += 1
                    found.hot_bytes += size
                elif tier is Tier.WARM:
                    found.warm += 1
                    found.warm_bytes += size
                else:
                    found.cold += 1
                    found.cold_bytes += size
                found.archived += segment.state is State.ARCHIVED
                found.troubled += bool(segment.quarantine or segment.damage or segment.last_failure)
                found.local_bytes += segment.local.size
                found.archived_bytes += segment.archive.stored_size if segment.archive else 0
        return found
