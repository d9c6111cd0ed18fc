"""The reader's parts, put together; and what the façade offers of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.heating import Heating
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.naming import known_segment
from takhin_tiered.engine.preparation import Preparation
from takhin_tiered.engine.scanning import Scanner
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import Damaged, SegmentNotFound, StoreUnavailable, TakhinError
from takhin_tiered.formats.batch import Bytes
from takhin_tiered.metrics import Metrics
from takhin_tiered.reader.archived import PIECE_SIZE, ArchivedFile
from takhin_tiered.reader.cache import DiskCache
from takhin_tiered.reader.fetching import Fetcher, NoCache, StoredChunks
from takhin_tiered.reader.finder import Finder
from takhin_tiered.reader.indexes import IndexCache
from takhin_tiered.reader.log import LogReader
from takhin_tiered.reader.manifests import Manifests
from takhin_tiered.reader.memory import Memory
from takhin_tiered.reader.opened import OpenRange
from takhin_tiered.reader.outcomes import Outcomes
from takhin_tiered.reader.query import RecordPage, RecordQuery
from takhin_tiered.reader.reader import Reader
from takhin_tiered.reader.whole import ChecksumsInMemory, KnownChecksums, WholeObjects
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.results import Consumer
from takhin_tiered.store import ReadableStore

if TYPE_CHECKING:
    from takhin_tiered.reader.serving import ServedLogs

CACHE_NAME = "cache"
_MEMORY = 48 << 20
_MANIFESTS = 8 << 20
_KNOW_SECONDS = 5.0
"""The daemon's first cycle scans the disk, and learns the archive where the catalog was lost: who asks tries again."""


@dataclass(frozen=True, slots=True)
class ReaderParts:
    """What reading uses. ``keys`` are those of the key file as it was read last."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    limits: Limits
    metrics: Metrics
    heating: Heating
    keys: Callable[[], KeyRing]
    scanner: Scanner


@dataclass(frozen=True, slots=True)
class CacheBound:
    """How many bytes the chunks of the disk cache may have. Restored segments whose lease has ended share its size."""

    directory: Path
    parts: ReaderParts

    def __call__(self, used: int) -> int:
        """``used``: what they have now. Above the reserve of the disk, which running restores draw on too."""
        # By the wall clock: a lease that is taken for ended too early costs no copy here, only room for chunks.
        parts, now = self.parts, self.parts.clock.now()
        restored = sum(each.local.size for each in parts.catalog.restored() if not each.lease_left(now))
        parts.metrics.restored_bytes.set(restored)
        try:
            disk = os.statvfs(self.directory)
            device = self.directory.stat().st_dev
        except OSError:
            return 0
        free = disk.f_bavail * disk.f_frsize - parts.limits.reserve_bytes - parts.data_dir.held[device]
        return min(parts.situation.policy.cache_size - restored, used + free)


@asynccontextmanager
async def open_reader(state_dir: Path | None, parts: ReaderParts) -> AsyncIterator[Reader]:
    """``state_dir`` is where the disk cache is; None for a process that does not hold the data directory's lock."""
    async with AsyncExitStack() as stack:
        cache: StoredChunks = NoCache()
        known: KnownChecksums = ChecksumsInMemory()
        if state_dir is not None:
            directory = state_dir / CACHE_NAME
            try:
                on_disk = await stack.enter_async_context(
                    DiskCache.open(directory, CacheBound(directory, parts), parts.metrics)
                )
            except (OSError, sqlite3.Error) as error:
                logs.logger().warning("there is no disk cache: reads go on without it", error=str(error))
            else:
                cache, known = on_disk, on_disk
                device = directory.stat().st_dev

                async def give_way(wanted: int) -> None:
                    if wanted == device:
                        await on_disk.give_way()

                parts.limits.give_way = give_way

        async def on_damage(file: ArchivedFile, error: Damaged) -> TakhinError:
            return await reader.on_damage(file, error)

        fetcher = Fetcher(
            parts.store,
            Memory(_MEMORY),
            cache,
            metrics=parts.metrics,
            pace=parts.limits.downloads,
            on_damage=on_damage,
        )
        manifests = Manifests(parts.catalog, parts.store, _MANIFESTS)
        whole = WholeObjects(fetcher, known, PIECE_SIZE)
        reader = Reader(parts.catalog, parts.data_dir, manifests, fetcher, whole, parts.keys)
        stack.push_async_callback(reader.close)
        yield reader


