"""How fast the API answers while the daemon archives as fast as it can."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from benchmarks.bench import Bench
from benchmarks.daemon import daemon, python
from benchmarks.dashboard import first_view
from benchmarks.data import active_files, files_below, link_tree, make_crowd, make_segments
from benchmarks.measure import Figure, Result, percentile, require
from benchmarks.scale import crowd_size, work_in_process

_RATE = 200
_IDLE_SECONDS = 5
_LONGEST_SECONDS = 300


def latency(bench: Bench, name: str) -> list[Result]:
    size = crowd_size(bench, name.removeprefix("api-"))
    count, each = (8, 4 << 20) if bench.quick else (64, 32 << 20)
    result = Result(
        name,
        f"GET /api/v1/tiered/stats, {_RATE} a second at fixed times, on a daemon that knows {size:,} segments: idle "
        f"for {_IDLE_SECONDS} s, and while it archives {count} segments of {each >> 20} MiB, from its being ready "
        "to the last of them. "
        "The first view of the dashboard is its page with all that it loads, when the daemon is idle. "
        "Latencies count from when a request was due; client, daemon and server share the machine's cores.",
        "Every answer is 200; at the end all cold segments are archived, and their objects have the right sizes.",
    )
    seen: dict[str, list[float]] = {
        key: [] for key in ("idle p50", "idle p99", "p50", "p99", "max", "lag", "rate", "peak", "view", "view size")
    }
    with bench.directory("latency") as place:
        data, cold = place / "data", place / "cold"
        make_segments(cold, count, each, partitions=4, topic="cold")
        moved = {n: s for n, s in files_below(cold).items() if n not in active_files(cold)}
        bench.say(f"{name}: making {3 * size:,} files")
        make_crowd(data, size)
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            state = place / f"state-{number}"
            work_in_process("scan", bench.settings(data, state))
            with daemon(bench.settings(data, state), bench.log) as running:
                seconds, size_of_view = first_view(running.address)
                seen["view"].append(seconds * 1e3)
                seen["view size"].append(size_of_view / 1e3)
                idle = ask(running.address, _IDLE_SECONDS, 0)
            link_tree(cold, data)
            try:
                with daemon(bench.settings(data, state, prefix="api"), bench.log) as running:
                    busy = ask(running.address, _LONGEST_SECONDS, count)
                    seen["peak"].append(running.memory()[1] / 1e6)
                require(busy["archived"] == count, f"{busy['archived']} of {count} segments were archived")
                found = bench.server.objects("api")
                require(all(found.get(n) == s for n, s in moved.items()), "objects are missing")
            finally:
                bench.server.clear("api")
                for directory in cold.iterdir():
                    shutil.rmtree(data / directory.name)
            for key, share in (("p50", 0.5), ("p99", 0.99)):
                seen[f"idle {key}"].append(percentile(idle["latencies"], share) * 1e3)
                seen[key].append(percentile(busy["latencies"], share) * 1e3)
            seen["max"].append(max(busy["latencies"]) * 1e3)
            seen["lag"].append(percentile(busy["lags"], 0.99) * 1e3)
            seen["rate"].append(count * each / 1e6 / busy["seconds"])
    result.figures += [
        Figure("idle, p50", "ms", tuple(seen["idle p50"])),
        Figure("idle, p99", "ms", tuple(seen["idle p99"])),
        Figure("first view of the dashboard", "ms", tuple(seen["view"]), "under 1,000 ms at 1 M"),
        Figure("its bytes, with all that it loads", "KB", tuple(seen["view size"]), "under 300 KB at 1 M"),
        Figure("while archiving, p50", "ms", tuple(seen["p50"])),
        Figure("while archiving, p99", "ms", tuple(seen["p99"]), "at most 20 ms at 1 M"),
        Figure("while archiving, the slowest", "ms", tuple(seen["max"])),
        Figure("of which the client was late itself, p99", "ms", tuple(seen["lag"])),
        Figure("archived meanwhile", "MB/s", tuple(seen["rate"])),
        Figure("peak memory of the daemon", "MB", tuple(seen["peak"])),
    ]
    return [result]


def ask(address: str, seconds: int, archived: int) -> dict[str, Any]:
    url = f"{address}/api/v1/tiered/stats"
    command = python("-m", "benchmarks.load", url, str(_RATE), str(seconds), str(archived))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
