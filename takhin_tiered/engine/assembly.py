"""The parts and the verbs of one storage, put together. Only the façade has all of them: no verb takes them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import cast

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import Journal
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.adopting import Adopter
from takhin_tiered.engine.archive import Archiver
from takhin_tiered.engine.choosing import Chooser
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.condition import StatusReporter
from takhin_tiered.engine.copying import Copier
from takhin_tiered.engine.coverage import CoverageReader, HoleCounter
from takhin_tiered.engine.cycle import Cycle
from takhin_tiered.engine.evict import Evictor
from takhin_tiered.engine.expire import Expirer
from takhin_tiered.engine.guards import Guards, make_guards
from takhin_tiered.engine.heating import Heating
from takhin_tiered.engine.history import CycleHistory
from takhin_tiered.engine.learning import Learner
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.live_broker import LiveBroker
from takhin_tiered.engine.merged import MergedRemover
from takhin_tiered.engine.naming import SegmentInfos
from takhin_tiered.engine.outlook import OutlookReader
from takhin_tiered.engine.placing import Neighbours
from takhin_tiered.engine.preparation import Preparation
from takhin_tiered.engine.pressure import PressureReader
from takhin_tiered.engine.progress import Progress
from takhin_tiered.engine.promoting import Promoter
from takhin_tiered.engine.read_only import ReadOnlyPrefixes
from takhin_tiered.engine.rebuild import Rebuilder
from takhin_tiered.engine.reclassing import ClassChanger
from takhin_tiered.engine.rekey import Rekeyer
from takhin_tiered.engine.relying import Reliance
from takhin_tiered.engine.restore import Restorer
from takhin_tiered.engine.restores import Restores
from takhin_tiered.engine.retrieving import Retriever
from takhin_tiered.engine.scanning import Scanner
from takhin_tiered.engine.scrub import Examiner, Scrubber, Verifier
from takhin_tiered.engine.situation import Situation
from takhin_tiered.engine.spending import Spending
from takhin_tiered.engine.splicing import Splicer
from takhin_tiered.engine.steps import StepRunner
from takhin_tiered.engine.summaries import Summaries
from takhin_tiered.engine.superseded import SupersededRemover
from takhin_tiered.engine.trim import Trimmer
from takhin_tiered.errors import ConfigError
from takhin_tiered.metrics import Metrics
from takhin_tiered.store import ObjectStore, ReadableStore, StoreHealth
from takhin_tiered.vault.codecs import Codecs


class _NoStore:
    """Stands where no object store is configured: whatever is asked of it raises `ConfigError`."""

    def __getattr__(self, _: str) -> object:
        raise ConfigError(
            "no object store is configured",
            hint="Set storage.tiered.s3.bucket or storage.tiered.directory.path",
        )


@dataclass(frozen=True, slots=True)
class Assembly:
    """First what the verbs share, then the verbs. ``stopping`` is set when nothing more is to be begun."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    health: StoreHealth
    stopping: asyncio.Event
    progress: Progress
    guards: Guards
    preparation: Preparation
    scanner: Scanner
    archiver: Archiver
    evictor: Evictor
    expirer: Expirer
    restores: Restores
    retriever: Retriever
    chooser: Chooser
    verifier: Verifier
    scrubber: Scrubber
    rebuilder: Rebuilder
    superseded: SupersededRemover
    cycle: Cycle
    broker: LiveBroker
    codecs: Codecs
    spending: Spending
    rekeyer: Rekeyer
    coverage: CoverageReader
    infos: SegmentInfos
    summaries: Summaries
    history: CycleHistory
    status: StatusReporter
    heating: Heating
    promoter: Promoter

    def apply(self, settings: Settings, keys: KeyRing) -> None:
        """Settings and keys that were read anew: all that may change while the process runs."""
        policy = settings.policy_for(kafka=self.situation.policy.kafka)
        self.situation.policy = replace(policy, broker_running=self.situation.policy.broker_running)
        self.heating.apply()
        self.situation.view.set_interval(settings.archive_interval_minutes * 60)
        self.codecs.apply(settings, keys)
        self.spending.apply(settings)
        set_limits(self.limits, settings)
        self.retriever.apply(settings.s3_glacier_tier, settings.s3_glacier_days)


def set_limits(limits: Limits, settings: Settings) -> None:
    limits.concurrency = settings.archive_concurrency
    limits.reserve_bytes = int(settings.restore_reserve_mb * 1024 * 1024)
    limits.class_seconds = settings.reconcile_interval_hours * 3600
    limits.uploads.rate = settings.throttle_upload_mbps * 1e6
    limits.downloads.rate = settings.throttle_download_mbps * 1e6


