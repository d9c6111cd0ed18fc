"""Archive old items of the configured tables from time to time: a background task of the daemon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from takhin_tiered import logs
from takhin_tiered.config import Settings
from takhin_tiered.errors import TakhinError
from takhin_tiered.hybrid.archiving import ArchivalResult
from takhin_tiered.hybrid.tables import HybridTables
from takhin_tiered.metrics import HybridMetrics

_INTERVALS = 24
"""A run reads each table as a whole, which costs; ages are counted in days. So once a day, by default."""
_RETRY_SECONDS = 300.0
_LOOK_SECONDS = 60.0


async def archive_tables(current: Callable[[], Settings], stopping: asyncio.Event, metrics: HybridMetrics) -> None:
    """Once at the start, then again and again, until ``stopping`` is set; what fails is logged, and tried later.

    ``current`` gives the settings, which may change at any time.
    """
    while not stopping.is_set():
        settings = current()
        pause = settings.archive_interval_minutes * 60 * _INTERVALS
        if not settings.auto_archive_enabled:
            pause = _LOOK_SECONDS
        else:
            counting = _Counting(metrics)
            try:
                async with HybridTables.open(settings) as tables:
                    tables.stopping = stopping
                    result = await tables.archive_old_data(sweep=True, progress=counting)
                counting(result)
                _tell(result)
                if result.is_complete:
                    metrics.last_run.set(time.time())
                else:
                    # An outage, most often: what is left would wait for a day.
                    pause = min(pause, _RETRY_SECONDS)
            except TakhinError as error:
                logs.logger().error("hybrid tables were not archived", code=error.code, error=str(error))
                metrics.errors.inc()
                pause = min(pause, _RETRY_SECONDS)
        try:
            await asyncio.wait_for(stopping.wait(), pause)
        except TimeoutError:
            continue


@dataclass(slots=True)
class _Counting:
    """Counts while a run goes on, which may take hours: what came since it was told last."""

    metrics: HybridMetrics
    _last: ArchivalResult = field(default_factory=ArchivalResult)

    def __call__(self, now: ArchivalResult) -> None:
        last, self._last = self._last, now
        self.metrics.archived.inc(now.items_archived - last.items_archived)
        self.metrics.bytes.inc(now.bytes_archived - last.bytes_archived)
        self.metrics.errors.inc(now.failed - last.failed)
        for reason, count in (now.skipped - last.skipped).items():
            self.metrics.skipped.labels(reason).inc(count)


def _tell(result: ArchivalResult) -> None:
    log = logs.logger()
    for error in result.errors:
        log.error("an item was not archived", error=error)
    log.info(
        "hybrid tables were archived",
        items=result.items_archived,
        bytes=result.bytes_archived,
        looked_at=result.items_processed,
        skipped=dict(result.skipped),
        failed=result.failed,
        complete=result.is_complete,
    )
