"""Many segments: scan and rescan against ``find``, memory, metadata operations, start with a large catalog."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.daemon import daemon, python
from benchmarks.data import make_crowd
from benchmarks.measure import Figure, Result, require, run

SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
_PRINTED = "%s %T@ %p\\n"
_ORIGINALS = {
    "lookup": "Go original: 15.9",
    "policy check": "Go original: 1.54",
    "concurrent access update": "Go original: 132",
    "stats": "Go original: 191",
}


def work_in_process(what: str, env: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(python("-m", "benchmarks.worker", what), env=dict(env), stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def crowd_size(bench: Bench, name: str) -> int:
    size = SIZES[name]
    return min(size, bench.limit, 2000) if bench.quick else min(size, bench.limit)


def scale(bench: Bench, name: str) -> list[Result]:
    """Scan, rescan, memory, start: one directory for all."""
    size = crowd_size(bench, name.removeprefix("scan-"))
    result = Result(
        name,
        f"{size:,} segments, which are {3 * size:,} files in directories of 1,000 segments: `find -printf` prints the "
        "size, time and path of each file; ours fills its catalog, in memory and in the database, then looks "
        "again. "
        "Times of ours are those within the process; its start comes on top, and stands by itself.",
        "The number of segments in the catalog, and of lines that find printed.",
    )
    scans: dict[str, list[float]] = {key: [] for key in ("scan", "cpu", "rescan", "memory", "load", "loaded")}
    ready: dict[str, list[float]] = {key: [] for key in ("after", "now", "peak")}
    with bench.directory("scale") as place:
        data = place / "data"
        bench.say(f"{name}: making {3 * size:,} files")
        make_crowd(data, size)
        _require_count(data, 3 * size)
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            state = place / f"state-{number}"
            env = bench.settings(data, state)
            found = work_in_process("scan", env)
            require(found["segments"] == size, f"the catalog has {found['segments']} segments, not {size}")
            result.add("find", run(_find(data, place / "find.out"), log=bench.log))
            loaded = work_in_process("load", env)
            require(loaded["segments"] == size, f"the journal has {loaded['segments']} segments, not {size}")
            with daemon(env, bench.log) as running:
                now, peak = running.memory()
                ready["after"].append(running.ready_after)
            scans["scan"].append(found["scan"])
            scans["cpu"].append(found["scan_cpu"])
            scans["rescan"] += found["rescans"]
            scans["memory"].append(found["bytes"] / size)
            scans["load"].append(loaded["load"])
            scans["loaded"].append(loaded["bytes"] / size)
            ready["now"].append(now / 1e6)
            ready["peak"].append(peak / 1e6)
    result.figures += [
        Figure("full scan into an empty catalog", "s", tuple(scans["scan"]), "at most 1.5 of find at 1 M"),
        Figure("its CPU time", "s", tuple(scans["cpu"])),
        Figure("rescan, nothing changed", "s", tuple(scans["rescan"]), "at most 0.05 of the full scan"),
        Figure("memory for each known segment, after scanning", "bytes", tuple(scans["memory"]), "at most 400 at 1 M"),
        Figure("memory for each known segment, after loading", "bytes", tuple(scans["loaded"]), "at most 400 at 1 M"),
        Figure("loading the catalog", "s", tuple(scans["load"])),
        Figure("start of the process to ready", "s", tuple(ready["after"]), "at most 5 s at 1 M"),
        Figure("memory of the daemon when ready", "MB", tuple(ready["now"])),
        Figure("its peak until then", "MB", tuple(ready["peak"])),
    ]
    return [result]


def metadata(bench: Bench, name: str) -> list[Result]:
    """Operations on the catalog in memory."""
    size = crowd_size(bench, "10k")
    result = Result(
        name,
        f"Operations of the façade on a catalog of {size:,} segments, one thread, and 8 for the concurrent update. "
        "Beside them what the Go original published, measured on 20 cores: for context, not a race.",
        "Nothing beyond that every operation succeeds.",
    )
    found: dict[str, list[float]] = {}
    with bench.directory("metadata") as place:
        make_crowd(place / "data", size)
        env = bench.settings(place / "data", place / "state")
        work_in_process("scan", env)
        for _ in range(bench.rounds):
            for operation, nanoseconds in work_in_process("metadata", env).items():
                found.setdefault(operation, []).append(nanoseconds)
    result.figures += [
        Figure(operation, "ns", tuple(values), beside=_ORIGINALS.get(operation, ""))
        for operation, values in found.items()
    ]
    return [result]


def _find(data: Path, output: Path) -> list[str]:
    # Into a file, as find leaves the formatting out where nobody could read it.
    return ["sh", "-c", f"exec find {data} -type f -printf '{_PRINTED}' > {output}"]


def _require_count(data: Path, count: int) -> None:
    printed = subprocess.run(["find", str(data), "-type", "f", "-printf", "."], capture_output=True, check=True).stdout
    require(len(printed) == count, f"find sees {len(printed)} files, not {count}")
