"""The logs of a data directory as a broker shows them: topics, their bounds, offsets by time, and streams of batches.

An earlier incarnation of a topic is a topic of its own, ``orders@<topic ID>``: Kafka allows no ``@`` in a name.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.errors import PartitionNotFound
from takhin_tiered.reader.flights import Flights
from takhin_tiered.reader.log import LogReader
from takhin_tiered.reader.query import Isolation, RecordQuery
from takhin_tiered.reader.seeking import OffsetAndTimestamp
from takhin_tiered.reader.streams import LogStream

_FRESH_SECONDS, _TOPICS_SECONDS = 0.2, 1.0
"""So long the bounds of a log, and the list of topics, are believed: many consumers ask for them, and often."""
_MOST_KEPT = 10_000
_LATEST = 1 << 62
"""In milliseconds: no timestamp is later."""


class LogBounds(NamedTuple):
    """``start`` is the first offset, ``end`` the high watermark, ``stable_end`` that of a reader's isolation.

    ``log_end``: behind the last record that stands there, which no consumer may see yet.
    """

    start: int
    end: int
    stable_end: int
    log_end: int


@dataclass(slots=True)
class _Kept:
    """What was found out a moment ago, the oldest first."""

    bounds: OrderedDict[RecordQuery, tuple[float, LogBounds]] = field(default_factory=OrderedDict)
    topics: dict[str, set[int]] = field(default_factory=dict)
    topics_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class ServedLogs:
    """Topics are named as consumers name them. Methods raise `PartitionNotFound` and what reading raises."""

    catalog: Catalog
    reader: LogReader
    know_all: Callable[[], Awaitable[None]]
    """Returns once the disk and the archive are known: before that, what is not known may be there all the same."""
    _flights: Flights[RecordQuery, LogBounds] = field(default_factory=Flights)
    _listing: Flights[str, dict[str, set[int]]] = field(default_factory=Flights)
    _kept: _Kept = field(default_factory=_Kept)

    async def topics(self, *, fresh: bool = False) -> dict[str, set[int]]:
        """For each topic its partitions that are known here, as they were within the last moment."""
        kept = self._kept
        if fresh or time.monotonic() - kept.topics_at > _TOPICS_SECONDS:
            kept.topics = await self._listing.share("", lambda: in_thread(self._topics))
            kept.topics_at = time.monotonic()
        return kept.topics

    def _topics(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for partition in self.catalog.partitions():
            lineage = self.catalog.lineage(partition)
            for incarnation in lineage.incarnations:
                is_current = incarnation.label == lineage.current
                if self.catalog.above(partition, -1, incarnation.label) is None:
                    continue
                name = partition[0] if is_current else f"{partition[0]}@{incarnation.topic_id or incarnation.name}"
                found.setdefault(name, set()).add(partition[1])
        return found

    async def bounds(self, topic: str, partition: int, isolation: Isolation, *, fresh: bool = False) -> LogBounds:
        """As they were within the last moment; with ``fresh``, as they are now."""
        query = _query(topic, partition, isolation, timestamp=0)
        kept = self._kept.bounds
        found = kept.get(query)
        if found is not None and not fresh and time.monotonic() - found[0] < _FRESH_SECONDS:
            return found[1]
        return await self._flights.share(query, lambda: self._look(query))

    async def _look(self, query: RecordQuery) -> LogBounds:
        self._require_known(query)
        log = await self.reader.look(query, again=False)
        bounds = LogBounds(log.bounds.start, log.bounds.end, log.end, log.bounds.log_end)
        kept = self._kept.bounds
        kept[query] = time.monotonic(), bounds
        kept.move_to_end(query)
        while len(kept) > _MOST_KEPT:
            kept.popitem(last=False)
        return bounds

    async def offset_at(
        self, topic: str, partition: int, timestamp: int, isolation: Isolation
    ) -> OffsetAndTimestamp | None:
        """The first record that is not older, in milliseconds; None if all are. `OffsetInHole` if it may be missing."""
        query = _query(topic, partition, isolation, timestamp=max(0, timestamp))
        self._require_known(query)
        return await self.reader.offset_at(query)

    async def newest(self, topic: str, partition: int, isolation: Isolation) -> OffsetAndTimestamp | None:
        """The first of the records with the largest timestamp; None in an empty log."""
        query = _query(topic, partition, isolation, timestamp=0)
        self._require_known(query)
        found = await self.reader.offset_at(query)
        if found is None:
            return None
        # Whether a record is as new as that is known for each timestamp, and falls once from yes to no.
        low, high = found.timestamp, _LATEST
        while low < high:
            middle = (low + high + 1) // 2
            later = await self.reader.offset_at(replace(query, timestamp=middle))
            if later is None:
                high = middle - 1
            else:
                low, found = max(middle, later.timestamp), later
        return await self.reader.offset_at(replace(query, timestamp=low)) or found

    def stream(self, topic: str, partition: int, offset: int, isolation: Isolation) -> LogStream:
        return LogStream(self.reader, _query(topic, partition, isolation, offset=offset))

    async def incarnation(self, topic: str, partition: int) -> tuple[str, ...]:
        """Names of what the topic's records are: of a topic that was made anew they are others. None if unknown.

        The first one is the best. Raises where it may be merely not known yet.
        """
        query = _query(topic, partition, Isolation.READ_UNCOMMITTED, timestamp=0)
        # The topic may have been made anew a moment ago.
        await self.reader.scanner.look_at((query.topic, partition))
        found = self._incarnation(query)
        if not found:
            await self.know_all()
            found = self._incarnation(query)
        return found

    def _require_known(self, query: RecordQuery) -> None:
        """Consumers ask for what they like: a topic that is not there is no failure of a segment."""
        if query.topic_id is not None and self._label(query) is None:
            raise PartitionNotFound(
                f"{query.topic}-{query.partition} has no incarnation of this name",
                hint="takhin-tiered ls --partitions lists all partitions",
            )

    def _label(self, query: RecordQuery) -> str | None:
        lineage = self.catalog.lineage((query.topic, query.partition))
        return lineage.current if query.topic_id is None else lineage.named(query.topic_id)

    def _incarnation(self, query: RecordQuery) -> tuple[str, ...]:
        key = query.topic, query.partition
        label = self._label(query)
        if label is None or self.catalog.above(key, -1, label) is None:
            return ()
        topic_id = self.catalog.lineage(key).get(label).topic_id
        # The label is what it was called before its topic ID was known.
        return (topic_id, label) if topic_id and topic_id != label else (label,)


def _query(
    topic: str, partition: int, isolation: Isolation, *, offset: int | None = None, timestamp: int | None = None
) -> RecordQuery:
    name, at, topic_id = topic.partition("@")
    return RecordQuery(name, partition, offset, timestamp, isolation, topic_id if at else None)
