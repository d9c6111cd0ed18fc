"""The façade: what a program embeds, and all that the API and the command line call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import INCARNATIONS, Journal, open_journal
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.config import Settings
from takhin_tiered.disk.lock import DataDirLock
from takhin_tiered.engine.archive import archive
from takhin_tiered.engine.beside import Beside
from takhin_tiered.engine.brokers import look_at_brokers, require_safe_mode, stands_in_kafka
from takhin_tiered.engine.choosing import Choice, choose
from takhin_tiered.engine.condition import describe_status, store_trouble
from takhin_tiered.engine.context import Engine
from takhin_tiered.engine.coverage import cover_all
from takhin_tiered.engine.cycle import plan_now, run_cycle
from takhin_tiered.engine.gauges import update_gauges
from takhin_tiered.engine.guards import answering_soon, make_guards
from takhin_tiered.engine.marks import by_hand
from takhin_tiered.engine.naming import (
    info_of,
    known_segment,
    list_segments,
    named_incarnation,
    named_segment,
)
from takhin_tiered.engine.opening import KAFKA, SUPERSEDED, acquire, make_engine, open_data_dirs, was_kafka
from takhin_tiered.engine.past import Past
from takhin_tiered.engine.read_only import leave_read_only
from takhin_tiered.engine.rebuild import Reconciliation, rebuild
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.engine.restore import Wanted as ToRestore
from takhin_tiered.engine.restores import Restores
from takhin_tiered.engine.scanning import refresh_catalog
from takhin_tiered.engine.scrub import Verdict, scrub, scrub_one, verify
from takhin_tiered.engine.superseded import remove_superseded
from takhin_tiered.engine.verifying import verify_told
from takhin_tiered.errors import CatalogError, SegmentRefused, StoreDenied, StoreError, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan
from takhin_tiered.segments.policy import classify
from takhin_tiered.segments.report import PartitionInfo, SegmentInfo, describe_partition
from takhin_tiered.segments.results import Hole, Status, VerifiedSegment
from takhin_tiered.store import ObjectStore, ObservedStore, StoreHealth, is_outage, open_store
from takhin_tiered.vault.orphans import remove_stale_uploads
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.ownership import Owned


class TieredStorage:
    """Segments of one data directory, and their archive. Made by `TieredStorage.open`.

    ::

        async with TieredStorage.open(Settings.load("takhin.yaml")) as storage:
            await storage.archive_segment("orders-0/00000000000000000000.log")

    Every method that takes a path raises `InvalidSegmentPath` where it is none, and `SegmentNotFound`
    where nothing is known of such a segment.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        store: ObjectStore | None,
        journal: Journal | None,
        lock: DataDirLock | None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.last_cycle: CycleReport | None = None
        self.last_cycle_problem = ""
        self.last_cycle_code = ""
        self.headroom_seconds: float | None = None
        self.past = Past(engine, journal, may_write=lock is not None)
        self._journal = journal
        self._lock = lock
        self._beside = Beside(engine, settings)
        self._restores = Restores(engine)
        self._claim_lock = asyncio.Lock()
        self._guards = make_guards(settings, engine, store, journal, is_ours=lock is not None)
        self._reconciled = journal is not None and journal.was_clean
        self._has_all_to_learn = False

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
            data_dir = open_data_dirs(settings)
            stack.callback(data_dir.close)
            lock = None
            if not read_only:
                lock = DataDirLock(data_dir, settings.state_dir)
                await asyncio.to_thread(acquire, lock, settings)
                stack.callback(lock.release)
            journal = await stack.enter_async_context(open_journal(settings.state_dir, read_only=read_only))
            # A reader takes the journal's word, and keeps its own to itself.
            catalog = Catalog(journal)
            await catalog.load()
            if read_only:
                catalog.detach()
            if journal is not None:
                catalog.superseded = int(await journal.get_meta(SUPERSEDED) or 0)
            kafka = await asyncio.to_thread(stands_in_kafka, data_dir) or await was_kafka(journal)
            if not read_only:
                await asyncio.to_thread(require_safe_mode, settings, data_dir, kafka=kafka)
                if journal is not None and kafka:
                    await journal.set_meta(KAFKA, "yes")
            health, store = StoreHealth(Metrics()), None
            if settings.has_store:
                store = ObservedStore(await stack.enter_async_context(open_store(settings, journal)), health)
            engine = make_engine(settings, data_dir, catalog, store, health, kafka=kafka)
            storage = cls(settings, engine, store, journal, lock)
            await storage.past.load()
            if journal is not None and await journal.get_meta(INCARNATIONS) == "unknown":
                storage._has_all_to_learn, storage._reconciled = True, False
            stack.push_async_callback(storage._close)
            if scan:
                await refresh_catalog(engine)
            await storage._guards.clock.look(ask_store=False)
            yield storage

    def announce(self, api: str) -> None:
        """Tell commands on this machine where this process serves its API."""
        assert self._lock is not None
        self._lock.announce(api)
        self.past.daemon = True

    async def archive_segment(self, path: str, *, topic_id: str | None = None) -> SegmentInfo:
        """Archive by hand, whatever the segment's age. Success if it was archived already."""
        SegmentId.parse(path)
        with by_hand(self.engine, self.engine.metrics.archives, path, topic_id):
            owned = await self.prepare()
            await asyncio.to_thread(look_at_brokers, self.engine)
            identity = named_segment(self.engine, path, topic_id)
            segment = await archive(self.engine, owned, identity, evict=self.engine.policy.may_unlink)
        return info_of(self.engine, segment)

    async def restore_segment(
        self, path: str, *, topic_id: str | None = None, force: bool = False, lease: float | None = None
    ) -> SegmentInfo:
        """Bring a segment back, and keep it for its lease. Success if it was restored already.

        Of the incarnation that is on the disk, or was archived last, unless ``topic_id`` names another. Beside Kafka
        one that leaves a gap, or that Kafka would delete again, is refused unless ``force`` is set. ``lease`` is in
        seconds, `Settings.restore_lease_hours` without it.
        """
        SegmentId.parse(path)
        with by_hand(self.engine, self.engine.metrics.restores, path, topic_id):
            await self._know_archive()
            identity = named_segment(self.engine, path, topic_id)
            if self.engine.policy.kafka and not force and self.engine.catalog.get(identity) is not None:
                choice = await self.choose_restore(Wanted((identity.exact_path,)))
                if choice.problems:
                    raise SegmentRefused("; ".join(choice.problems), segment=identity.path)
            partition = identity.place.partition
            log = named_incarnation(self.engine, partition, topic_id) if topic_id else None
            segment = await self._restores.restore(ToRestore(identity, lease, log, logs.correlation_id()))
        return info_of(self.engine, segment)

    def room_bytes(self) -> tuple[int, int]:
        """What restores may take of the disk, and what the local cache has left, in bytes."""
        engine = self.engine
        cached = sum(segment.local.size for segment in engine.catalog.restored())
        free = engine.data_dir.free_bytes() - engine.reserve_bytes
        return max(0, free), max(0, engine.policy.cache_size - cached)

    async def choose_restore(self, wanted: Wanted) -> Choice:
        """Which segments a restore would bring back, and what stands against others. Changes nothing on the disk."""
        await self._know_archive()
        await self._beside.ask()
        return await choose(self.engine, wanted)

    def segment(self, path: str, *, topic_id: str | None = None) -> SegmentInfo:
        return info_of(self.engine, known_segment(self.engine, path, topic_id))

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
        return list_segments(self.engine, topic=topic, tier=tier, state=state, after=start, topic_id=topic_id)

    async def partitions(self) -> list[PartitionInfo]:
        """The offset ranges of each partition and incarnation, with what is missing, and what is there twice."""
        found = await asyncio.to_thread(lambda: list(cover_all(self.engine)))
        return [
            describe_partition(each.partition, each.incarnation, each.coverage, is_current=each.is_current)
            for each in found
        ]

    def segment_policy(self, path: str) -> Tier:
        """Hot, warm or cold, as it stands now."""
        return classify(known_segment(self.engine, path), self.engine.policy, self.engine.clock())

    def is_segment_archived(self, path: str) -> bool:
        """Whether the segment is in the archive only."""
        return known_segment(self.engine, path).state is State.ARCHIVED

    def update_access_time(self, path: str) -> None:
        """Note that the segment was read just now: restored copies read longest ago leave first."""
        self.engine.catalog.touch(known_segment(self.engine, path).id, self.engine.clock())

    def status(self) -> Status:
        """Statistics, the last cycle, the store: what a person asks first."""
        return describe_status(self.engine, self.settings, self._beside, self.past, self.headroom_seconds)

    def stats(self) -> Stats:
        return self.engine.catalog.stats(self.engine.policy, self.engine.clock())

    async def plan(self) -> Plan:
        """What a cycle would do now, after a fresh look at the disk."""
        await self._guards.clock.look(ask_store=False)
        await self._beside.ask()
        async with self.engine.cycle_lock:
            await refresh_catalog(self.engine)
            return await leave_read_only(self.engine, await asyncio.to_thread(plan_now, self.engine))

    async def run_cycle(self, listener: Listener = lambda *_: None) -> CycleReport:
        """One cycle now; failures of single segments are in the report. `TakhinError` where nothing could be done."""
        self.past.begin()
        try:
            owned = await self._prepare_or_look() if self.engine.policy.enabled else None
            await self.look_at_clock()
            await self._beside.ask()
            self.last_cycle = await run_cycle(self.engine, owned, listener, self._beside.trim)
        except TakhinError as error:
            self.last_cycle_problem, self.last_cycle_code = str(error), error.code
            with suppress(CatalogError):
                await self.past.end(None, error)
            raise
        self.last_cycle_problem = self.last_cycle_code = ""
        await self.past.end(self.last_cycle, None)
        return self.last_cycle

    def verify(
        self, wanted: Callable[[SegmentId], bool] = lambda _: True, *, deep: bool = False
    ) -> AsyncIterator[Verdict]:
        """Compare the archive with its manifests; ``deep`` reads every byte back."""

        async def verdicts() -> AsyncIterator[Verdict]:
            await self._guards.judge_store_to_read()
            async for verdict in verify(self.engine, wanted, deep=deep):
                yield verdict

        return verdicts()

    def verify_told(self, glob: str = "*", *, deep: bool = False) -> AsyncIterator[VerifiedSegment | Hole]:
        """The same in short, and behind the segments the holes between them."""
        return verify_told(self.engine, self.verify, glob, deep=deep)

    async def prepare(self) -> OwnedPrefix:
        """Before the archive is written to: own the prefix, and know what is in it.

        What it returns is the only way to write there.

        Raises `HeldElsewhere` where another owner is alive or may be, `StoreChanged` where the store is not the one
        that was archived to, and other `StoreError`.
        """
        async with self._claim_lock:
            try:
                owned, known = await self._guards.own()
                self.engine.health.recognised()
                if known is not Owned.ALREADY:
                    # The claim says that nobody else uploads here: what is unfinished is a dead process's.
                    await remove_stale_uploads(owned, self.engine.catalog, 0)
                    # What another owner did meanwhile, the catalog does not know.
                    self._reconciled = self._reconciled and known is Owned.AGAIN
                await self._reconcile_once()
            except StoreError as error:
                if is_outage(error) or isinstance(error, StoreDenied):
                    self.engine.health.failed(error)
                raise
            return owned

    async def _know_archive(self) -> None:
        """Before something is read by its name: know what the archive holds, and of which incarnation it is."""
        await self._guards.judge_store_to_read()
        async with self._claim_lock:
            await self._reconcile_once()

    async def wait_claim_lost(self) -> None:
        """Until another owner has the prefix; for ever where there is no store."""
        await self._guards.wait_lost()

    async def _reconcile_once(self) -> None:
        if not self._reconciled:
            await self._rebuild(full=self._has_all_to_learn)

    async def _rebuild(self, *, full: bool, progress: Callable[[int, int], None] = lambda *_: None) -> Reconciliation:
        result = await rebuild(self.engine, full=full, progress=progress)
        if full and self._has_all_to_learn and self._lock is not None and self._journal is not None:
            await self._journal.set_meta(INCARNATIONS, "known")
        self._has_all_to_learn = self._has_all_to_learn and not full
        self._reconciled = True
        return result

    async def rebuild(self, progress: Callable[[int, int], None] = lambda *_: None) -> Reconciliation:
        """Learn from the disk and the bucket what there is, whatever the catalog says."""
        await refresh_catalog(self.engine)
        # What it learns of an archive without an ID makes that one no more the known one.
        await self._guards.judge_store_to_read()
        return await self._rebuild(full=True, progress=progress)

    async def reconcile(self) -> Reconciliation:
        """Hold the catalog against the bucket, and mend it."""
        await self._guards.judge_store_to_read()
        return await rebuild(self.engine, full=False)

    async def scrub(self) -> None:
        """Read the whole archive once, at the configured pace; see `scrub_segment`."""
        await scrub(self.engine, await self.prepare(), Pace(self.settings.scrub_mbps * 1e6))

    async def scrub_segment(self, path: str, *, topic_id: str | None = None) -> Verdict:
        """Read one archived segment back; a bad one is quarantined, and healed if it stands whole on disk."""
        identity = known_segment(self.engine, path, topic_id).id
        return await scrub_one(self.engine, await self.prepare(), identity, Pace(0))

    async def remove_superseded(self, identities: Iterable[SegmentId], keep: float) -> int:
        """Remove generations that were superseded more than ``keep`` seconds ago; returns how many."""
        owned = await self.prepare()
        await self.look_at_clock()
        return await remove_superseded(self.engine, owned, identities, keep)

    async def _prepare_or_look(self) -> OwnedPrefix:
        """`prepare`; while the store is down, what stands on the disk is still told."""
        try:
            return await self.prepare()
        except StoreError:
            self.engine.metrics.cycles.labels("failure").inc()
            async with self.engine.cycle_lock:
                await refresh_catalog(self.engine)
            raise

    def store_trouble(self) -> str:
        """Why the store cannot be used, since when, and how long the disk lasts; empty while it answers."""
        return store_trouble(self.engine.health, self.headroom_seconds)

    async def check_store(self) -> None:
        """Ask the store whether it answers, and remember what it said. Raises nothing for a store that is down."""
        try:
            async with answering_soon(self.engine.store.address):
                await self._guards.judge_store()
                self.engine.health.recognised()
                await self.engine.store.check()
        except StoreError as error:
            self.engine.health.failed(error)
        except CatalogError as error:
            # It does not tell whether this is the store that is known: the state directory's own trouble.
            logs.logger().error("the store could not be recognised", error=str(error))

    async def look_at_clock(self) -> None:
        """See how far the clock can be believed, before something is removed for its age."""
        await self._guards.clock.look(ask_store=True)

    def update_metrics(self) -> None:
        """Bring the gauges up to date, before they are read."""
        update_gauges(self.engine, self.stats())

    async def _close(self) -> None:
        if self._journal is not None and self._lock is not None:
            await self.engine.catalog.flush()
            if self.engine.policy.kafka:
                await self._journal.set_meta(KAFKA, "yes")
            if self._reconciled:
                await self._journal.set_meta(SUPERSEDED, str(self.engine.catalog.superseded))
                await self._journal.set_meta("clean", "yes")
        await self._guards.close()
