"""The façade: what a program embeds, and all that the API and the command line call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from prometheus_client import Counter

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import Journal, open_journal
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.disk.lock import DataDirLock
from takhin_tiered.engine import claim as claims
from takhin_tiered.engine.archive import archive
from takhin_tiered.engine.beside import Beside
from takhin_tiered.engine.brokers import look_at_brokers, require_safe_mode, stands_in_kafka
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.cycle import CycleReport, Listener, plan_now, refresh_catalog, run_cycle
from takhin_tiered.engine.orphans import remove_stale_uploads
from takhin_tiered.engine.pace import Pace
from takhin_tiered.engine.read_only import leave_read_only
from takhin_tiered.engine.rebuild import Reconciliation, rebuild
from takhin_tiered.engine.restore import restore
from takhin_tiered.engine.scrub import Verdict, scrub, scrub_one, verify
from takhin_tiered.errors import ConfigError, HeldElsewhere, SegmentNotFound, StoreError, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.model import Segment, State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan
from takhin_tiered.segments.policy import classify
from takhin_tiered.segments.report import SegmentInfo, describe_segment, iso_time
from takhin_tiered.store import open_store

_SUPERSEDED = "superseded"
_KAFKA = "kafka"
"""In the journal: that the data directory is Kafka's, for the day on which an empty disk stands in its place."""