def assemble(
    settings: Settings,
    data_dir: DataDirs,
    catalog: Catalog,
    journal: Journal | None,
    keys: KeyRing,
    *,
    store: ObjectStore | None,
    health: StoreHealth,
    spending: Spending,
    kafka: bool,
    is_ours: bool,
) -> Assembly:
    """``health`` is that of the store. ``is_ours``: the data directory is locked, and the journal may be written."""
    readable = cast("ReadableStore", _NoStore()) if store is None else store
    metrics, clock, limits = health.metrics, Clock(), Limits()
    set_limits(limits, settings)
    codecs = Codecs()
    codecs.apply(settings, keys)
    situation = Situation(settings.policy_for(kafka=kafka))
    stopping, progress = asyncio.Event(), Progress()

    coverage = CoverageReader(catalog, data_dir, situation)
    read_only = ReadOnlyPrefixes(catalog, readable, is_used=bool(settings.read_prefixes))
    reliance = Reliance(catalog, readable, clock)
    expirer = Expirer(catalog, data_dir, readable, clock, read_only, reliance)
    superseded = SupersededRemover(catalog, readable, clock, limits, stopping, codecs)
    heating = Heating(catalog, clock, situation, journal if is_ours else None)
    evictor = Evictor(catalog, data_dir, readable, situation, metrics, codecs, reliance, heating)
    merged = MergedRemover(catalog, expirer, superseded)
    learner = Learner(catalog, readable, situation)
    adopter = Adopter(readable, codecs, learner)
    splicer = Splicer(catalog, readable, clock, limits, metrics, codecs, reliance)
    copier = Copier(
        catalog,
        data_dir,
        readable,
        clock,
        situation,
        limits,
        metrics,
        merged,
        codecs,
        settings.state_dir,
        adopter,
        splicer,
    )
    archiver = Archiver(catalog, data_dir, readable, situation, metrics, copier, evictor)
    neighbours = Neighbours(catalog, data_dir, readable)
    restorer = Restorer(catalog, data_dir, readable, clock, situation, limits, metrics, neighbours, codecs)
    examiner = Examiner(readable, metrics, codecs)
    outlook_reader = OutlookReader(catalog, data_dir, clock, situation)
    pressure = PressureReader(catalog, data_dir, clock, situation, metrics)
    scanner = Scanner(catalog, data_dir, clock, situation, metrics, outlook_reader, pressure)
    steps = StepRunner(
        catalog, readable, clock, situation, limits, metrics, health, stopping, progress, archiver, evictor, expirer
    )
    holes = HoleCounter(catalog, metrics, coverage)
    notes = journal if is_ours else None
    classes = ClassChanger(catalog, clock, situation, limits, metrics, stopping, notes, spending.walks)
    retriever = Retriever(catalog, readable, clock, limits, metrics, journal)
    retriever.apply(settings.s3_glacier_tier, settings.s3_glacier_days)
    restores = Restores(catalog, restorer, spending, retriever, stopping)
    cycle = Cycle(
        catalog, data_dir, clock, situation, metrics, progress, scanner, read_only, steps, holes, classes, restores
    )
    trimmer = Trimmer(catalog, data_dir, readable, clock, situation, metrics, codecs, reliance)
    broker = LiveBroker(catalog, situation, trimmer, settings)
    history = CycleHistory(clock, data_dir, scanner, journal, may_write=is_ours)
    guards = make_guards(settings, clock, catalog, data_dir, store=store, meta=journal, is_ours=is_ours)
    rebuilder = Rebuilder(catalog, readable, learner, guards.replica)
    chooser = Chooser(catalog, data_dir, readable, clock, situation, coverage)
    promoter = Promoter(
        catalog,
        data_dir,
        clock,
        situation,
        limits,
        metrics,
        health,
        heating,
        restores,
        evictor,
        chooser,
        stopping,
        has_store=store is not None,
    )
    return Assembly(
        catalog=catalog,
        data_dir=data_dir,
        store=readable,
        clock=clock,
        situation=situation,
        limits=limits,
        metrics=metrics,
        health=health,
        stopping=stopping,
        progress=progress,
        guards=guards,
        preparation=Preparation(guards, catalog, health, rebuilder, journal, reliance=reliance, may_write=is_ours),
        scanner=scanner,
        archiver=archiver,
        evictor=evictor,
        expirer=expirer,
        restores=restores,
        retriever=retriever,
        chooser=chooser,
        verifier=Verifier(catalog, readable, limits, examiner),
        scrubber=Scrubber(catalog, data_dir, readable, limits, stopping, examiner, copier),
        rebuilder=rebuilder,
        superseded=superseded,
        cycle=cycle,
        broker=broker,
        codecs=codecs,
        spending=spending,
        rekeyer=Rekeyer(catalog, readable, limits, codecs),
        coverage=coverage,
        infos=SegmentInfos(catalog, clock, situation, retriever.pending),
        summaries=Summaries(catalog, clock, situation),
        history=history,
        status=StatusReporter(
            catalog, data_dir, readable, clock, situation, health, broker, history, retriever.pending
        ),
        heating=heating,
        promoter=promoter,
    )
