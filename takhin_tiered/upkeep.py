"""Background tasks of the daemon beside its cycles. Each is a coroutine that runs until it is cancelled."""

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
    """Check the store and the disks regularly, so that readiness and metrics are current."""
    headrooms: dict[int, Headroom] = {}
    metrics = storage.metrics
    while True:
        for device, free in (await in_thread(storage.measure_room)).items():
            headrooms.setdefault(device, Headroom()).note(time.monotonic(), free)
        # The disk that fills up first counts: its partitions cannot use room on another one.
        lasting = [seconds for headroom in headrooms.values() if (seconds := headroom.seconds()) is not None]
        storage.headroom_seconds = left = min(lasting, default=None)
        metrics.headroom.set(float("inf") if left is None else left)
        if storage.settings.has_store:
            await storage.check_store()
        await asyncio.sleep(_WATCH_SECONDS)


async def reconcile_and_scrub(storage: TieredStorage) -> None:
    """Compare the catalog with the bucket, and read archived bytes back, each at its interval.

    The first also removes superseded generations that are old enough: the bucket has just been listed.
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
            logs.logger().warning("reconcile and scrub wait for the store", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
        except TakhinError as error:
            logs.logger().error("reconcile or scrub failed", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