class TieredStorage:
    """Segments of one data directory, and their archive. Made by `TieredStorage.open`.

    ::

        async with TieredStorage.open(Settings.load("takhin.yaml")) as storage:
            await storage.archive_segment("orders-0/00000000000000000000.log")

    Every method that takes a path raises `InvalidSegmentPath` where it is none, and `SegmentNotFound`
    where nothing is known of such a segment.
    """

    def __init__(self, settings: Settings, engine: Engine, journal: Journal | None, lock: DataDirLock | None) -> None:
        self.settings = settings
        self.engine = engine
        self.last_cycle: CycleReport | None = None
        self.last_cycle_problem = ""
        self.last_cycle_code = ""
        self.headroom_seconds: float | None = None
        self.claim_lost = asyncio.Event()
        self._journal = journal
        self._lock = lock
        self._beside = Beside(engine, settings)
        self._claim_lock = asyncio.Lock()
        self._claimed: claims.Owner | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._reconciled = journal is not None and journal.was_clean

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, read_only: bool = False, scan: bool = True
    ) -> AsyncIterator[TieredStorage]:
        """Take the data directories, load the catalog, and look at the disk once.

        ``read_only`` takes no lock and writes nothing: for looking while another process holds it.
        ``scan=False`` leaves the first look to the first cycle. Raises `ConfigError` where there is no such
        directory, `HeldElsewhere` where another process has it, and `CatalogError`.
        """
        async with AsyncExitStack() as stack:
            data_dir = _open_data_dirs(settings)
            stack.callback(data_dir.close)
            lock = None
            if not read_only:
                lock = DataDirLock(data_dir, settings.state_dir)
                await asyncio.to_thread(_acquire, lock, settings)
                stack.callback(lock.release)
            journal = await stack.enter_async_context(open_journal(settings.state_dir, read_only=read_only))
            # A reader takes the journal's word, and keeps its own to itself.
            catalog = Catalog(journal)
            await catalog.load()
            if read_only:
                catalog.detach()
            if journal is not None:
                catalog.superseded = int(await journal.get_meta(_SUPERSEDED) or 0)
            kafka = await asyncio.to_thread(stands_in_kafka, data_dir) or await _was_kafka(journal)
            if not read_only:
                await asyncio.to_thread(require_safe_mode, settings, data_dir, kafka=kafka)
                if journal is not None and kafka:
                    await journal.set_meta(_KAFKA, "yes")
            store = await stack.enter_async_context(open_store(settings)) if settings.has_store else None
            engine = Engine(
                policy=settings.policy_for(kafka=kafka),
                data_dir=data_dir,
                catalog=catalog,
                object_store=store,
                metrics=Metrics(),
                concurrency=settings.archive_concurrency,
                archive_corrupt=settings.archive_corrupt == "archive",
                reserve_bytes=int(settings.restore_reserve_mb * 1024 * 1024),
                uploads=Pace(settings.throttle_upload_mbps * 1e6),
                downloads=Pace(settings.throttle_download_mbps * 1e6),
            )
            storage = cls(settings, engine, journal, lock)
            stack.push_async_callback(storage._close)
            if scan:
                await refresh_catalog(engine)
            yield storage

    def announce(self, api: str) -> None:
        """Tell commands on this machine where this process serves its API."""
        assert self._lock is not None
        self._lock.announce(api)

    async def archive_segment(self, path: str) -> SegmentInfo:
        """Archive by hand, whatever the segment's age. Success if it was archived already."""
        identity = SegmentId.parse(path)
        with self._counted(self.engine.metrics.archives):
            await self.prepare()
            await asyncio.to_thread(look_at_brokers, self.engine)
            segment = await archive(self.engine, identity, evict=self.engine.policy.may_unlink)
        return self._info(segment)

    async def restore_segment(self, path: str) -> SegmentInfo:
        """Bring a segment back, and keep it for its lease. Success if it was restored already."""
        identity = SegmentId.parse(path)
        with self._counted(self.engine.metrics.restores):
            segment = await restore(self.engine, identity)
        return self._info(segment)

    def segment(self, path: str) -> SegmentInfo:
        return self._info(self._known(path))

    def segments(
        self,
        *,
        topic: str | None = None,
        tier: Tier | None = None,
        state: State | None = None,
        after: str | None = None,
    ) -> Iterator[SegmentInfo]:
        """Known segments in order, those behind the path ``after``; each as it stands now."""
        start = SegmentId.parse(after) if after else None
        now = self.engine.clock()
        for segment in self.engine.catalog.segments(topic=topic, after=start):
            if state is not None and segment.state is not state:
                continue
            if tier is not None and classify(segment, self.engine.policy, now) is not tier:
                continue
            yield self._info(segment)

    def segment_policy(self, path: str) -> Tier:
        """Hot, warm or cold, as it stands now."""
        return classify(self._known(path), self.engine.policy, self.engine.clock())

    def is_segment_archived(self, path: str) -> bool:
        """Whether the segment is in the archive only."""
        return self._known(path).state is State.ARCHIVED

    def update_access_time(self, path: str) -> None:
        """Note that the segment was read just now: restored copies read longest ago leave first."""
        self._known(path)
        self.engine.catalog.touch(SegmentId.parse(path), self.engine.clock())

    def status(self) -> dict[str, Any]:
        """Statistics, the last cycle, the store: what a person asks first. A stable form, ready for JSON."""
        engine, cycle = self.engine, self.last_cycle
        return {
            **asdict(self.stats()),
            "quarantined_segments": engine.catalog.quarantined,
            "superseded_generations": engine.catalog.superseded,
            "enabled": engine.policy.enabled,
            "mode": self.settings.mode(kafka=engine.policy.kafka),
            "broker": self._beside.described(),
            "data_dir": ",".join(map(str, self.settings.data_dirs)),
            "data_dirs": [str(path) for path in self.settings.data_dirs],
            "disk_free_bytes": engine.data_dir.free_bytes(),
            "store": engine.store.address if self.settings.has_store else None,
            "store_reachable": not engine.store_problem if self.settings.has_store else None,
            "store_problem": engine.store_problem if self.settings.has_store else "",
            "last_cycle": cycle and cycle.described(),
            "last_cycle_problem": self.last_cycle_problem,
        }

    def stats(self) -> Stats:
        return self.engine.catalog.stats(self.engine.policy, self.engine.clock())

    async def plan(self) -> Plan:
        """What a cycle would do now, after a fresh look at the disk."""
        await self._beside.ask()
        async with self.engine.cycle_lock:
            await refresh_catalog(self.engine)
            return await leave_read_only(self.engine, await asyncio.to_thread(plan_now, self.engine))

    async def run_cycle(self, listener: Listener = lambda *_: None) -> CycleReport:
        """One cycle now; failures of single segments are in the report. `TakhinError` where nothing could be done."""
        self.last_cycle_problem = self.last_cycle_code = ""
        try:
            if self.engine.policy.enabled:
                await self._prepare_or_look()
            await self._beside.ask()
            self.last_cycle = await run_cycle(self.engine, listener, self._beside.trim)
        except TakhinError as error:
            self.last_cycle_problem, self.last_cycle_code = str(error), error.code
            raise
        return self.last_cycle

    def verify(
        self, wanted: Callable[[SegmentId], bool] = lambda _: True, *, deep: bool = False
    ) -> AsyncIterator[Verdict]:
        """Compare the archive with its manifests; ``deep`` reads every byte back."""
        return verify(self.engine, wanted, deep=deep)

    async def prepare(self) -> None:
        """Before the archive is written to: own the prefix, and know what is in it.

        Raises `HeldElsewhere` where another owner is alive, and `StoreError`.
        """
        async with self._claim_lock:
            if self.claim_lost.is_set():
                raise HeldElsewhere(f"{self.engine.store.address} was taken over by another owner")
            try:
                if self._claimed is None:
                    me = claims.describe_self(await self._identifier(), str(self.engine.data_dir))
                    await claims.claim(self.engine, me)
                    self._claimed = me
                    self._renewal = asyncio.create_task(self._renew(me))
                    # The claim says that nobody else uploads here: what is unfinished is a dead process's.
                    await remove_stale_uploads(self.engine, 0)
                if not self._reconciled:
                    await rebuild(self.engine, full=False)
                    self._reconciled = True
            except StoreError as error:
                self.engine.note_store(error)
                raise
            self.engine.note_store(None)

    async def rebuild(self, progress: Callable[[int], None] = lambda _: None) -> Reconciliation:
        """Learn from the disk and the bucket what there is, whatever the catalog says."""
        await refresh_catalog(self.engine)
        result = await rebuild(self.engine, full=True, progress=progress)
        self._reconciled = True
        return result

    async def reconcile(self) -> Reconciliation:
        """Hold the catalog against the bucket, and mend it."""
        return await rebuild(self.engine, full=False)

    async def scrub(self) -> None:
        """Read the whole archive once, at the configured pace; see `scrub_segment`."""
        await scrub(self.engine, Pace(self.settings.scrub_mbps * 1e6))

    async def scrub_segment(self, path: str) -> Verdict:
        """Read one archived segment back; a bad one is quarantined, and healed if it stands whole on disk."""
        identity = self._known(path).id
        await self.prepare()
        return await scrub_one(self.engine, identity, Pace(0))

    async def _prepare_or_look(self) -> None:
        """`prepare`; while the store is down, what stands on the disk is still told."""
        try:
            await self.prepare()
        except StoreError:
            self.engine.metrics.cycles.labels("failure").inc()
            async with self.engine.cycle_lock:
                await refresh_catalog(self.engine)
            raise

    def store_trouble(self) -> str:
        """Why the store cannot be used, since when, and how long the disk lasts; empty while it answers."""
        engine = self.engine
        if not engine.store_problem:
            return ""
        since = f", since {iso_time(engine.store_down_since)}" if engine.store_down_since else ""
        left = self.headroom_seconds
        lasts = f"; at the present growth the disk is full in {left / 3600:.1f} h" if left is not None else ""
        return f"{engine.store_problem}{since}{lasts}"

    async def check_store(self) -> None:
        """Ask the store whether it answers, and remember what it said. Raises nothing for a store that is down."""
        try:
            await self.engine.store.check()
        except StoreError as error:
            self.engine.note_store(error)
        else:
            self.engine.note_store(None)

    def update_metrics(self) -> None:
        """Bring the gauges up to date, before they are read."""
        stats, metrics = self.stats(), self.engine.metrics
        metrics.segments.labels("hot").set(stats.hot_segments)
        metrics.segments.labels("warm").set(stats.warm_segments)
        metrics.segments.labels("cold").set(stats.cold_segments)
        metrics.archived_segments.set(stats.archived_segments)
        metrics.quarantined.set(self.engine.catalog.quarantined)
        metrics.superseded.set(self.engine.catalog.superseded)
        metrics.intents.set(len(self.engine.catalog.intents()))
        metrics.local_bytes.set(stats.local_size_bytes)
        metrics.archived_bytes.set(stats.archived_size_bytes)

    async def _close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewal
        if self._claimed is not None and not self.claim_lost.is_set():
            await claims.release(self.engine, self._claimed)
        if self._journal is not None and self._lock is not None:
            await self.engine.catalog.flush()
            if self.engine.policy.kafka:
                await self._journal.set_meta(_KAFKA, "yes")
            if self._reconciled:
                await self._journal.set_meta(_SUPERSEDED, str(self.engine.catalog.superseded))
                await self._journal.set_meta("clean", "yes")

    async def _renew(self, me: claims.Owner) -> None:
        while True:
            await asyncio.sleep(claims.RENEW_EVERY)
            try:
                await claims.renew(self.engine, me)
            except HeldElsewhere as error:
                logs.logger().error("lost the claim on the store", error=str(error))
                self.claim_lost.set()
                return
            except StoreError as error:
                self.engine.note_store(error)
            else:
                self.engine.note_store(None)

    async def _identifier(self) -> str:
        """What names this data directory's state from one start to the next."""
        assert self._journal is not None
        identifier = await self._journal.get_meta("owner")
        if identifier is None:
            identifier = uuid4().hex
            await self._journal.set_meta("owner", identifier)
        return identifier

    def _known(self, path: str) -> Segment:
        identity = SegmentId.parse(path)
        segment = self.engine.catalog.get(identity)
        if segment is None:
            raise SegmentNotFound(
                f"segment {identity.path} is neither on disk nor in the archive", segment=identity.path
            )
        return segment

    def _info(self, segment: Segment) -> SegmentInfo:
        return describe_segment(segment, self.engine.policy, self.engine.clock())

    @contextmanager
    def _counted(self, failures: Counter) -> Iterator[None]:
        """Count what fails by hand as the cycle counts its own."""
        try:
            yield
        except TakhinError as error:
            failures.labels("failure").inc()
            if isinstance(error, StoreError):
                self.engine.metrics.store_errors.labels(error.code).inc()
            raise


def _open_data_dirs(settings: Settings) -> DataDirs:
    try:
        return DataDirs.open(settings.data_dirs)
    except OSError as error:
        raise ConfigError(
            f"storage.data.dir {error.filename} cannot be opened: {error.strerror}",
            hint="It must be the broker's segment directory, and be there before the daemon starts",
        ) from error


def _acquire(lock: DataDirLock, settings: Settings) -> None:
    try:
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"the state directory {settings.state_dir} cannot be written: {error.strerror}",
            hint="Set storage.tiered.state.dir to a directory that this user may write to",
        ) from error


async def _was_kafka(journal: Journal | None) -> bool:
    return journal is not None and await journal.get_meta(_KAFKA) == "yes"