def log_reader(parts: ReaderParts, reader: Reader, know: Callable[[], Awaitable[bool]]) -> LogReader:
    finder, indexes = Finder(parts.catalog, parts.data_dir, parts.situation), IndexCache()
    outcomes = Outcomes(finder, reader, indexes)
    return LogReader(parts.catalog, parts.scanner, parts.heating, finder, reader, indexes, outcomes, know)


def _nobody() -> tuple[Consumer, ...]:
    """There is no Kafka endpoint."""
    return ()


class Reads:
    """What `TieredStorage` offers for reading in place."""

    if TYPE_CHECKING:
        # The façade sets them.
        settings: Settings
        _reader: Reader
        _log: LogReader
        _catalog: Catalog
        _clock: Clock
        _preparation: Preparation
        _heating: Heating

    consumers: Callable[[], tuple[Consumer, ...]] = staticmethod(_nobody)
    """Who reads through the Kafka endpoint. Whoever opens it sets this."""

    @property
    def clock(self) -> Clock:
        """The time, as far as it can be believed."""
        return self._clock

    @cached_property
    def logs(self) -> ServedLogs:
        """The partitions as a broker shows them to consumers."""
        # Imported here: only the Kafka endpoint reads so.
        from takhin_tiered.reader.serving import ServedLogs

        return ServedLogs(self._catalog, self._log, self._know_all)

    @asynccontextmanager
    async def open_range(
        self,
        path: str,
        start: int = 0,
        end: int | None = None,
        *,
        topic_id: str | None = None,
        kind: FileKind = FileKind.LOG,
    ) -> AsyncIterator[OpenRange]:
        """Bytes ``start`` to ``end`` (exclusive; None: to the end) of a file of a segment, wherever it is.

        ::

            async with storage.open_range("orders-0/00000000000000000000.log", 0, 1000) as opened:
                async for piece in opened:
                    ...

        They come from the broker's disk or from the archive, proven as ``opened.proof`` says. What is raised instead:
        `RangeNotSatisfiable`, `Damaged`, `NoKey`, `WrongKey`, `SegmentChanged`, or `StoreError`.
        """
        segment = await self._known(path, topic_id)
        async with self._reader.open_range(segment.id, kind, start, end) as opened:
            yield replace(opened, told=partial(self._heating.note, segment.id))

    async def read_records(self, query: RecordQuery, max_records: int = 100) -> RecordPage:
        """Records of a partition, from an offset or a timestamp on, wherever they are.

        ::

            page = await storage.read_records(RecordQuery("orders", 0, offset=1000))

        An answer ends before a hole, and at the last record that consumers may see. Raises `PartitionNotFound`,
        `OffsetOutOfRange`, `OffsetInHole`, `Damaged`, `NoKey`, `WrongKey`, or `StoreError`.
        """
        return await self._log.page(query, max_records)

    def read_batches(self, query: RecordQuery) -> AsyncGenerator[Bytes, None]:
        """The same as whole record batches, up to the end of the log; `OffsetInHole` is raised where one begins.

        Many batches may come at once. A view keeps the bytes around it in memory: copy what is kept for long.
        """
        return self._log.batches(query)

    async def _know_all(self) -> None:
        try:
            async with asyncio.timeout(_KNOW_SECONDS):
                await self._log.scanner.done.wait()
                await self._know_archive()
        except TimeoutError:
            raise StoreUnavailable("the data directory and the archive have not been looked through yet") from None

    async def _know_archive(self) -> bool:
        if self._preparation.is_reconciled or not self.settings.has_store:
            return False
        await self._preparation.know_archive()
        return True

    async def _known(self, path: str, topic_id: str | None) -> Segment:
        """As it is known; before it is taken for unknown, the disk is looked at, and the archive if it never was."""
        with suppress(SegmentNotFound):
            return known_segment(self._catalog, path, topic_id)
        # The broker may have rolled it since the last scan.
        await self._log.scanner.look_at(SegmentId.parse(path).place.partition)
        try:
            return known_segment(self._catalog, path, topic_id)
        except SegmentNotFound:
            if not await self._know_archive():
                raise
        return known_segment(self._catalog, path, topic_id)
