"""Archive and restore of a set of segments, against programs that copy the same files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import Bench, ours
from benchmarks.data import active_files, files_below, link_tree, make_segments, require_same_files
from benchmarks.measure import OURS, Result, require, run

_COMPARED_AT_MOST = 500


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    count: int
    size: int
    partitions: int

    @property
    def words(self) -> str:
        size = f"{self.size >> 20} MiB" if self.size >= 1 << 20 else f"{self.size >> 10} KiB"
        return f"{self.count:,} segments with a log of {size}, each with both indexes, in {self.partitions} partitions"


LOADS = (
    Load("32x32MiB", 32, 32 << 20, 4),
    Load("4x1GiB", 4, 1 << 30, 2),
    Load("5000x64KiB", 5000, 64 << 10, 10),
)
_QUICK = (Load("32x32MiB", 6, 4 << 20, 2), Load("4x1GiB", 2, 80 << 20, 2), Load("5000x64KiB", 60, 64 << 10, 2))


def transfer(bench: Bench, name: str) -> list[Result]:
    """Both ways, the contestants one after the other in each round."""
    load = next(load for load in (_QUICK if bench.quick else LOADS) if load.name == name)
    up = Result(
        f"archive-{name}",
        f"{load.words}: from the directory into the store. Ours also unlinks the local files, each proven before.",
        "Every object by its size in every round; in the first, up to "
        f"{_COMPARED_AT_MOST} of them also byte for byte. Ours: a manifest for each segment, and only the active left.",
    )
    down = Result(
        f"restore-{name}",
        f"{load.words}: from the store into an empty directory. Ours compares the SHA-256, and flushes every file "
        "and directory to the disk; the peers do neither, save where that is named.",
        "Every restored file byte for byte, in every round.",
    )
    with bench.directory("transfer") as place:
        master = place / "master"
        make_segments(master, load.count, load.size, partitions=load.partitions)
        race = _Race(bench, place, master)
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            race.ours(up, down, number)
            race.peers(up, down, number)
    return [up, down]


class _Race:
    def __init__(self, bench: Bench, place: Path, master: Path) -> None:
        self._bench, self._place, self._master = bench, place, master
        self._active = active_files(master)
        self._moved = {name: size for name, size in files_below(master).items() if name not in self._active}
        # The peers have no notion of an active segment: theirs is a directory without one.
        self._source = place / "source"
        link_tree(master, self._source, without=self._active)
        self._peer_env = peers.environment(bench)

    def ours(self, up: Result, down: Result, number: int) -> None:
        bench, data, state, prefix = self._bench, self._place / "data", self._place / "state", "ours"
        link_tree(self._master, data)
        env = bench.settings(data, state, prefix=prefix)
        try:
            up.add(OURS, run(ours("run", "--once"), log=bench.log, env=env))
            require(set(files_below(data)) == self._active, "ours: the local files are not gone, or too many are")
            self._verify(prefix, whole=number == 0, manifests=len(self._moved) // 3)
            down.add(OURS, run(ours("restore", "*"), log=bench.log, env=env))
            require_same_files(self._master, data, set(self._moved) | self._active)
        finally:
            shutil.rmtree(data)
            shutil.rmtree(state, ignore_errors=True)
            bench.server.clear(prefix)

    def peers(self, up: Result, down: Result, number: int) -> None:
        bench, target, prefix = self._bench, self._place / "target", "peers"
        for peer in peers.copiers(bench, self._source, target, prefix):
            if peer.up is not None:
                bench.server.clear(prefix)
                up.add(peer.name, run(peer.up, log=bench.log, env=self._peer_env))
                self._verify(prefix, whole=number == 0)
            target.mkdir()
            try:
                down.add(peer.name, run(peer.down, log=bench.log, env=self._peer_env))
                require_same_files(self._source, target, set(self._moved))
            finally:
                shutil.rmtree(target)
        bench.server.clear(prefix)

    def _verify(self, prefix: str, *, whole: bool, manifests: int = 0) -> None:
        found = self._bench.server.objects(prefix)
        missing = [name for name, size in self._moved.items() if found.get(name) != size]
        require(not missing, f"{prefix}: {len(missing)} objects are missing or of the wrong size")
        written = sum(key.endswith(".manifest.json") for key in found)
        require(written == manifests, f"{prefix}: {written} manifests, not {manifests}")
        names = sorted(self._moved)
        for name in names[:: -(-len(names) // _COMPARED_AT_MOST)] if whole else ():
            require(self._bench.server.same(f"{prefix}/{name}", self._source / name), f"{prefix}/{name}: other bytes")
