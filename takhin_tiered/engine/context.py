"""What every verb works with."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from takhin_tiered import logs, machine, work
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.files import DataDirs, PartitionDir, StandsTwice
from takhin_tiered.disk.look import scan_partition
from takhin_tiered.disk.scan import ScanMemory
from takhin_tiered.engine.opened import OpenSegment
from takhin_tiered.engine.pace import Pace
from takhin_tiered.engine.turns import Turns
from takhin_tiered.engine.view import BrokerView
from takhin_tiered.errors import (
    ConfigError,
    DiskError,
    DiskFull,
    ObjectMissing,
    SegmentChanged,
    SegmentNotFound,
    TakhinError,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.listing import PartitionListing, pack_seen
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.model import LocalFiles, Segment
from takhin_tiered.segments.names import FileKind, Partition, SegmentId
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.policy import Policy
from takhin_tiered.store import Fence, ObjectStore, StoreHealth, nothing_stands_between


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
    object_store: ObjectStore | None
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
    # Before something is unlinked: returns if the archive is still ours to rely on.
    fence: Fence = nothing_stands_between
    # Whether the store also reads what others wrote.
    reads_others: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    cycle_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # So many segments at a time are read for their checksums: more would only keep the processors from all else.
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(os.cpu_count() or 1))
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
    def store(self) -> ObjectStore:
        """The object store; `ConfigError` where none is configured."""
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


async def refresh(engine: Engine, identity: SegmentId, opened: OpenSegment | None = None) -> Segment | None:
    """Look at one segment's files again, and whether its partition still has a later log.

    To be called with the segment's lock held. None if it is neither on disk nor known to be archived.
    With ``opened`` its files are opened by the way: if they can be; whoever needs them opens them where not.
    """
    known = engine.catalog.get(identity)
    if not engine.catalog.is_current(identity):
        # What stands on the disk under its name is another incarnation's.
        return known
    listing = await in_thread(_look_again, engine, identity, engine.catalog.active_offset(identity), opened)
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
    engine: Engine, identity: SegmentId, active: int, opened: OpenSegment | None = None
) -> PartitionListing:
    """Three looks, where the log that was active at the last scan is still there; else the whole partition."""
    nothing = PartitionListing(identity.topic, identity.partition, {}, None)
    with disk_errors(identity):
        try:
            with engine.data_dir.partition(identity.directory) as partition:
                if is_behind(partition, identity, active):
                    files = _stats_of_opened(opened, partition) if opened else partition.stat_all(identity)
                    rows = {identity.base_offset: pack_seen(files)}
                    return PartitionListing(identity.topic, identity.partition, rows, active)
        except (FileNotFoundError, NotADirectoryError):
            return nothing
        return scan_partition(engine.data_dir, identity.directory) or nothing


def is_behind(partition: PartitionDir, identity: SegmentId, active: int) -> bool:
    """Whether the log that was active at the last scan is still there, and a later one than this segment's."""
    later = SegmentId(identity.topic, identity.partition, active)
    return active > identity.base_offset and partition.exists(later.file(FileKind.LOG))


def _stats_of_opened(opened: OpenSegment, partition: PartitionDir) -> LocalFiles:
    try:
        opened.open(partition)
        return opened.stats
    except OSError:
        opened.close()
        return partition.stat_all(opened.identity)


def require_known(segment: Segment | None, identity: SegmentId) -> Segment:
    if segment is None:
        raise unknown(identity)
    return segment


def unknown(identity: SegmentId, hint: str = "takhin-tiered ls shows what there is") -> SegmentNotFound:
    return SegmentNotFound(
        f"segment {identity.full_path} is neither on disk nor in the archive", segment=identity.path, hint=hint
    )


async def load_manifest(engine: Engine, identity: SegmentId) -> Manifest | None:
    """The manifest as the store has it now, or None."""
    key = identity.manifest_key
    try:
        data = await engine.store.read(key)
    except ObjectMissing:
        return None
    return Manifest.from_json(data, key=key)


@contextmanager
def verb(name: str, identity: SegmentId) -> Iterator[None]:
    """Within: every log line names the verb and the segment, and so does every error that goes up."""
    with logs.operation(name, identity.path), work.working(name, identity.path):
        try:
            yield
        except TakhinError as error:
            error.segment = error.segment or identity.path
            raise


@contextmanager
def disk_errors(identity: SegmentId) -> Iterator[None]:
    """What the file system says, as an error that names the segment."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SegmentChanged(
            f"the files of segment {identity.path} vanished while they were worked on",
            segment=identity.path,
            hint="If the broker deleted them, nothing is to be done",
        ) from error
    except StandsTwice as error:
        raise DiskError(
            f"segment {identity.path} cannot be worked on, as its partition is not sure: {error}",
            segment=identity.path,
            hint="Nothing is moved until one of them is gone; the broker knows which one it uses",
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(
                f"the disk filled up while segment {identity.path} was worked on",
                segment=identity.path,
                hint="It is whole in the archive, and nothing half done was left on the disk",
            ) from error
        name = os.strerror(error.errno) if error.errno else str(error)
        raise DiskError(
            f"the disk failed on segment {identity.path}: {name} ({error.filename or 'file'})",
            segment=identity.path,
            hint="What still stands there is whole; the next cycle tries again",
        ) from error


def require_in_place(engine: Engine) -> None:
    """`DiskError` where a data directory is not the one that was opened at the start."""
    for root in engine.data_dir.roots:
        if not root.is_in_place():
            raise DiskError(
                f"storage.data.dir {root.path} is not the directory that it was at the start: it was moved away, "
                "made anew, or mounted over",
                hint="Nothing is moved or removed, in either. Restart the daemon to use the one that is there now",
            )


@contextmanager
def open_partition(engine: Engine, identity: SegmentId, *, create: bool = False) -> Iterator[PartitionDir]:
    require_in_place(engine)
    with disk_errors(identity), engine.data_dir.partition(identity.directory, create=create) as partition:
        yield partition
