"""What people look at: segments, partitions, what is moved now. A part of the façade; nothing here changes anything."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from takhin_tiered import work
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.naming import known_segment
from takhin_tiered.engine.situation import usage_now
from takhin_tiered.engine.strips import Cell, cells_of
from takhin_tiered.engine.summaries import Summary
from takhin_tiered.errors import InvalidSegmentPath, SegmentNotFound
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.names import Partition, Place, SegmentId
from takhin_tiered.segments.report import PartitionInfo, SegmentInfo, describe_partition
from takhin_tiered.trend import Trend

if TYPE_CHECKING:
    from takhin_tiered.catalog.catalog import Catalog
    from takhin_tiered.engine.clock import Clock
    from takhin_tiered.engine.coverage import CoverageReader, PartitionCoverage
    from takhin_tiered.engine.naming import SegmentInfos
    from takhin_tiered.engine.scanning import Scanner
    from takhin_tiered.engine.situation import Situation
    from takhin_tiered.engine.summaries import Summaries

_STRIP_AT_MOST = 20_000
_END_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Transfer:
    """A verb on a segment that runs now. ``done`` is the bytes that passed, ``size`` those of the segment, 0 if
    unknown; ``since`` is in seconds since the epoch.
    """

    verb: str
    segment_path: str
    since: float
    done: int
    size: int


class Looking(NamedTuple):
    """The parts that this uses."""

    catalog: Catalog
    coverage: CoverageReader
    infos: SegmentInfos
    summaries: Summaries
    clock: Clock
    situation: Situation


class Looks:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        # The façade sets it.
        _looking: Looking
        _catalog: Catalog
        _scanner: Scanner

    trend: Trend | None = None
    """How the tiers developed. Whoever takes the samples sets this."""

    def segment(self, path: str, *, topic_id: str | None = None) -> SegmentInfo:
        return self._looking.infos.info_of(known_segment(self._catalog, path, topic_id))

    def segments(
        self,
        *,
        topic: str | None = None,
        tier: Tier | None = None,
        state: State | None = None,
        after: str | None = None,
        topic_id: str | None = None,
    ) -> Iterator[SegmentInfo]:
        """Known segments in order, those behind the path ``after``; each as it stands now.

        Of all incarnations, or of the one that ``topic_id`` names.
        """
        start = SegmentId.parse(after) if after else None
        return self._looking.infos.list(topic=topic, tier=tier, state=state, after=start, topic_id=topic_id)

    async def partitions(self) -> list[PartitionInfo]:
        """The offset ranges of each partition and incarnation, with what is missing, and what is there twice."""
        found = await asyncio.to_thread(lambda: list(self._looking.coverage.cover_all()))
        return [_described(each) for each in found]

    async def incarnations(self, partition: Partition) -> list[PartitionInfo]:
        """The same of one partition."""
        found = await in_thread(lambda: list(self._looking.coverage.cover(partition)))
        return [_described(each) for each in found]

    async def wait_scanned(self) -> None:
        """Until the data directories were looked through once."""
        await self._scanner.done.wait()

    def partition_names(self) -> list[Partition]:
        """The partitions with a known segment, in order."""
        return self._catalog.partitions()

    def troubled_infos(self, partition: Partition) -> list[SegmentInfo]:
        """The segments of a partition that have a problem of any kind, in order; blocking."""
        found = self._catalog.segments(topic=partition[0], within=lambda other: other == partition)
        return [
            self._looking.infos.info_of(segment)
            for segment in found
            if segment.quarantine or segment.damage or segment.last_failure
        ]

    def strip(self, partition: Partition, label: str | None = None) -> list[Cell]:
        """An incarnation's log (default: the current one) in cells of as many segments each, in order; blocking.

        Of a very long one every n-th segment stands for all.
        """
        looking, number = self._looking, itertools.count()
        places = {Place(*partition, at) for at, _, _ in self._catalog.lineage(partition).chain(label)}
        step = 1 + sum(map(self._catalog.count, places)) // _STRIP_AT_MOST
        log = self._catalog.log_of(partition, label, lambda _: next(number) % step == 0)
        policy, clock = looking.situation.policy, looking.clock
        return cells_of(log, policy, clock.now(), usage_now(looking.situation, clock), sure=clock.sure_now())

    async def count(self, seconds: float, within: Sequence[Partition] | None = None) -> bool:
        """Bring `summary` up to date, of all or some partitions. True if all is.

        It takes so long at most: the count of a very large partition goes on, and is there for who asks next.
        """
        counting = asyncio.ensure_future(in_thread(self._looking.summaries.refresh, seconds, within))
        done, _ = await asyncio.wait({counting}, timeout=seconds + _END_SECONDS)
        return bool(done) and counting.result()

    def summary(self, partition: Partition) -> Summary:
        """Counts and bytes of a partition, as of the last `count`."""
        return self._looking.summaries.of(partition)

    def transfers(self) -> list[Transfer]:
        """What is moved or read now, the longest first."""
        return [
            Transfer(each.verb, each.segment, each.since, each.done, self._size_of(each.segment))
            for each in work.running()
        ]

    def _size_of(self, path: str) -> int:
        try:
            return known_segment(self._catalog, path).size
        except (InvalidSegmentPath, SegmentNotFound):
            return 0


def _described(each: PartitionCoverage) -> PartitionInfo:
    return describe_partition(each.partition, each.incarnation, each.coverage, is_current=each.is_current)
