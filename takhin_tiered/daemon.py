"""The daemon: builds all parts, runs them in one task group, and stops them in order; see `lifecycle`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import sdnotify

import takhin_tiered
from takhin_tiered import logs
from takhin_tiered.api.app import make_app
from takhin_tiered.api.serving import Security, address_of, make_server
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.config_listeners import SHORTEST_TOKEN
from takhin_tiered.dashboard.dashboard import Dashboard
from takhin_tiered.dump import dump
from takhin_tiered.errors import ConfigError, HeldElsewhere, OwnerSilent, TakhinError
from takhin_tiered.lifecycle import GRACE_SECONDS, OnSignal, Shutdown
from takhin_tiered.reload import reload
from takhin_tiered.tiered_storage import TieredStorage
from takhin_tiered.upkeep import bring_back, keep_tiers, keep_trend, reconcile_and_scrub, watch

_FIRST_RETRY_SECONDS = 5.0
_CHALLENGE_SECONDS = 2.0


async def run_daemon(settings: Settings, load: Callable[[], Settings] | None = None) -> None:
    """Serve until a signal arrives; ``load`` reads the settings again, on SIGHUP.

    Raises `ConfigError` and `HeldElsewhere` at the start, and unexpected errors at any time.
    """
    async with TieredStorage.open(settings, scan=False) as storage, contextlib.AsyncExitStack() as stack:
        # Lock the directories first: a port in use often belongs to a daemon that holds them.
        on_reload: Callable[[Settings], None] = _nothing
        security = await in_thread(Security, settings)
        listener = stack.enter_context(_listen("api", settings.api_host, settings.api_port))
        if settings.kafka_port:
            # Imported here: most daemons serve no Kafka clients.
            from takhin_tiered.kafka.service import open_endpoint

            for_kafka = stack.enter_context(_listen("kafka", settings.kafka_host, settings.kafka_port))
            endpoint = await stack.enter_async_context(open_endpoint(storage, for_kafka))
            on_reload = endpoint.reload
        if settings.fleet_mode != "local":
            from takhin_tiered.fleet.service import open_fleet

            await stack.enter_async_context(open_fleet(storage))
        await _Daemon(settings, storage, security, load or (lambda: settings), on_reload).run([listener])


def _nothing(_: Settings) -> None:
    """There is nothing else to reload."""


class _Daemon:
    def __init__(
        self,
        settings: Settings,
        storage: TieredStorage,
        security: Security,
        load: Callable[[], Settings],
        on_reload: Callable[[Settings], None],
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._security = security
        self._load, self._on_reload = load, on_reload
        self._reload = asyncio.Event()
        self._reloaded = asyncio.Event()
        self._stopping = storage.stopping
        self._shutdown = Shutdown(self._stopping)
        self._systemd = sdnotify.SystemdNotifier()

    async def run(self, sockets: list[socket.socket]) -> None:
        also: dict[int, OnSignal] = {
            signal.SIGHUP: lambda _: self._reload.set(),
            signal.SIGUSR1: lambda _: dump(self._storage),
        }
        with self._shutdown.signals(also):
            await self._run(sockets)

    async def _run(self, sockets: list[socket.socket]) -> None:
        app = make_app(self._storage, self._readiness, self._security.tokens)
        dashboard = Dashboard(self._storage, self._security.tokens)
        dashboard.install(app)
        server = make_server(app, self._security.tls)
        log = logs.logger()
        # By default a hashing thread would delay a response by 5 ms at each switch.
        sys.setswitchinterval(0.0005)
        # Leave half of the processors to the broker and the API.
        self._storage.share_processors()
        # The SDK's models are half a million objects: a collection that traverses them stops the loop for 0.1 s.
        gc.collect()
        gc.freeze()
        self._storage.announce(address_of(self._settings, sockets[0]))
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(server.serve(sockets))
                helpers = [group.create_task(each) for each in self._helpers()]
                cycles = group.create_task(self._cycles())
                others = [group.create_task(each) for each in (*self._tables(), dashboard.run())]
                self._systemd.notify(f"READY=1\nSTATUS=serving {sockets[0].getsockname()[:2]}")
                log.info("started", **self._described(sockets[0]))
                if self._settings.has_short_token:
                    log.warning("storage.tiered.api.token is short: others could guess it", shortest=SHORTEST_TOKEN)
                await self._stopping.wait()
                self._systemd.notify("STOPPING=1")
                log.info("stopping", grace_seconds=GRACE_SECONDS)
                server.should_exit = True
                await self._shutdown.drain(cycles)
                for each in others:
                    await self._shutdown.drain(each)
                server.force_exit = True
                for helper in helpers:
                    helper.cancel()
                await serving
        except* TakhinError as errors:
            raise _first(errors) from None
        log.info("stopped")

    def _helpers(self) -> list[Coroutine[Any, Any, None]]:
        """The background tasks beside the cycles; they run until they are cancelled."""
        storage = self._storage
        return [
            watch(storage),
            reconcile_and_scrub(storage),
            keep_trend(storage),
            keep_tiers(storage),
            bring_back(storage),
            self._feed_watchdog(),
            self._watch_claim(),
            self._reload_when_told(),
            *([] if storage.fleet is None else [storage.fleet.run()]),
        ]

    def _tables(self) -> list[Coroutine[Any, Any, None]]:
        """Hybrid tables are archived beside the cycles, where there are any."""
        settings = self._settings
        if not (settings.hybrid_tables and settings.enabled):
            return []
        # Imported here: most daemons have no such tables.
        from takhin_tiered.hybrid.timer import archive_tables

        return [archive_tables(lambda: self._storage.settings, self._stopping, self._storage.metrics.hybrid)]

    def _described(self, listener: socket.socket) -> dict[str, object]:
        """The facts about this start, for the log."""
        storage, settings = self._storage, self._settings
        return {
            "version": takhin_tiered.__version__,
            "python": platform.python_version(),
            "api": address_of(settings, listener),
            "store": storage.store_address,
            "enabled": settings.enabled,
            "mode": storage.mode,
            "data_dirs": [str(path) for path in settings.data_dirs],
            "state_dir": str(settings.state_dir),
            "segments": storage.segment_count,
        }

    async def _cycles(self) -> None:
        """One cycle at once, then one per interval; a cycle that could not run is retried sooner."""
        retry, fleet = float("inf"), self._storage.fleet
        if fleet is not None:
            await self._unless_stopped(fleet.begin())
        while not self._stopping.is_set():
            try:
                await self._storage.run_cycle()
                retry = float("inf")
            except OwnerSilent as error:
                if retry != _CHALLENGE_SECONDS:
                    logs.logger().warning("waiting for the prefix", error=str(error))
                retry = _CHALLENGE_SECONDS
            except (ConfigError, HeldElsewhere):
                raise
            except TakhinError as error:
                logs.logger().error("the cycle could not run", code=error.code, error=str(error))
                retry = _FIRST_RETRY_SECONDS if retry == float("inf") else retry * 2
            if fleet is not None:
                fleet.cycle_ended()
            await self._pause(retry)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, or leave it where the daemon stops."""
        async with asyncio.TaskGroup() as group:
            doing, stopping = group.create_task(work), group.create_task(self._stopping.wait())
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            doing.cancel()
            stopping.cancel()

    async def _pause(self, at_most: float) -> None:
        """Wait until the interval is over, a window to archive in opens, or the daemon stops.

        A reload may change interval and windows meanwhile.
        """
        began = time.monotonic()
        opens = began + self._storage.opens_in
        while not self._stopping.is_set():
            ends = min(began + min(at_most, self._storage.cycle_seconds), opens)
            pause = ends - time.monotonic()
            if pause <= 0:
                return
            self._reloaded.clear()
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._reloaded)]
            await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()
            if self._reloaded.is_set():
                opens = time.monotonic() + self._storage.opens_in

    async def _reload_when_told(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            await reload(self._storage, self._security.tokens, self._load)
            await in_thread(self._security.renew_certificate, self._storage.settings)
            await in_thread(self._on_reload, self._storage.settings)
            self._reloaded.set()
            self._systemd.notify("READY=1")

    async def _watch_claim(self) -> None:
        await self._storage.wait_claim_lost()
        raise HeldElsewhere(
            "another daemon took over the prefix in the store: this daemon stops and writes nothing more"
        )

    async def _feed_watchdog(self) -> None:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        while microseconds:
            self._systemd.notify("WATCHDOG=1")
            await asyncio.sleep(microseconds / 2_000_000)

    def _readiness(self) -> dict[str, str]:
        storage = self._storage
        return {
            "catalog": "",
            "data_dir": storage.last_cycle_problem if storage.last_cycle_code == "disk" else "",
            "store": storage.store_trouble() if self._settings.has_store else "",
            "owner": storage.last_cycle_problem if storage.last_cycle_code == OwnerSilent.code else "",
            "shutdown": "stopping" if self._stopping.is_set() else "",
        }


def _listen(keys: str, host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint=f"Set storage.tiered.{keys}.host and storage.tiered.{keys}.port to a free address",
        ) from error


def _first(errors: ExceptionGroup[TakhinError]) -> TakhinError:
    error: TakhinError | ExceptionGroup[TakhinError] = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
