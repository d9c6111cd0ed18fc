"""What every verb works with."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from takhin_tiered import machine
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors, is_behind
from takhin_tiered.disk.files import DataDirs, PartitionDir
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.disk.scan import ScanMemory
from takhin_tiered.engine.turns import Turns
from takhin_tiered.engine.view import BrokerView
from takhin_tiered.errors import ConfigError, SegmentChanged, SegmentNotFound, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.segments.listing import PartitionListing, pack_seen
from takhin_tiered.segments.model import LocalFiles, Segment
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.policy import Policy
from takhin_tiered.store import ReadableStore, StoreHealth
from takhin_tiered.vault.opened import OpenSegment


@dataclass(frozen=True, slots=True)
class Span:
    """What time it was at the last look, by all that is known: see `takhin_tiered.segments.clock.Judgement`.

    ``uptime`` is when that was. Before the first look, the wall clock is believed.
    """

    earliest: float = float("inf")
    latest: float = float("-inf")
    uptime: float = 0.0
    problem: str = ""


@dataclass(slots=True)
class Engine:
    """The parts, put together by `takhin_tiered.TieredStorage`; the verbs are functions that take it."""

    policy: Policy
    data_dir: DataDirs
    catalog: Catalog
    object_store: ReadableStore | None
    metrics: Metrics
    health: StoreHealth
    concurrency: int = 4
    archive_corrupt: bool = True
    reserve_bytes: int = 0
    uploads: Pace = field(default_factory=lambda: Pace(0))
    downloads: Pace = field(default_factory=lambda: Pace(0))
    clock: Callable[[], float] = time.time
    uptime: Callable[[], float] = machine.uptime
    # How far the clock can be believed; see `sure_now` and `stamp_now`.
    time: Span = field(default_factory=Span)
    # Whether the store also reads what others wrote.
    reads_others: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    cycle_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # So many segments at a time are read for their checksums: more would only keep the processors from all else.
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(os.cpu_count() or 1))
    # So many requests that write at a time, whatever the number of segments that go together.
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(24))
    # So many ranges of large objects at a time, whatever is restored: each takes a connection, and a thread.
    ranges: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
    view: BrokerView = field(default_factory=BrokerView)
    outlook: Outlook = field(default_factory=Outlook)
    # Holes and overlaps in the logs of the partitions that have any.
    uncovered: dict[Partition, tuple[int, int]] = field(default_factory=dict)
    # One restore at a time looks at what stands in a partition, and places its files there.
    placing: asyncio.Lock = field(default_factory=asyncio.Lock)
    turns: Turns = field(default_factory=Turns)
    # Segments that stand only under a prefix that is only read, each by when it was archived.
    read_only: dict[SegmentId, float] = field(default_factory=dict)
    # Steps that the running cycle has yet to begin, and what all of it has to do.
    queued: int = 0
    planned_segments: int = 0
    planned_bytes: int = 0
    # Segments that left the disk before they were archived, with when that was seen; not yet in the journal.
    lost: list[tuple[float, str]] = field(default_factory=list)
    scan_memory: ScanMemory = field(default_factory=ScanMemory)

    @property
    def store(self) -> ReadableStore:
        """The object store, to be read; `ConfigError` where none is configured."""
        if self.object_store is None:
            raise ConfigError(
                "no object store is configured",
                hint="Set storage.tiered.s3.bucket or storage.tiered.directory.path",
            )
        return self.object_store

    @property
    def sure_now(self) -> float:
        """The time by which something may go for its age: never later than it is. Seconds since the epoch."""
        return min(self.clock(), self.time.earliest + self.uptime() - self.time.uptime)

    @property
    def stamp_now(self) -> float:
        """The time by which an age is to begin: never earlier than it is. Seconds since the epoch."""
        return max(self.clock(), self.time.latest + self.uptime() - self.time.uptime)

    @property
    def outlook_now(self) -> Outlook:
        """What the broker is about to do, and how far the clock may be ahead."""
        return replace(self.outlook, clock_ahead=max(0.0, self.clock() - self.sure_now))


async def refresh(engine: Engine, identity: SegmentId) -> Segment | None:
    """Look at one segment's files again, and whether its partition still has a later log.

    To be called with the segment's lock held. None if it is neither on disk nor known to be archived.
    """
    [found] = await refresh_together(engine, [identity])
    if isinstance(found, TakhinError):
        raise found
    return found


async def refresh_together(
    engine: Engine, identities: Sequence[SegmentId], opened: Mapping[SegmentId, OpenSegment] | None = None
) -> list[Segment | TakhinError | None]:
    """The same for segments of one partition, in one look; an error for each that cannot be looked at.

    Those that have an `OpenSegment` are opened by the way: if they can be; whoever needs them opens them where not.
    """
    # What stands on the disk under the name of one that is not current is another incarnation's.
    current = [identity for identity in identities if engine.catalog.is_current(identity)]
    active = engine.catalog.active_offset(identities[0])
    listings = await in_thread(_look_again, engine, current, active, opened or {}) if current else {}
    found: list[Segment | TakhinError | None] = []
    for identity in identities:
        listing = listings.get(identity)
        if listing is None:
            found.append(engine.catalog.get(identity))
        else:
            found.append(listing if isinstance(listing, TakhinError) else _take_over(engine, identity, listing))
    return found


def _take_over(engine: Engine, identity: SegmentId, listing: PartitionListing) -> Segment | None:
    known = engine.catalog.get(identity)
    files = listing.files(identity.base_offset)
    if known is None and files.log is None:
        return None
    known = known or Segment(identity)
    if files.log is None and known.archive is None:
        return None
    fresh = replace(
        known,
        local=files,
        active=identity.base_offset in {listing.active, listing.written_later}
        or engine.catalog.may_be_active(identity),
        lease_until=known.lease_until if files.log is not None else 0.0,
    )
    if fresh == known:
        engine.catalog.confirm(identity)
    else:
        engine.catalog.put(fresh)
    return fresh


def _look_again(
    engine: Engine, identities: Sequence[SegmentId], active: int, opened: Mapping[SegmentId, OpenSegment]
) -> dict[SegmentId, PartitionListing | TakhinError]:
    """Few looks for each, where the log that was active at the last scan is still there; else the whole partition."""
    found: dict[SegmentId, PartitionListing | TakhinError] = {}
    first = identities[0]
    nothing = PartitionListing(first.topic, first.partition, {}, None)
    whole: PartitionListing | None = None
    try:
        with disk_errors(first), engine.data_dir.partition(first.directory) as partition:
            for identity in identities:
                try:
                    with disk_errors(identity):
                        if is_behind(partition, identity, active):
                            files = _stats_of(partition, identity, opened.get(identity))
                            rows = {identity.base_offset: pack_seen(files)}
                            found[identity] = PartitionListing(identity.topic, identity.partition, rows, active)
                        else:
                            whole = whole or scan_partition(engine.data_dir, first.directory) or nothing
                            found[identity] = whole
                except TakhinError as error:
                    found[identity] = error
    except SegmentChanged:
        # There is no such partition.
        return dict.fromkeys(identities, nothing)
    except TakhinError as error:
        return dict.fromkeys(identities, error)
    return found


def _stats_of(partition: PartitionDir, identity: SegmentId, opened: OpenSegment | None) -> LocalFiles:
    if opened is None:
        return partition.stat_all(identity)
    try:
        opened.open(partition)
        return opened.stats
    except OSError:
        opened.close()
        return partition.stat_all(identity)


def require_known(segment: Segment | None, identity: SegmentId) -> Segment:
    if segment is None:
        raise unknown(identity)
    return segment


def unknown(identity: SegmentId, hint: str = "takhin-tiered ls shows what there is") -> SegmentNotFound:
    return SegmentNotFound(
        f"segment {identity.full_path} is neither on disk nor in the archive", segment=identity.path, hint=hint
    )
