"""Start-up: what passes before a short command of ours has answered, against one that a compiled program answers."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.bench import Bench, ours
from benchmarks.data import make_segments
from benchmarks.measure import OURS, Result, require, run

_SEGMENTS, _SIZE, _PARTITIONS = 12, 64 << 10, 3
_RCLONE = "rclone version"


def start(bench: Bench, name: str) -> list[Result]:
    """The version, and a status without a daemon: with a directory as the store, and with a bucket."""
    small = f"{_SEGMENTS} segments in {_PARTITIONS} partitions, and no daemon"
    results = {
        "version": Result(f"{name}-version", "takhin-tiered --version.", "Ours: the version is printed."),
        "directory": Result(
            f"{name}-status",
            f"takhin-tiered status; {small}. The store is a directory.",
            "Ours: the store is reachable.",
        ),
        "bucket": Result(
            f"{name}-status-s3",
            f"takhin-tiered status; {small}. The store is a bucket.",
            "Ours: the store is reachable.",
        ),
    }
    with bench.directory("start") as place:
        data, store = place / "data", place / "store"
        store.mkdir()
        make_segments(data, _SEGMENTS, _SIZE, partitions=_PARTITIONS)
        in_directory = bench.settings(data, place / "state", TAKHIN_STORAGE_TIERED_ENABLED="true")
        in_directory["TAKHIN_STORAGE_TIERED_DIRECTORY_PATH"] = str(store)
        contestants = {
            "version": (ours("--version"), in_directory, "takhin-tiered "),
            "directory": (ours("status"), in_directory, ": reachable"),
            "bucket": (ours("status"), bench.settings(data, place / "state-s3", prefix="start"), ": reachable"),
        }
        # Once before the first round, so that everybody's files are in memory, and our byte code is there.
        for number in range(-1, bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            for key, (command, env, words) in contestants.items():
                log = place / f"{key}-{number}.log"
                sample = run(command, log=log, env=env)
                require(words in log.read_text(), f"{' '.join(command)} did not print {words!r}")
                beside = run([str(bench.peers / "rclone"), "version"], log=bench.log, env=peers.environment(bench))
                if number >= 0:
                    results[key].add(OURS, sample)
                    results[key].add(_RCLONE, beside)
    return list(results.values())
