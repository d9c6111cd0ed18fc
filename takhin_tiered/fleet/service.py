"""A node's part of the fleet, in the process that holds the data directory.

It follows the cycles in a task of its own: neither a cycle, nor an archive, nor a restore waits for the table. What an
outage kept from being written is a difference like any other, and is written by the first sync after it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import takhin_tiered
from takhin_tiered import logs, machine
from takhin_tiered.aws.breaker import Breaker
from takhin_tiered.aws.dynamodb import Call, open_dynamodb
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.errors import TableError, TakhinError
from takhin_tiered.fleet.initialise import telling_what_is_wrong
from takhin_tiered.fleet.leases import Leases
from takhin_tiered.fleet.local import NodeFacts
from takhin_tiered.fleet.operations import Calls, OperationLog
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.sync import RENEW_SECONDS, Sync, Synced
from takhin_tiered.fleet.written import FILE_NAME, open_written
from takhin_tiered.metrics import FleetMetrics
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import FleetStatus
from takhin_tiered.tiered_storage import TieredStorage

_RETRY_SECONDS = 15.0
_RELEASE_SECONDS = 3.0
_BEGIN_SECONDS = 60.0
_BREAKER_SECONDS = 2.0


def facts_of(settings: Settings, store: str | None) -> NodeFacts:
    return NodeFacts(
        node=settings.fleet_node,
        host=socket.gethostname(),
        version=takhin_tiered.__version__,
        mode=settings.fleet_mode,
        store=store or "",
        seeds=settings.fleet_mode == "dynamodb",
    )


def region_of(settings: Settings) -> str:
    return settings.fleet_region or settings.s3_region


class Fleet:
    """Made by `open_fleet`. ``problem`` is why the table does not have what this node knows; empty if it has."""

    def __init__(self, storage: TieredStorage, stack: AsyncExitStack) -> None:
        self._storage, self._stack = storage, stack
        self._metrics: FleetMetrics = storage.metrics.fleet
        self._sync: Sync | None = None
        self._one = asyncio.Lock()
        self._ended = asyncio.Event()
        self.problem = ""
        self._problem_since = self._synced_at = 0.0

    def status(self) -> FleetStatus:
        settings = self._storage.settings
        return FleetStatus(
            mode=settings.fleet_mode,
            table=settings.fleet_table,
            node=settings.fleet_node,
            problem=f"{self.problem}, since {iso_time(self._problem_since)}" if self.problem else "",
            problem_since=iso_time(self._problem_since),
            synced_at=iso_time(self._synced_at),
        )

    def cycle_ended(self) -> None:
        """There may be something to write."""
        self._ended.set()

    async def begin(self) -> None:
        """In mode ``dynamodb`` a new state directory begins with the leases that the table knows: the first cycle would
        take copies off the disk without them. Where the table does not answer in time, it does.
        """
        if self._storage.settings.fleet_mode != "dynamodb":
            return
        with suppress(TimeoutError, TakhinError):
            async with asyncio.timeout(_BEGIN_SECONDS):
                if await (await self._opened()).is_new():
                    await self.sync()

    async def run(self) -> None:
        """Sync after each cycle, try again where that failed, and keep the lease between."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS if self.problem else RENEW_SECONDS):
                    await self._ended.wait()
            if self._ended.is_set() or self.problem:
                self._ended.clear()
                await self.sync()
            elif self._synced_at and self._sync is not None:
                # The next sync tells, if the table does not answer any more.
                with suppress(TakhinError):
                    async with self._one:
                        await self._sync.keep_lease()

    async def sync(self) -> Synced | None:
        """Bring the table into agreement with the local catalog; None if that failed, and `problem` says why."""
        async with self._one:
            try:
                sync = await self._opened()
                async with telling_what_is_wrong(sync.table):
                    done = await sync.run()
            except TakhinError as error:
                self._failed(error)
                return None
            self._succeeded(done)
            return done

    async def _opened(self) -> Sync:
        """Opened at the first use: a client that cannot be made, or a disk that is full, stops no daemon."""
        if self._sync is None:
            settings, storage = self._storage.settings, self._storage
            calls = Calls(self._count)
            async with AsyncExitStack() as stack:
                # Whoever asks here does so once in a cycle: what is back is to be found by the next one.
                breaker = Breaker(longest=_BREAKER_SECONDS)
                database = await stack.enter_async_context(
                    open_dynamodb(region_of(settings), settings.fleet_endpoint, listener=calls, breaker=breaker)
                )
                written = await stack.enter_async_context(open_written(settings.state_dir / FILE_NAME))
                table = Table(database, settings.fleet_table)
                facts = facts_of(settings, storage.store_address)
                leases = Leases(table, await in_thread(identity_of, settings.state_dir), facts.host)
                log = OperationLog(table, facts.node, calls)
                self._sync = Sync(table, storage, facts, written=written, leases=leases, log=log)
                self._stack.push_async_exit(stack.pop_all())
            self._stack.push_async_callback(self._release, self._sync)
        return self._sync

    async def _release(self, sync: Sync) -> None:
        """Another process with this node's name need not wait."""
        with suppress(TableError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await sync.release()

    def _count(self, call: Call) -> None:
        self._metrics.seconds.labels(call.outcome).observe(call.seconds, logs.exemplar(call.correlation_id))
        if call.capacity:
            self._metrics.capacity.labels(call.operation).inc(call.capacity)

    def _failed(self, error: TakhinError) -> None:
        self._metrics.syncs.labels("failure").inc()
        if not self.problem:
            self._problem_since = time.time()
            logs.logger().warning(
                "the fleet's table cannot be written; archives and restores go on, and it is caught up afterwards",
                code=error.code,
                error=str(error),
            )
        self.problem = str(error)
        self._metrics.behind_since.set(self._problem_since)

    def _succeeded(self, done: Synced) -> None:
        now = time.time()
        if self.problem:
            logs.logger().info(
                "the fleet's table has all again", seconds=round(now - self._problem_since), items=done.written
            )
        self.problem, self._problem_since, self._synced_at = "", 0.0, now
        self._metrics.syncs.labels("success").inc()
        self._metrics.written.inc(done.written)
        self._metrics.deleted.inc(done.deleted)
        self._metrics.behind_since.set(0)
        self._metrics.last_sync.set(now)


@asynccontextmanager
async def open_fleet(storage: TieredStorage) -> AsyncIterator[Fleet]:
    """Share the catalog of a storage, as its settings say. Nothing is sent before the first sync."""
    async with AsyncExitStack() as stack:
        fleet = Fleet(storage, stack)
        storage.fleet = fleet
        try:
            yield fleet
        finally:
            storage.fleet = None


def identity_of(state_dir: Path) -> str:
    """The same in each process of a state directory, which one process at a time holds; another for a copy of it.

    Disks that were formatted alike, or cloned, have the same numbers on each machine: its boot tells these apart.
    """
    status = state_dir.stat()
    machine_now = machine.boot_id() or socket.gethostname()
    text = f"{status.st_dev} {status.st_ino} {state_dir.resolve()} {machine_now}"
    return blake2b(text.encode(), digest_size=12).hexdigest()
