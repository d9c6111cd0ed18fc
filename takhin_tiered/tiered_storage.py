"""The façade: what a program embeds, and all that the API and the command line call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import Journal, open_journal
from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config import Settings
from takhin_tiered.disk.lock import DataDirLock
from takhin_tiered.engine.assembly import Assembly, assemble
from takhin_tiered.engine.brokers import look_at_brokers
from takhin_tiered.engine.choosing import Choice
from takhin_tiered.engine.condition import check_store, stats_now, store_trouble
from takhin_tiered.engine.costing import Costs
from takhin_tiered.engine.gauges import update_gauges
from takhin_tiered.engine.looks import Looking, Looks
from takhin_tiered.engine.maintaining import Maintenance
from takhin_tiered.engine.marks import by_hand
from takhin_tiered.engine.naming import known_segment, named_incarnation, named_segment
from takhin_tiered.engine.opening import KAFKA, SUPERSEDED, acquire, find_kafka, open_data_dirs
from takhin_tiered.engine.planning import Plans
from takhin_tiered.engine.progress import Progress
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.engine.restore import ToRestore
from takhin_tiered.engine.restores import Retrieves
from takhin_tiered.engine.scanning import measure_room
from takhin_tiered.engine.sharing import Shares
from takhin_tiered.engine.spending import Spending
from takhin_tiered.engine.warmth import Warmth
from takhin_tiered.errors import CatalogError, SegmentRefused, StoreError, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.reader.composition import ReaderParts, Reads, log_reader, open_reader
from takhin_tiered.reader.reader import Reader
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.events import SegmentEvent
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan
from takhin_tiered.segments.policy import Policy, classify
from takhin_tiered.segments.report import SegmentInfo
from takhin_tiered.segments.results import Status
from takhin_tiered.store import ObservedStore, RequestCounter, StoreHealth, open_store
from takhin_tiered.vault.codecs import load_keys
from takhin_tiered.vault.owned import OwnedPrefix


class TieredStorage(Plans, Reads, Retrieves, Shares, Looks, Costs, Maintenance, Warmth):
    """Segments of one data directory, and their archive. Made by `TieredStorage.open`.

    ::

        async with TieredStorage.open(Settings.load("takhin.yaml")) as storage:
            await storage.archive_segment("orders-0/00000000000000000000.log")

    Every method that takes a path raises `InvalidSegmentPath` where it is none, and `SegmentNotFound`
    where nothing is known of such a segment.
    """

    def __init__(
        self, settings: Settings, parts: Assembly, reader: Reader, journal: Journal | None, lock: DataDirLock | None
    ) -> None:
        self.settings = settings
        self.last_cycle: CycleReport | None = None
        self.last_cycle_problem = ""
        self.last_cycle_code = ""
        self.headroom_seconds: float | None = None
        self._parts = parts
        self._reader, self._catalog, self._clock, self._situation = reader, parts.catalog, parts.clock, parts.situation
        self._preparation, self._scanner, self._journal = parts.preparation, parts.scanner, journal
        self._heating, self._promoter = parts.heating, parts.promoter
        self.spending = parts.spending
        self._maintain(parts.guards, parts.coverage, parts.verifier, parts.scrubber, parts.rekeyer, parts.superseded)
        self._restores, self._lock = parts.restores, lock
        self._looking = Looking(
            parts.catalog, parts.coverage, parts.infos, parts.summaries, parts.clock, parts.situation
        )

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
            catalog = Catalog(journal, settings.policy.ages_of)
            await catalog.load()
            if read_only:
                catalog.detach()
            if journal is not None:
                catalog.superseded = int(await journal.get_meta(SUPERSEDED) or 0)
            kafka = await find_kafka(settings, data_dir, journal, read_only=read_only)
            keys = await asyncio.to_thread(load_keys, settings)
            health, store, is_ours = StoreHealth(Metrics()), None, lock is not None
            counter = RequestCounter(health.metrics)
            if settings.has_store:
                opened = await stack.enter_async_context(open_store(settings, journal, counter))
                store = ObservedStore(opened, health)
            spending = Spending(settings, counter, journal, may_write=is_ours)
            parts = assemble(
                settings,
                data_dir,
                catalog,
                journal,
                keys,
                store=store,
                health=health,
                spending=spending,
                kafka=kafka,
                is_ours=is_ours,
            )
            shared = parts.store, parts.clock, parts.situation, parts.limits, parts.metrics, parts.heating
            reading = ReaderParts(catalog, data_dir, *shared, lambda: parts.codecs.keys, parts.scanner)
            state_dir = settings.state_dir if is_ours else None
            reader = await stack.enter_async_context(open_reader(state_dir, reading))
            storage = cls(settings, parts, reader, journal, lock)
            storage._log = log_reader(reading, reader, storage._know_archive)
            await parts.history.load()
            await parts.heating.load(journal)
            await parts.retriever.load()
            await spending.load()
            await parts.preparation.load()
            stack.push_async_callback(storage._close)
            if scan:
                await parts.scanner.scan()
            await parts.guards.clock.look(ask_store=False)
            yield storage

    @property
    def metrics(self) -> Metrics:
        return self._parts.metrics

    @property
    def stopping(self) -> asyncio.Event:
        """Set it, and nothing more is begun: a cycle, a scrub or a removal ends after what it does now."""
        return self._parts.stopping

    @property
    def progress(self) -> Progress:
        """How far the running cycle is."""
        return self._parts.progress

    @property
    def store_address(self) -> str | None:
        """Where the archive is, for people; None where no store is configured."""
        return self._parts.store.address if self.settings.has_store else None

    @property
    def mode(self) -> str:
        """The archive mode in effect: it depends on whether the data directory is Kafka's."""
        return self.settings.mode(kafka=self._parts.situation.policy.kafka)

    def rules_of(self, topic: str) -> Policy:
        """The rules in effect for a topic, which may have some of its own."""
        return self._parts.situation.policy.of(topic)

    @property
    def is_cycle_running(self) -> bool:
        return self._parts.cycle.lock.locked()

    @property
    def restoring_bytes(self) -> int:
        """Bytes of the disk that running restores have reserved."""
        return sum(self._parts.data_dir.held.values())

    def share_processors(self) -> None:
        """This process also serves requests: checksums leave it half of the processors."""
        self._parts.limits.share_processors()

    def measure_room(self) -> dict[int, int]:
        """Free bytes of each file system, by device, also for the metrics; blocking."""
        return measure_room(self._parts.data_dir, self.metrics)

    def apply(self, settings: Settings, keys: KeyRing) -> None:
        """Settings that were read anew, with their keys. They may differ in what takes effect without a restart."""
        self._parts.apply(settings, keys)
        # They may have been wrapped with a key that is not in the file any more.
        self._reader.manifests.clear()
        self.settings = settings

    def announce(self, api: str) -> None:
        """Tell commands on this machine where this process serves its API."""
        assert self._lock is not None
        self._lock.announce(api)
        self._parts.history.daemon = True

    async def archive_segment(self, path: str, *, topic_id: str | None = None) -> SegmentInfo:
        """Archive by hand, whatever the segment's age. Success if it was archived already."""
        SegmentId.parse(path)
        parts = self._parts
        with by_hand(parts.catalog, parts.health, parts.metrics.archives, path, topic_id):
            owned = await self.prepare()
            await asyncio.to_thread(look_at_brokers, parts.situation, parts.data_dir)
            identity = named_segment(parts.catalog, path, topic_id)
            rules = parts.situation.policy.of(identity.topic)
            segment = await parts.archiver.archive(owned, identity, evict=rules.may_unlink)
        return parts.infos.info_of(segment)

    async def restore_segment(
        self,
        path: str,
        *,
        topic_id: str | None = None,
        force: bool = False,
        lease: float | None = None,
        by: str = "",
        over_budget: bool = False,
    ) -> SegmentInfo:
        """Bring a segment back, and keep it for its lease. Success if it was restored already.

        Of the incarnation that is on the disk, or was archived last, unless ``topic_id`` names another. Beside Kafka
        one that leaves a gap, or that Kafka would delete again, is refused unless ``force`` is set. ``lease`` is in
        seconds, `Settings.restore_lease_hours` without it. ``by`` says who asks, for those who see the lease.
        ``over_budget``: also where it costs more than is left of the month's restore budget, else `OverBudget`.
        """
        SegmentId.parse(path)
        parts = self._parts
        with by_hand(parts.catalog, parts.health, parts.metrics.restores, path, topic_id):
            await self._parts.preparation.know_archive()
            identity = named_segment(parts.catalog, path, topic_id)
            if parts.situation.policy.kafka and not force and parts.catalog.get(identity) is not None:
                choice = await self.choose_restore(Wanted((identity.exact_path,)))
                if choice.problems:
                    raise SegmentRefused("; ".join(choice.problems), segment=identity.path)
            partition = identity.place.partition
            log = named_incarnation(parts.catalog, partition, topic_id) if topic_id else None
            wanted = ToRestore(identity, lease, log, logs.correlation_id(), by, over_budget)
            segment = await parts.restores.restore(wanted)
        return parts.infos.info_of(segment)

    def room_bytes(self) -> tuple[int, int]:
        """What restores may take of the disk, and what the local cache has left, in bytes."""
        parts = self._parts
        cached = sum(segment.local.size for segment in parts.catalog.restored())
        free = parts.data_dir.free_bytes() - parts.limits.reserve_bytes
        return max(0, free), max(0, parts.situation.policy.cache_size - cached)

    async def choose_restore(self, wanted: Wanted) -> Choice:
        """Which segments a restore would bring back, and what stands against others. Changes nothing on the disk."""
        await self._parts.preparation.know_archive()
        await self._parts.broker.ask()
        return await self._parts.chooser.choose(wanted)

    async def history(self, path: str, *, topic_id: str | None = None) -> list[SegmentEvent]:
        """What happened to the segment, in order, with correlation IDs; also to one that is nowhere any more.

        Of all incarnations, or of the one that ``topic_id`` or the path names.
        """
        identity = named_segment(self._parts.catalog, path, topic_id)
        if self._lock is not None:
            await self._parts.catalog.flush()
        partition, found = identity.place.partition, list[SegmentEvent]()
        if self._journal is not None:
            found = await self._journal.events(partition, identity.base_offset)
        if topic_id or "@" in path:
            found = [event for event in found if event.incarnation == identity.label]
        if not found:
            known_segment(self._parts.catalog, path, topic_id)
        return found

    def segment_policy(self, path: str) -> Tier:
        """Hot, warm or cold, as it stands now."""
        now, situation, segment = self._clock.now(), self._parts.situation, known_segment(self._catalog, path)
        return classify(segment, situation.policy, now, situation.tracker.at(now), sure=self._clock.sure_now())

    def is_segment_archived(self, path: str) -> bool:
        """Whether the segment is in the archive only."""
        return known_segment(self._parts.catalog, path).state is State.ARCHIVED

    def status(self) -> Status:
        """Statistics, the last cycle, the store: what a person asks first."""
        return self._parts.status.describe(
            self.settings, self.headroom_seconds, self.consumers(), self._fleet_status(), self.restore_budget()
        )

    def stats(self) -> Stats:
        return stats_now(self._catalog, self._parts.situation, self._clock)

    async def plan(self, *, work_only: bool = False) -> Plan:
        """What a cycle would do now, after a fresh look at the disk; ``work_only``: without what stays."""
        await self._parts.guards.clock.look(ask_store=False)
        await self._parts.broker.ask()
        return await self._parts.cycle.plan(work_only=work_only)

    async def run_cycle(self, listener: Listener = lambda *_: None) -> CycleReport:
        """One cycle now; failures of single segments are in the report. `TakhinError` where nothing could be done."""
        self._parts.history.begin()
        try:
            owned = await self._prepare_or_look() if self._parts.situation.policy.enabled else None
            await self.look_at_clock()
            await self._parts.broker.ask()
            self.last_cycle = await self._parts.cycle.run(owned, listener, self._parts.broker.trim)
        except TakhinError as error:
            self.last_cycle_problem, self.last_cycle_code = str(error), error.code
            with suppress(CatalogError):
                await self._parts.history.end(None, error)
            raise
        self.last_cycle_problem = self.last_cycle_code = ""
        await self._parts.history.end(self.last_cycle, None)
        return self.last_cycle

    async def prepare(self) -> OwnedPrefix:
        """Before the archive is written to: own the prefix, and know what is in it.

        What it returns is the only way to write there.

        Raises `HeldElsewhere` where another owner is alive or may be, `StoreChanged` where the store is not the one
        that was archived to, and other `StoreError`.
        """
        return await self._parts.preparation.own()

    async def wait_claim_lost(self) -> None:
        """Until another owner has the prefix; for ever where there is no store."""
        await self._parts.guards.wait_lost()

    async def _prepare_or_look(self) -> OwnedPrefix:
        """`prepare`; while the store is down, what stands on the disk is still told."""
        try:
            return await self.prepare()
        except StoreError:
            self.metrics.cycles.labels("failure").inc()
            await self._parts.cycle.scan()
            raise

    def store_trouble(self) -> str:
        """Why the store cannot be used, since when, and how long the disk lasts; empty while it answers."""
        return store_trouble(self._parts.health, self.headroom_seconds)

    async def check_store(self, *, seconds: float | None = None) -> None:
        """Ask the store whether it answers, and remember what it answered. Raises nothing for a store that is down.

        One that does not answer within so many ``seconds``, where they are given, is down.
        """
        await check_store(self._parts.guards, self._parts.health, self._parts.store, seconds)

    async def look_at_clock(self) -> None:
        """See how far the clock can be believed, before something is removed for its age."""
        await self._parts.guards.clock.look(ask_store=True)

    def update_metrics(self) -> None:
        """Bring the gauges up to date, before they are read."""
        parts, tracked = self._parts, self.tracked_segments
        update_gauges(self.metrics, parts.catalog, parts.clock, parts.history, self.stats(), tracked=tracked)
        self.update_cost_metrics()

    async def _close(self) -> None:
        if self._journal is not None and self._lock is not None:
            await self._parts.catalog.flush()
            await self._heating.close()
            await self.spending.save()
            if self._parts.situation.policy.kafka:
                await self._journal.set_meta(KAFKA, "yes")
            if self._parts.preparation.is_reconciled:
                await self._journal.set_meta(SUPERSEDED, str(self._parts.catalog.superseded))
                await self._journal.set_meta("clean", "yes")
        await self._parts.guards.close()
