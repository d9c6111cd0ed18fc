"""``python -m benchmarks``: make the data, race, verify, write the results."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.cycle import cycle
from benchmarks.heat import heat
from benchmarks.kafka import kafka
from benchmarks.latency import latency
from benchmarks.measure import Failed, Result
from benchmarks.peers import versions
from benchmarks.reading import compressing, reading
from benchmarks.scale import SIZES, metadata, scale
from benchmarks.server import open_server
from benchmarks.start import start
from benchmarks.tables import tables
from benchmarks.transfer import LOADS, transfer

Scenario = Callable[[Bench], list[Result]]
HERE = Path(__file__).parent


def scenarios() -> dict[str, Scenario]:
    """Each by its name; the largest number of segments comes last."""
    found: dict[str, Scenario] = {load.name: partial(transfer, name=load.name) for load in LOADS}
    found["zstd-4x256MiB"] = partial(compressing, name="zstd-4x256MiB")
    found["read-4x256MiB"] = partial(reading, name="read-4x256MiB")
    found["kafka-4x256MiB"] = partial(kafka, name="kafka-4x256MiB")
    found["cycle"] = partial(cycle, name="cycle")
    found["start"] = partial(start, name="start")
    found["heat"] = partial(heat, name="heat")
    found["tables"] = partial(tables, name="tables")
    found["metadata"] = partial(metadata, name="metadata")
    for size in SIZES:
        found[f"scan-{size}"] = partial(scale, name=f"scan-{size}")
    for size in ("100k", "1m"):
        found[f"api-{size}"] = partial(latency, name=f"api-{size}")
    return found


def main() -> int:
    known = scenarios()
    parser = argparse.ArgumentParser(prog="benchmarks", description="Race Takhin Tiered; see benchmarks/README.md.")
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"all of them, or some of: {', '.join(known)}")
    parser.add_argument("--rounds", type=int, help="runs of each contestant (default 5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small data: does everything run?")
    parser.add_argument("--limit", type=int, default=max(SIZES.values()), help="segments at most, such as 100000")
    parser.add_argument("--server", default="rclone", help="rclone, minio, or the URL of an S3 endpoint")
    parser.add_argument("--only", default="", metavar="PEERS", help="race these alone, such as s5cmd,rclone")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm"), help="where to make the data (default: tmpfs)")
    parser.add_argument("--peers", type=Path, default=HERE.parent / ".make/peers/bin", help="where their programs are")
    parser.add_argument("--keep", action="store_true", help="keep what --out has of scenarios that are not run now")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the results go")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    only = tuple(name for name in chosen.only.split(",") if name)
    results: list[Result] = []
    before = report.read(chosen.out) if chosen.keep else []
    work = Path(tempfile.mkdtemp(prefix="takhin-bench-", dir=chosen.work))
    failed = 0
    try:
        if not chosen.quick:
            _touch_memory(work)
        with open_server(chosen.server, chosen.peers, work / "store") as server:
            bench = Bench(work, server, chosen.peers, rounds, chosen.quick, chosen.limit, only)
            machine = _machine(chosen.peers, work, quick=chosen.quick)
            for name in chosen.names or known:
                try:
                    results += [replace(result, measured=_when(server.words)) for result in known[name](bench)]
                except Failed as error:
                    failed += 1
                    print(f"{name}: {error}", file=sys.stderr)
                # What was measured is kept, whatever comes after it.
                names = {result.scenario for result in results}
                report.write(chosen.out, machine, [*(r for r in before if r.scenario not in names), *results])
    except Failed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(report.table(machine, results))
    return 1 if failed else 0


def _touch_memory(work: Path, size: int = 8 << 30) -> None:
    """The host gives a virtual machine its pages when they are first touched, which would be somebody's loss."""
    room = os.statvfs(work)
    size = min(size, room.f_bavail * room.f_frsize // 2)
    block = bytes(1 << 20)
    with (work / "touched").open("wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(block)
    (work / "touched").unlink()


def _when(server: str) -> str:
    commit = _git("describe", "--always") or "no commit"
    # The results of the scenarios before are no change of what is measured.
    commit += "-dirty" if _git("status", "--porcelain", "--", ":/", ":(exclude)results") else ""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"{datetime.now(UTC).isoformat(timespec='minutes')}, {commit}, {server}; load at the end {load}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _machine(peers: Path, work: Path, *, quick: bool) -> dict[str, str]:
    models = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    ]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.machine()}, {memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "data": f"in {work}",
        **({"size": "quick: figures of small data say nothing"} if quick else {}),
        **versions(peers),
    }


if __name__ == "__main__":
    sys.exit(main())
