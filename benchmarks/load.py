"""An open-loop client: ``python -m benchmarks.load URL RATE SECONDS ARCHIVED`` prints what it saw as JSON.

Requests go out at fixed times whether or not earlier ones were answered, and a latency counts from the time
at which the request was due. It ends after so many seconds, or once the answers tell of so many archived segments.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp


async def load(url: str, rate: float, seconds: float, archived: int) -> dict[str, object]:
    latencies: list[float] = []
    lags: list[float] = []
    seen = 0
    done = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as session:

        async def ask(due: float) -> None:
            nonlocal seen
            lags.append(time.perf_counter() - due)
            async with session.get(url) as answer:
                answer.raise_for_status()
                stats = await answer.json()
            latencies.append(time.perf_counter() - due)
            seen = stats["archived_segments"]
            if archived and seen >= archived:
                done.set()

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            number = 0
            while not done.is_set() and number < seconds * rate:
                due = started + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(ask(due))
                number += 1
        took = time.perf_counter() - started
    return {"latencies": latencies, "lags": lags, "seconds": took, "archived": seen}


def main() -> None:
    url, rate, seconds, archived = sys.argv[1:]
    print(json.dumps(asyncio.run(load(url, float(rate), float(seconds), int(archived)))))


if __name__ == "__main__":
    main()
