"""Upkeep: what the daemon does beside its cycles. Each is a coroutine that runs until it is cancelled."""

from __future__ import annotations

import asyncio
import time

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.headroom import Headroom
from takhin_tiered.errors import StoreError, TakhinError
from takhin_tiered.tiered_storage import TieredStorage

_WATCH_SECONDS = 15.0
_RETRY_SECONDS = 60.0
_LOOK_SECONDS = 60.0


async def watch(storage: TieredStorage) -> None:
    """Ask the store, and look at the disk, now and then, so that readiness and metrics speak of now."""
    headrooms: dict[int, Headroom] = {}
    metrics = storage.metrics
    while True:
        for device, free in (await in_thread(storage.measure_room)).items():
            headrooms.setdefault(device, Headroom()).note(time.monotonic(), free)
        # The disk that is full first: room on another one is of no use to its partitions.
        lasting = [seconds for headroom in headrooms.values() if (seconds := headroom.seconds()) is not None]
        storage.headroom_seconds = left = min(lasting, default=None)
        metrics.headroom.set(float("inf") if left is None else left)
        if storage.settings.has_store:
            await storage.check_store()
        await asyncio.sleep(_WATCH_SECONDS)


async def reconcile_and_scrub(storage: TieredStorage) -> None:
    """Hold the catalog against the bucket, and read archived bytes back, each at its interval.

    With the first, superseded generations whose time is over are removed: the bucket has just been listed.
    """
    reconciled = scrubbed = time.monotonic()
    while storage.settings.has_store and storage.settings.enabled:
        # The settings may change at any time.
        settings = storage.settings
        reconcile_at = reconciled + settings.reconcile_interval_hours * 3600
        scrub_at = scrubbed + settings.scrub_interval_hours * 3600 if settings.scrub_interval_hours else float("inf")
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, min(reconcile_at, scrub_at) - time.monotonic())))
        try:
            if time.monotonic() >= reconcile_at:
                found = await storage.reconcile()
                if settings.archive_superseded_keep_hours and found.rewritten:
                    keep = settings.archive_superseded_keep_hours * 3600
                    await storage.remove_superseded(found.rewritten, keep)
                reconciled = time.monotonic()
            if time.monotonic() >= scrub_at:
                await storage.scrub()
                scrubbed = time.monotonic()
        except StoreError as error:
            logs.logger().warning("upkeep of the archive waits for the store", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
        except TakhinError as error:
            logs.logger().error("upkeep of the archive failed", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
