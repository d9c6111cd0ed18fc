"""Replicas that rolled their segments at other offsets, killed at every point, and in any order: nothing is lost.

The check shares no code with the program: it reads the disk, the objects, the manifests and the records by itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings, TieredStorage
from tests.faults.truth import TALLY
from tests.rolled import Replica, batches, rolled
from tests.support import parts, to_point

FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
FILES = ("log", "index", "timeindex")
APART = ["archive.spliced", "parts.held", "parts.released", "parts.dropped"]
"""Points that no other test comes by."""
ARCHIVE = [
    *APART[:2], "archive.intended", "archive.index.stored", "archive.timeindex.stored", "archive.before.manifest",
    "archive.committed", "archive.journaled",
]  # fmt: skip
EVICT = ["evict.begin", *(f"evict.{kind}.unlinked" for kind in FILES), "evict.unlinked", "evict.journaled"]
RESTORE = [
    *(f"restore.{kind}.downloaded" for kind in FILES), *(f"restore.{kind}.placed" for kind in FILES),
    "restore.placed", "restore.journaled",
]  # fmt: skip
EXPIRE = [
    "expire.intended", "expire.released", "expire.manifest.deleted", "expire.objects.deleted", "expire.journaled",
    *APART[2:],
]  # fmt: skip
CASES = [
    *(("fresh", point, nth) for point in (*ARCHIVE, *EVICT) for nth in (1, 2, 4)),
    *(("archived", point, nth) for point in RESTORE for nth in (1, 2)),
    *(("expired", point, nth) for point in EXPIRE for nth in (1, 2)),
]
ALWAYS = [("fresh", "archive.committed", 2), ("expired", "expire.manifest.deleted", 2), ("expired", "parts.dropped", 1)]


@dataclass
class Archive:
    """A directory store, as plain files show it."""

    root: Path

    def keys(self) -> list[str]:
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in found if not key.startswith(("takhin-tiered.", ".takhin-tmp/")))

    def manifests(self) -> dict[str, dict[str, Any]]:
        return {key: json.loads((self.root / key).read_bytes()) for key in self.keys() if "manifest.json" in key}

    def content(self, manifest: dict[str, Any], kind: str) -> bytes | None:
        """Of an archived file that is not encoded; None if the archive lacks it."""
        entry = manifest["files"][kind]
        if "parts" not in entry:
            path = self.root / entry["key"]
            return path.read_bytes() if path.is_file() else None
        found = bytearray()
        for part in entry["parts"]:
            path = self.root / part["key"]
            if not path.is_file():
                return None
            found += path.read_bytes()[part["start"] : part["end"]]
        return bytes(found)

    def has(self, path: str, files: dict[str, bytes]) -> bool:
        """Whether a segment stands there whole, under whatever label."""
        directory, _, name = path.partition("/")
        for key, manifest in self.manifests().items():
            if key.startswith(f"{directory}/") and key.endswith(name.replace(".log", ".manifest.json")):
                kinds = [kind for kind in FILES if path.replace(".log", f".{kind}") in files]
                if all(self.content(manifest, kind) == files[path.replace(".log", f".{kind}")] for kind in kinds):
                    return True
        return False

    def strays(self) -> set[str]:
        """Objects that no manifest names."""
        manifests = self.manifests()
        named = {entry["key"] for each in manifests.values() for entry in each["files"].values()}
        objects = {key for key in self.keys() if ".adopted." not in key and ".deleting." not in key}
        return objects - named - set(manifests)

    def unheld(self) -> list[str]:
        """Parts of logs whose segments have no record that says so: others might remove them."""
        keys = set(self.keys())
        return [
            part["key"]
            for manifest in self.manifests().values()
            for part in manifest["files"]["log"].get("parts", ())
            if _record(manifest, part) not in keys
        ]


def _record(manifest: dict[str, Any], part: dict[str, Any]) -> str:
    """The key of the adoption record that the part needs."""
    replica = manifest["incarnation"]["label"][1:].partition(".")[0]
    folder, _, name = part["key"].rpartition("/")
    return f"{folder}/{name[:20]}.adopted.{replica}-parts.json"


@dataclass
class Scene:
    store: Path
    one: Replica
    other: Replica

    def settings(self, replica: Replica, **changes: Any) -> Settings:
        values = {"data_dir": replica.root, "enabled": True, "directory_path": self.store, "fleet_replicas": "adopt"}
        return Settings(**values | {"archive_mode": "move", "archive_concurrency": 1, "api_port": 0} | changes)

    def run(self, replica: Replica, *arguments: str, point: str = "", nth: int = 1, **changes: Any) -> int:
        ended = to_point(self.settings(replica, **changes), *arguments, point=point, nth=nth, seconds=120)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.returncode


def lost(archive: Archive, replica: Replica) -> list[str]:
    """Closed segments that are whole neither on the disk nor in the store."""
    on_disk, found = replica.on_disk(), []
    for path in replica.closed:
        names = [path.replace(".log", f".{kind}") for kind in FILES]
        is_lost = not all(on_disk.get(name) == replica.files[name] for name in names)
        is_lost = is_lost and not archive.has(path, replica.files)
        TALLY.note(sum(len(replica.files[name]) for name in names), lost=is_lost)
        found += [path] if is_lost else []
    return found


@pytest.mark.long
@pytest.mark.parametrize(("scenario", "point", "nth"), CASES if FULL else ALWAYS)
def test_a_kill_loses_nothing_and_the_next_start_goes_on(tmp_path: Path, scenario: str, point: str, nth: int) -> None:
    log, store = batches(40), tmp_path / "store"
    store.mkdir()
    one = Replica(tmp_path / "one", log, [0, 10, 20, 30, 39]).write()
    other = Replica(tmp_path / "other", log, [0, 7, 15, 26, 31, 36]).write()
    scene, archive = Scene(store, one, other), Archive(store)
    assert scene.run(one, "run", "--once") == 0
    arguments: list[str] = ["run", "--once"]
    changes: dict[str, Any] = {}
    if scenario != "fresh":
        assert scene.run(other, "run", "--once") == 0
    if scenario == "archived":
        arguments, changes = ["restore", "orders-0"], {"restore_lease_hours": 100}
    if scenario == "expired":
        changes = {"retention_hours": 100}
        assert scene.run(one, "run", "--once", **changes) == 0
    assert scene.run(other, *arguments, point=point, nth=nth, **changes) == -signal.SIGKILL
    assert archive.unheld() == []
    for _ in range(2):
        assert scene.run(other, "run", "--once", **changes) == 0
        assert archive.unheld() == []
    # What a kill left of a record is found by the next comparison.
    assert scene.run(other, "rebuild") == 0
    assert scene.run(other, "run", "--once", **changes) == 0
    assert archive.strays() == set()
    if scenario == "expired":
        assert archive.keys() == []
        return
    assert (lost(archive, one), lost(archive, other)) == ([], [])
    assert not list(store.glob("*/~*/*.log"))
    for replica in (one, other):
        assert scene.run(replica, "restore", "orders-0") == 0
        assert replica.on_disk() == replica.files
    assert not list(other.root.rglob("*.takhin-tmp"))


async def _any_order(home: Path, seed: int) -> None:
    dice = random.Random(seed)
    log, store = batches(60, seed=seed), home / "store"
    store.mkdir(parents=True)
    archive = Archive(store)
    replicas = [Replica(home / f"replica-{number}", log[:30], []) for number in range(3)]
    for number, each in enumerate(replicas):
        # The first two rolled at the same offsets.
        each.starts = rolled(30, seed=seed * 3 + max(1, number))
        each.write()
    scene, forgotten = Scene(store, replicas[0], replicas[1]), set[Path]()
    for _ in range(14):
        each = dice.choice(replicas)
        verb = dice.choice(["cycle", "cycle", "cycle", "grow", "restore", "forget"])
        if verb == "grow" and len(each.batches) < 60:
            grown = min(60, len(each.batches) + dice.randint(1, 8))
            each.starts = _rolled_on(each.starts, len(each.batches), grown, dice)
            each.batches = log[:grown]
            here, known = set(each.on_disk()), set(each.files)
            each.write(only=here.union(set(each.names()) - known).__contains__)
            continue
        changes: dict[str, Any] = {"restore_lease_hours": 0}
        if verb == "forget":
            # From then on it knows only what others archived.
            forgotten.add(each.root)
            changes["state_path"] = each.root.with_name(f"{each.root.name}-state-{dice.random()}")
        async with TieredStorage.open(scene.settings(each, **changes)) as storage:
            report = await storage.run_cycle()
            assert report.failures == []
            if verb == "restore" and each.root not in forgotten:
                catalog = parts(storage).catalog
                away = [s for s in catalog.log_of(("orders", 0)) if s.archive_only and s.id.path in each.closed]
                for segment in sorted(away, key=lambda s: -s.id.base_offset)[: dice.randint(1, 3)]:
                    await storage.restore_segment(segment.id.path)
                    name = segment.id.path
                    assert (each.root / name).read_bytes() == each.files[name]
        assert archive.unheld() == []
        for replica in replicas:
            assert _unreadable(archive, replica) == []


def _rolled_on(starts: Sequence[int], before: int, end: int, dice: random.Random) -> list[int]:
    """The active segment stays as it began; further ones begin among the new batches."""
    return [*starts, *sorted({dice.randint(before, end - 1) for _ in range(dice.randint(0, 2))} - {*starts})]


def _unreadable(archive: Archive, replica: Replica) -> list[int]:
    """Batches of closed segments that are neither on the disk nor in any archived log."""
    have = set(replica.on_disk())
    logs = [archive.content(each, "log") or b"" for each in archive.manifests().values()]
    missing = []
    for path in replica.closed:
        if path in have:
            continue
        start = replica.starts[replica.closed.index(path)]
        end = replica.starts[replica.closed.index(path) + 1]
        missing += [n for n in range(start, end) if not any(replica.batches[n] in log for log in logs)]
    return missing


@pytest.mark.parametrize(
    "seed", range(200) if FULL else [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))]
)
async def test_in_any_order_each_replica_keeps_its_records(tmp_path: Path, seed: int) -> None:
    await _any_order(tmp_path, seed)
