"""A dump of the process's current work to the log, on SIGUSR1: to find out why it seems to hang."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from takhin_tiered import logs, work
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import to_json
from takhin_tiered.tiered_storage import TieredStorage

_TASKS = 100


def dump(storage: TieredStorage | None = None) -> None:
    """Call it in the loop's thread. It writes whatever the log level is."""
    log, now = logs.always(), time.time()
    tasks = asyncio.all_tasks()
    log.info("current work", in_flight=len(work.running()), tasks=len(tasks), **(_state(storage) if storage else {}))
    for each in work.running():
        log.info(
            "in flight",
            verb=each.verb,
            segment=each.segment,
            bytes_done=each.done,
            since=iso_time(each.since),
            seconds=round(now - each.since, 1),
        )
    for place, count in sorted(_places(tasks).items())[:_TASKS]:
        log.info("task", waits_in=place, count=count)


def _state(storage: TieredStorage) -> dict[str, Any]:
    return {
        "queue": storage.progress.queued,
        "cycle_running": storage.is_cycle_running,
        "last_cycle": storage.last_cycle and to_json(storage.last_cycle.result),
        "last_cycle_problem": storage.last_cycle_problem,
        "store": storage.store_address,
        "store_problem": storage.store_trouble() if storage.settings.has_store else "",
        "restores_hold_bytes": storage.restoring_bytes,
        "stopping": storage.stopping.is_set(),
    }


def _places(tasks: set[asyncio.Task[Any]]) -> dict[str, int]:
    """Where tasks wait, with counts: many wait at the same line."""
    found: dict[str, int] = {}
    for task in tasks:
        frames = task.get_stack(limit=1)
        coroutine = getattr(task.get_coro(), "__qualname__", str(task.get_coro()))
        at = f" at {Path(frames[-1].f_code.co_filename).name}:{frames[-1].f_lineno}" if frames else ""
        found[coroutine + at] = found.get(coroutine + at, 0) + 1
    return found
