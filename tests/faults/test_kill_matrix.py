"""Killed at every named point, in every state that a segment can be in: nothing is lost, and the next start goes on.

The check shares no code with the program: it reads the disk, the objects and the manifests by itself.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings
from tests.decoding import keys_in, plain_of
from tests.faults.test_class_kills import OF_CLASSES
from tests.faults.test_reader import CACHE
from tests.faults.test_replicas_apart import APART
from tests.faults.truth import OF_THE_PREFIX, TALLY, Folder
from tests.support import (
    COLD,
    HOUR,
    KINDS,
    Broker,
    Bucket,
    daemon,
    directory_settings,
    store_settings,
    to_point,
    wait_until,
)

ARCHIVE = [
    "archive.intended", *(f"archive.{kind}.stored" for kind in KINDS),
    "archive.before.manifest", "archive.committed", "archive.journaled",
]  # fmt: skip
ENCODE = ["archive.before.encoding", "archive.encoding", "archive.encoded"]
EVICT = ["evict.begin", *(f"evict.{kind}.unlinked" for kind in KINDS), "evict.unlinked", "evict.journaled"]
RESTORE = [
    *(f"restore.{kind}.downloaded" for kind in KINDS), "restore.partition.completed",
    *(f"restore.{kind}.placed" for kind in KINDS), "restore.placed", "restore.journaled",
]  # fmt: skip
CATALOG = ["catalog.writing", "catalog.written"]
ORPHAN = ["orphan.before.delete", "orphan.deleted"]
HEAL = [
    "scrub.quarantined", "archive.intended", "archive.log.stored", "archive.before.manifest", "archive.committed",
    "archive.superseded.kept",
]  # fmt: skip
EXPIRE = ["expire.intended", "expire.manifest.deleted", "expire.objects.deleted", "expire.journaled"]
# A superseded generation has the same log: it leaves too.
EXPIRE_BOTH = ["expire.intended", "expire.superseded.deleted", *EXPIRE[1:]]
SUPERSEDED = ["superseded.proven", "superseded.objects.deleted", "superseded.manifest.deleted"]
REWRITTEN = [*ARCHIVE, "archive.superseded.kept", *EVICT]
SCENARIOS = {
    "fresh": [*ARCHIVE, *EVICT],
    "to be encoded": [*ENCODE, *ARCHIVE, *EVICT],
    "warm": ARCHIVE,
    "encoded": RESTORE,
    "copied": EVICT,
    # Of the other files the archive has these bytes already.
    "rewritten": [point for point in REWRITTEN if not point.endswith(".stored") or point == "archive.log.stored"],
    "lease over": EVICT,
    "archived": RESTORE,
    "expired": EXPIRE,
    "expired with generations": EXPIRE_BOTH,
    "orphaned": ORPHAN,
    "damaged": HEAL,
    "superseded": SUPERSEDED,
}
# Their segments are compressed and encrypted, in several chunks that are spooled.
ENCODED = {"to be encoded", "encoded"}
# How often a verb of the scenario comes by a point, where it is not at least once for each of two segments.
WRITES = {"fresh": 5, "copied": 4, "rewritten": 6, "lease over": 4, "archived": 4, "expired": 4, "orphaned": 3}
# A start comes by these once; the second one finds the claim of a process that was killed.
STARTS = [("fresh", "store.identified", 1), ("fresh", "claim.written", 1), ("claimed", "claim.replace", 1)]
CASES = [
    *STARTS,
    *((scenario, point, nth) for scenario, reached in SCENARIOS.items() for point in reached for nth in (1, 2)),
    *((scenario, point, nth) for scenario, writes in WRITES.items() for point in CATALOG for nth in range(1, writes)),
]
FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
# A sample in the everyday run; the whole matrix is `make torture`.
ALWAYS = [("to be encoded", "archive.encoding", 2), ("to be encoded", "archive.log.stored", 1)]
SAMPLE = [*STARTS[1:], *CASES[6::41]]
# Every day the ones that must not be missed; a sample of the others in the long run.
CHOSEN = CASES if FULL else [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.long) for case in SAMPLE)]
STORES = ["directory", "s3"] if FULL else ["directory"]


@dataclass
class Scene:
    broker: Broker
    settings: Callable[..., Settings]
    keys: Callable[[], list[str]]
    objects: Callable[[], dict[str, bytes]]
    damage: Callable[[str], None]
    closed: list[str]
    times: dict[str, int]
    key_file: Path

    def run(self, *arguments: str, point: str = "", nth: int = 1, **changes: Any) -> int:
        ended = to_point(self.settings(**changes), *arguments, point=point, nth=nth)
        assert "Traceback" not in ended.stderr, ended.stderr
        self.output = ended.stdout
        return ended.returncode

    def prepare(self, scenario: str) -> tuple[list[str], dict[str, Any]]:
        """Bring the segments into their state; returns the command to be killed, and its settings."""
        if scenario in {"copied", "rewritten", "superseded", "expired with generations"}:
            assert self.run("run", "--once", archive_mode="copy") == 0
        encoding: dict[str, Any] = {
            "compression_codec": "zstd",
            "encryption_key_file": self.key_file,
            "chunk_size_mb": 1 / 16,
        }
        if scenario == "warm":
            # Copied before it is cold: nothing leaves the disk.
            return ["run", "--once"], {"warm_copy": True, "warm_age_hours": COLD / 2, "cold_age_hours": 2 * COLD}
        if scenario == "to be encoded":
            return ["run", "--once"], encoding
        if scenario == "encoded":
            assert self.run("run", "--once", **encoding) == 0
            return ["restore", *self.closed], encoding | {"restore_lease_hours": 100}
        if scenario in {"lease over", "archived", "expired"}:
            assert self.run("run", "--once") == 0
        if scenario in {"rewritten", "superseded"}:
            for path in self.closed:
                self.broker.append(path, b"after a compaction")
                os.utime(self.broker.root / path, (time.time() - 400 * HOUR,) * 2)
                self.times[path] = (self.broker.root / path).stat().st_mtime_ns
            assert self.run("run", "--once", auto_archive_enabled=False) == 0
        if scenario == "expired with generations":
            for path in self.closed:
                self.broker.overwrite(path.replace(".log", ".index"), bytes(8))
            assert self.run("run", "--once", archive_mode="copy") == 0
            assert self.run("run", "--once", archive_mode="copy") == 0
            assert len(self.superseded()) == len(self.closed)
            assert self.run("run", "--once") == 0
        if scenario == "superseded":
            assert self.run("run", "--once", archive_mode="copy") == 0
            return ["run"], {
                "archive_mode": "copy",
                "archive_superseded_keep_hours": 0.01 / 3600,
                "reconcile_interval_hours": 0.1 / 3600,
            }
        if scenario == "claimed":
            assert self.run("run", "--once", point="claim.written") == -signal.SIGKILL
        if scenario == "lease over":
            assert self.run("restore", "*", restore_lease_hours=0) == 0
        if scenario == "archived":
            return ["restore", *self.closed], {"restore_lease_hours": 100}
        if scenario == "orphaned":
            # Two uploads broke off before their manifests, and then the broker deleted the segments.
            for _ in range(2):
                assert self.run("run", "--once", point="archive.before.manifest") == -signal.SIGKILL
                deleted = self.closed.pop(0)
                for name in self.broker.triple(deleted):
                    (self.broker.root / name).unlink()
        if scenario == "damaged":
            assert self.run("run", "--once", archive_mode="copy") == 0
            for path in self.closed[:2]:
                self.damage(path)
            return ["verify", "--deep"], {"archive_mode": "copy"}
        return ["run", "--once"], {"retention_hours": 100} if scenario.startswith("expired") else {}

    def superseded(self) -> list[str]:
        """The manifests of generations that a later one took the place of."""
        return [key for key in self.keys() if re.search(r"\.g[0-9]+\.manifest\.json$", key)]

    def check(self, *, may_be_gone: bool) -> int:
        """Every closed byte is whole somewhere, and nothing lies about; returns how many bytes are lost."""
        objects = self.objects()
        manifests = {key: json.loads(content) for key, content in objects.items() if key.endswith(".manifest.json")}
        named = {file["key"] for manifest in manifests.values() for file in manifest["files"].values()}
        orphans = set(objects) - named - set(manifests)
        assert (orphans, named - set(objects)) == (set(), set())
        assert not list(self.broker.root.rglob("*.takhin-tmp"))
        lost, keys = 0, keys_in(self.key_file)
        for path in self.closed:
            manifest = manifests.get(path.replace(".log", ".manifest.json"))
            stored = manifest is not None and all(
                plain_of(manifest, kind, objects[manifest["files"][kind]["key"]], keys) == self.broker.files[name]
                for name in self.broker.triple(path)
                for kind in [name.rpartition(".")[2]]
            )
            size = sum(len(self.broker.files[name]) for name in self.broker.triple(path))
            is_lost = not stored and not self.broker.is_whole(path) and not (may_be_gone and manifest is None)
            TALLY.note(size, lost=is_lost)
            lost += size if is_lost else 0
        return lost


@pytest.fixture(params=STORES)
def scene(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Scene:
    is_encoded = request.node.callspec.params["scenario"] in ENCODED
    closed = broker.segments("orders-0", 3, age_hours=COLD, size=400_000 if is_encoded else 9000)
    key_file = tmp_path / "keys"
    key_file.write_text(f"first {base64.b64encode(os.urandom(32)).decode()}\n")
    times = {name: (broker.root / name).stat().st_mtime_ns for name in broker.files}
    if request.param == "directory":
        store = tmp_path / "store"

        def objects() -> dict[str, bytes]:
            files = {
                path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()
            }
            return {key: content for key, content in files.items() if not key.startswith(OF_THE_PREFIX)}

        def damage(path: str) -> None:
            (store / path).write_bytes(flipped((store / path).read_bytes()))

        def settings(**changes: Any) -> Settings:
            return directory_settings(broker, store, archive_concurrency=1, **changes)

        return Scene(broker, settings, Folder(store).keys, objects, damage, closed, times, key_file)
    bucket: Bucket = request.getfixturevalue("bucket")

    def in_bucket() -> dict[str, bytes]:
        assert bucket.uploads() == []
        return {key: bucket.read(key) for key in set(bucket.keys())}

    def damage_object(path: str) -> None:
        bucket.write(path, flipped(bucket.read(path)))

    def bucket_settings(**changes: Any) -> Settings:
        return store_settings(broker, bucket, archive_concurrency=1, **changes)

    return Scene(broker, bucket_settings, bucket.keys, in_bucket, damage_object, closed, times, key_file)


def flipped(data: bytes) -> bytes:
    return data[:1234] + bytes([data[1234] ^ 1]) + data[1235:]


@pytest.mark.parametrize(("scenario", "point", "nth"), CHOSEN)
def test_a_kill_loses_nothing_and_the_next_start_goes_on(
    scene: Scene, tmp_path: Path, scenario: str, point: str, nth: int
) -> None:
    arguments, changes = scene.prepare(scenario)
    assert scene.run(*arguments, point=point, nth=nth, **changes) == -signal.SIGKILL
    if scenario == "superseded":
        with daemon(scene.settings(**changes), tmp_path / "log"):
            wait_until(lambda: scene.superseded() == [], what="the removal of what is superseded")
    if scenario == "damaged":
        scene.run(*arguments, **changes)
        assert scene.run(*arguments, **changes) == 0
    # Both cycles must pass; in the second there is nothing left to clean up.
    assert scene.run("run", "--once", **changes) == 0
    assert scene.run("run", "--once", **changes) == 0
    assert scene.check(may_be_gone=scenario.startswith("expired")) == 0
    assert scene.run("ls", "--json") == 0
    states = {segment["segment_path"]: segment["state"] for segment in json.loads(scene.output)}
    for path in scene.closed:
        on_disk = scene.broker.on_disk(path)
        assert on_disk in ([], scene.broker.triple(path))
        if scenario.startswith("expired"):
            assert (states.get(path), on_disk) == (None, [])
        else:
            assert states[path] == ("copied" if on_disk else "archived")
    if scenario.startswith("expired"):
        assert scene.superseded() == []
    else:
        assert scene.run("restore", "*", **changes) == 0
        for path in scene.closed:
            assert scene.broker.is_whole(path)
            assert {name: (scene.broker.root / name).stat().st_mtime_ns for name in scene.broker.triple(path)} == {
                name: scene.times[name] for name in scene.broker.triple(path)
            }


def test_every_point_of_the_program_is_among_those_tried() -> None:
    source = Path(__file__).parents[2] / "takhin_tiered"
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    points = {
        expanded
        for point in re.findall(r'reached\(f?"([^"]+)"\)', text)
        for expanded in ([point.replace("{kind}", kind) for kind in KINDS])
    }
    # Those of a trim need a broker, in tests/kafka/test_trim.py, and one other incarnations: test_incarnations.py.
    elsewhere = {"trim.proven", "trim.asked", "restore.adopted", *CACHE, *OF_CLASSES}
    # In test_rekey.py.
    elsewhere |= {"rekey.before.manifest", "rekey.manifest.stored"}
    # Where replicas share the prefix, in test_replica_kills.py.
    elsewhere |= {point for point in points if point.startswith("replicas.")} | {"expire.released", *APART}
    # In test_replica_leftovers.py.
    elsewhere.add("archive.outrun")
    tried = {point for _, point, _ in CASES} | elsewhere
    # Those of hybrid tables are in test_hybrid_kills.py, those of the fleet's catalog in test_fleet_commands.py.
    assert {point for point in points if not point.startswith(("hybrid.", "fleet."))} == tried
    print(f"{len(tried)} points, {len(CASES)} kills in {len(SCENARIOS)} states")
