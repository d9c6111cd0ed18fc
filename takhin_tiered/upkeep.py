"""Background tasks of the daemon beside its cycles. Each is a coroutine that runs until it is cancelled."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.headroom import Headroom
from takhin_tiered.engine.summaries import Summary
from takhin_tiered.errors import CatalogError, StoreError, TakhinError
from takhin_tiered.metrics import value_of
from takhin_tiered.tiered_storage import TieredStorage
from takhin_tiered.trend import MINUTE, Sample, Trend

_WATCH_SECONDS = 15.0
_COST_SECONDS = 300.0
_RETRY_SECONDS = 60.0
_LOOK_SECONDS = 60.0
_BRING_BACK_SECONDS = 1.0
_SAMPLES_WRITTEN_TOGETHER = 10
# To count the bytes of each tier of a million segments takes seconds: it gets a tenth of a processor.
_COUNT_SECONDS, _COUNT_PAUSE = 0.02, 0.2


async def watch(storage: TieredStorage) -> None:
    """Check the store and the disks regularly, so that readiness and metrics are current."""
    headrooms: dict[int, Headroom] = {}
    metrics, costed = storage.metrics, 0.0
    while True:
        for device, free in (await in_thread(storage.measure_room)).items():
            headrooms.setdefault(device, Headroom()).note(time.monotonic(), free)
        # The disk that fills up first counts: its partitions cannot use room on another one.
        lasting = [seconds for headroom in headrooms.values() if (seconds := headroom.seconds()) is not None]
        storage.headroom_seconds = left = min(lasting, default=None)
        metrics.headroom.set(float("inf") if left is None else left)
        if storage.settings.has_store:
            await storage.check_store()
        if time.monotonic() >= costed + _COST_SECONDS:
            await storage.refresh_cost()
            costed = time.monotonic()
        with suppress(CatalogError):
            # Tried again next time; whoever writes segments to it tells what is wrong.
            await storage.spending.save()
        await asyncio.sleep(_WATCH_SECONDS)


async def keep_tiers(storage: TieredStorage) -> None:
    """Evaluate the tiers at their interval, and save what is known of reads every minute."""
    evaluated = time.monotonic()
    while True:
        # The interval may change at any time.
        due = evaluated + storage.settings.tier_check_interval_minutes * 60
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, due - time.monotonic())))
        try:
            await storage.save_reads()
            if time.monotonic() >= due:
                evaluated = time.monotonic()
                with logs.operation("tiers", ""):
                    await storage.evaluate_tiers()
        except TakhinError as error:
            logs.logger().error("the tiers could not be evaluated", error=str(error))


async def bring_back(storage: TieredStorage) -> None:
    """Restore what was requested from an archive class, as soon as it can be read."""
    while storage.settings.has_store:
        await asyncio.sleep(_BRING_BACK_SECONDS)
        try:
            await storage.bring_back_retrieved()
        except TakhinError as error:
            logs.logger().warning("what was requested from an archive class waits", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)


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


async def keep_trend(storage: TieredStorage) -> None:
    """Take a sample of the tiers each minute, and write them to the state directory now and then, and at the end."""
    directory, trend = storage.settings.state_dir, Trend()
    await in_thread(trend.load, directory)
    storage.trend = trend
    await storage.wait_scanned()
    uploaded, downloaded, at = _moved(storage)
    number = 0
    try:
        while True:
            while not await storage.count(_COUNT_SECONDS):  # noqa: ASYNC110 - each turn counts on
                await asyncio.sleep(_COUNT_PAUSE)
            total = Summary()
            for partition in storage.partition_names():
                total.add(storage.summary(partition))
            before, since = (uploaded, downloaded), at
            uploaded, downloaded, at = _moved(storage)
            passed = max(at - since, 0.001)
            found, free = storage.stats(), await in_thread(storage.measure_room)
            is_whole = not total.uncounted
            trend.add(
                Sample(
                    at=time.time(),
                    hot=found.hot_segments,
                    warm=found.warm_segments,
                    cold=found.cold_segments,
                    archived=found.archived_segments,
                    hot_bytes=total.hot_bytes if is_whole else -1,
                    warm_bytes=total.warm_bytes if is_whole else -1,
                    cold_bytes=total.cold_bytes if is_whole else -1,
                    local_bytes=found.local_size_bytes,
                    archived_bytes=found.archived_size_bytes,
                    free_bytes=sum(free.values()),
                    upload_rate=(uploaded - before[0]) / passed,
                    download_rate=(downloaded - before[1]) / passed,
                )
            )
            number += 1
            if number % _SAMPLES_WRITTEN_TOGETHER == 0:
                await in_thread(trend.save, directory)
            await asyncio.sleep(MINUTE)
    finally:
        # A few hundred kilobytes: written at once, as the task is being cancelled.
        trend.save(directory)


def _moved(storage: TieredStorage) -> tuple[int, int, float]:
    return value_of(storage.metrics.uploaded), value_of(storage.metrics.downloaded), time.monotonic()
