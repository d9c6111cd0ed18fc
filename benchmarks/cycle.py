"""A whole cycle: a directory in which a tenth is cold, which is found, stored, and taken off the disk."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import Bench, ours
from benchmarks.data import files_below, link_tree, make_segments
from benchmarks.measure import OURS, Result, require, run
from benchmarks.server import BUCKET

_COLD_MINUTES = 168 * 60


def cycle(bench: Bench, name: str) -> list[Result]:
    count, size, partitions = (60, 64 << 10, 2) if bench.quick else (1000, 1 << 20, 10)
    result = Result(
        name,
        f"A directory of {count:,} segments with a log of {size >> 10:,} KiB, of which a tenth is older than 168 h: "
        "find those, store them, unlink them. The peers go by the age of each file.",
        "The cold files are in the store with their sizes, in the first round byte for byte, and gone from the "
        "directory; all others stand in it.",
    )
    with bench.directory("cycle") as place:
        master = place / "master"
        make_segments(master, count, size, partitions=partitions, cold=0.1)
        every = files_below(master)
        newest = max((master / name).stat().st_mtime for name in every)
        cold = {name: size for name, size in every.items() if (master / name).stat().st_mtime < newest - 168 * 3600}
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            for contestant, command, env in _contestants(bench, place):
                data = place / "data"
                link_tree(master, data)
                try:
                    result.add(contestant, run(command, log=bench.log, env=env))
                    require(set(files_below(data)) == set(every) - set(cold), f"{contestant}: the wrong files are left")
                    found = bench.server.objects("cycle")
                    require(all(found.get(n) == s for n, s in cold.items()), f"{contestant}: objects are missing")
                    for cold_name in cold if number == 0 else ():
                        same = bench.server.same(f"cycle/{cold_name}", master / cold_name)
                        require(same, f"{contestant}: {cold_name} has other bytes")
                finally:
                    shutil.rmtree(data)
                    shutil.rmtree(place / "state", ignore_errors=True)
                    bench.server.clear("cycle")
    return [result]


def _contestants(bench: Bench, place: Path) -> list[tuple[str, list[str], dict[str, str]]]:
    data, env = place / "data", peers.environment(bench)
    there = f"s3://{BUCKET}/cycle/"
    lines = f'mv "{data}/%P" "{there}%P"\\n'
    pipeline = (
        f"find {shlex.quote(str(data))} -type f -mmin +{_COLD_MINUTES} -printf {shlex.quote(lines)}"
        f" | {shlex.join(peers.s5(bench))} run"
    )
    rclone = [*peers.rclone_command(bench), "move", "--min-age", "168h", str(data), f"bench:{BUCKET}/cycle"]
    found = [(OURS, ours("run", "--once"), bench.settings(data, place / "state", prefix="cycle"))]
    if bench.races("s5cmd"):
        found.append(("find | s5cmd run (mv)", ["sh", "-c", pipeline], env))
    if bench.races("rclone"):
        found.append(("rclone move --min-age", rclone, env))
    return found
