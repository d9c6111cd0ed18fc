"""What has to be measured from within, in a process of its own: ``python -m benchmarks.worker WHAT`` prints JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.policy import classify

_RESCANS = 3
_THREADS = 8
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE


async def scan() -> dict[str, Any]:
    """A first scan of a directory that no catalog knows, and more of the same one."""
    async with TieredStorage.open(Settings.load(), scan=False) as storage:
        before, times, cpu = resident(), [], []
        for _ in range(1 + _RESCANS):
            started, burnt = time.perf_counter(), time.process_time()
            await storage._parts.scanner.scan()
            times.append(time.perf_counter() - started)
            cpu.append(time.process_time() - burnt)
        return {
            "segments": storage.segment_count,
            "scan": times[0],
            "scan_cpu": cpu[0],
            "rescans": times[1:],
            "bytes": resident() - before,
        }


async def load() -> dict[str, Any]:
    """A start with a catalog that is there: how long, and what it takes in memory."""
    before, started = resident(), time.perf_counter()
    async with TieredStorage.open(Settings.load(), scan=False) as storage:
        took = time.perf_counter() - started
        return {"segments": storage.segment_count, "load": took, "bytes": resident() - before}


async def metadata() -> dict[str, Any]:
    """Nanoseconds of each operation on a catalog that is there."""
    async with TieredStorage.open(Settings.load(), scan=False) as storage:
        paths = [segment.id.path for segment in islice(storage._parts.catalog.segments(), 5000)]
        identities = [SegmentId.parse(path) for path in paths]
        segments = list(islice(storage._parts.catalog.segments(), 5000))
        policy, now = storage._parts.situation.policy, time.time()
        found = {
            "lookup": _nanoseconds(storage._parts.catalog.get, identities),
            "lookup by path": _nanoseconds(storage.is_segment_archived, paths),
            "policy check": _nanoseconds(lambda segment: classify(segment, policy, now, sure=now), segments),
            "policy check by path": _nanoseconds(storage.segment_policy, paths),
            "access update": _nanoseconds(storage.update_access_time, paths),
            "stats": _nanoseconds(lambda _: storage.stats(), paths),
        }

        def update(share: list[str]) -> None:
            for path in share:
                storage.update_access_time(path)

        with ThreadPoolExecutor(_THREADS) as pool:
            started = time.perf_counter()
            shares = [paths[at::_THREADS] for at in range(_THREADS)]
            list(pool.map(update, shares))
            found["concurrent access update"] = (time.perf_counter() - started) * 1e9 / len(paths)
        return found


def _nanoseconds(operation: Callable[[Any], object], values: list[Any]) -> float:
    count = max(20_000, len(values))
    started = time.perf_counter()
    for value in islice(cycle(values), count):
        operation(value)
    return (time.perf_counter() - started) * 1e9 / count


def main() -> None:
    work = {"scan": scan, "load": load, "metadata": metadata}[sys.argv[1]]
    print(json.dumps(asyncio.run(work())))


if __name__ == "__main__":
    main()
