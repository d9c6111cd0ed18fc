"""Reading an archived partition in place, and archiving with zstd, against copies of the same objects."""

from __future__ import annotations

import json
import shlex
import shutil
import time
import urllib.request
from typing import Any

from benchmarks import peers
from benchmarks.bench import Bench, ours
from benchmarks.daemon import daemon
from benchmarks.data import active_files, files_below, link_tree, make_segments
from benchmarks.measure import OURS, Figure, Result, Sample, require, run
from benchmarks.server import BUCKET

_COUNT, _SIZE, _QUICK_SIZE = 4, 256 << 20, 8 << 20
_PARTITION = "orders-0"


def reading(bench: Bench, name: str) -> list[Result]:
    """A partition, archived and evicted: read in order, and one record of it."""
    size = _QUICK_SIZE if bench.quick else _SIZE
    words = f"A partition of {_COUNT} archived segments with a log of {size >> 20} MiB, read in order"
    raw = Result(
        f"{name}-raw",
        f"{words} by `takhin-tiered read --format raw`. s5cmd copies its objects into files, and proves nothing.",
        "As many bytes as the logs have, in every round.",
    )
    data = Result(
        f"{name}-data",
        f"{words} by curl, through `…/data` of a daemon, whose own processor time and memory are not counted.",
        "As many bytes as the logs have, in every round.",
    )
    with bench.directory("reading") as place:
        master, state, prefix, target = place / "data", place / "state", "ours", place / "target"
        make_segments(master, _COUNT, size, partitions=1)
        logs = sorted(
            path for path in files_below(master) if path.endswith(".log") and path not in active_files(master)
        )
        total = sum(files_below(master)[log] for log in logs)
        env = bench.settings(master, state, prefix=prefix)
        run(ours("run", "--once"), log=bench.log, env=env)
        s5cmd = [*peers.s5(bench), "cp", f"s3://{BUCKET}/{prefix}/{_PARTITION}/*.log", f"{target}/"]
        read = shlex.join(ours("read", _PARTITION, "--offset", "0", "--format", "raw"))
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            # Without what the reads before have left in the cache.
            shutil.rmtree(state / "cache", ignore_errors=True)
            raw.add(OURS, _counted(f"{read} | wc -c", total, bench, env))
            shutil.rmtree(state / "cache", ignore_errors=True)
            with daemon(env, bench.log) as running:
                segments = f"{running.address}/api/v1/tiered/segments"
                urls = " ".join(f"{segments}/{log}/data" for log in logs)
                data.add(OURS, _counted(f"curl -sf {urls} | wc -c", total, bench, env))
                if not number:
                    raw.figures += _one_record(running.address, total)
            for result in (raw, data):
                target.mkdir()
                result.add("s5cmd cp", run(s5cmd, log=bench.log, env=peers.environment(bench)))
                shutil.rmtree(target)
        bench.server.clear(prefix)
    return [raw, data]


def compressing(bench: Bench, name: str) -> list[Result]:
    """The same segments, archived with zstd."""
    size = _QUICK_SIZE if bench.quick else _SIZE
    result = Result(
        name,
        f"{_COUNT} segments with a log of {size >> 20} MiB, archived with `compression.codec: zstd`, against `zstd -3 "
        "-T2 | s5cmd pipe` of each log in turn. Ours decodes each chunk again, and unlinks the files.",
        "The store has every log, and less than nine tenths of its bytes.",
    )
    require(shutil.which("zstd"), "there is no zstd to race: apt-get install zstd")
    with bench.directory("compressing") as place:
        master = place / "master"
        make_segments(master, _COUNT, size, partitions=1)
        logs = sorted(
            path for path in files_below(master) if path.endswith(".log") and path not in active_files(master)
        )
        plain = sum(files_below(master)[log] for log in logs)
        s5cmd = shlex.join(peers.s5(bench))
        pipe = " && ".join(
            f"zstd -q -3 -T2 -c {shlex.quote(str(master / log))} | {s5cmd} pipe s3://{BUCKET}/peers/{log}"
            for log in logs
        )
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            data, state = place / "data", place / "state"
            link_tree(master, data)
            env = bench.settings(data, state, prefix="ours", TAKHIN_STORAGE_TIERED_COMPRESSION_CODEC="zstd")
            result.add(OURS, run(ours("run", "--once"), log=bench.log, env=env))
            result.add("zstd | s5cmd pipe", run(["sh", "-c", pipe], log=bench.log, env=peers.environment(bench)))
            for prefix in ("ours", "peers"):
                found = bench.server.objects(prefix)
                stored = sum(found.get(log, plain) for log in logs)
                require(stored < 0.9 * plain, f"{prefix}: {stored} bytes of {plain}")
                bench.server.clear(prefix)
            shutil.rmtree(data)
            shutil.rmtree(state)
    return [result]


def _counted(command: str, size: int, bench: Bench, env: dict[str, str]) -> Sample:
    before = bench.log.stat().st_size if bench.log.exists() else 0
    sample = run(["sh", "-c", command], log=bench.log, env=env)
    with bench.log.open() as log:
        log.seek(before)
        counted = log.read().split()[-1]
    require(counted == str(size), f"{counted} bytes were read, not {size}")
    return sample


def _one_record(address: str, total: int) -> list[Figure]:
    """Cold, at another place of the partition each time, and warm."""
    cold: list[float] = []
    warm: list[float] = []
    last = _ask(address, f"timestamp={2**62}")["next_offset"] - 1
    for number in range(1, 16):
        offset = last * number // 16
        for values in (cold, warm):
            began = time.perf_counter()
            found = _ask(address, f"offset={offset}&max_records=1")
            values.append((time.perf_counter() - began) * 1000)
            require(found["records"][0]["offset"] == offset, f"record {offset} is another one")
    words = f"of a partition of {total >> 20} MiB, by offset over HTTP"
    return [
        Figure(f"one record {words}, first time", "ms", tuple(cold)),
        Figure(f"one record {words}, again", "ms", tuple(warm)),
    ]


def _ask(address: str, query: str) -> dict[str, Any]:
    url = f"{address}/api/v1/tiered/records?topic=orders&partition=0&{query}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
