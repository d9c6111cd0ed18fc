"""A broker that appends and rolls, clients that restore, and a daemon that is killed at random, again and again.

What is checked is checked without the program: SHA-256 of what the broker closed, plain files, the plain
SDK, and manifests as the JSON that they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.truth import TALLY, Folder, Store, Truth
from tests.support import HOUR, KINDS, Broker, Daemon, command, directory_settings, store_settings

FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
KILLS, SEGMENTS, PARTITIONS = (300, 2000, 20) if FULL else (5, 60, 4)


@dataclass
class ClosedFile:
    sha256: str
    size: int
    mtime_ns: int


@dataclass
class LiveBroker(threading.Thread):
    """Appends to the active segments and rolls them, until as many are closed as were allowed so far."""

    root: Path
    chance: random.Random
    allowed: int = 0
    closed: dict[str, dict[str, ClosedFile]] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.active = {f"orders-{number}": 0 for number in range(PARTITIONS)}
        for partition in self.active:
            (self.root / partition).mkdir()
            self._create(partition, 0)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.ended.wait(0.002):
            partition = self.chance.choice(list(self.active))
            self._append(partition)
            if len(self.closed) < self.allowed and self.chance.random() < 0.5:
                self._roll(partition)

    def file(self, partition: str, offset: int, kind: str) -> Path:
        return self.root / partition / f"{offset:020d}.{kind}"

    def _create(self, partition: str, offset: int) -> None:
        for kind in KINDS:
            self.file(partition, offset, kind).write_bytes(self.chance.randbytes(12) if kind != "log" else b"")
        self._append(partition)

    def _append(self, partition: str) -> None:
        with self.file(partition, self.active[partition], "log").open("ab") as log:
            log.write(self.chance.randbytes(self.chance.randint(1, 2000)))

    def _roll(self, partition: str) -> None:
        """The next segment first: a log that is old and the last of its partition is never to be seen."""
        offset = self.active[partition]
        self.active[partition] = offset + 10
        self._create(partition, offset + 10)
        files = {}
        for kind in KINDS:
            file = self.file(partition, offset, kind)
            content, modified = file.read_bytes(), int((time.time() - self.chance.uniform(300, 900) * HOUR) * 1e9)
            files[kind] = ClosedFile(hashlib.sha256(content).hexdigest(), len(content), modified)
        # Noted before it is old, and so before the program may touch it.
        self.closed[f"{partition}/{offset:020d}.log"] = files
        for kind, noted in files.items():
            os.utime(self.file(partition, offset, kind), ns=(noted.mtime_ns, noted.mtime_ns))


class Checker:
    def __init__(self, live: LiveBroker, store: Store) -> None:
        self._live, self._store = live, store

    def on_disk(self, path: str) -> bool:
        partition, offset = path.split("/")[0], int(path.split("/")[1].removesuffix(".log"))
        for kind, noted in self._live.closed[path].items():
            try:
                content = self._live.file(partition, offset, kind).read_bytes()
            except FileNotFoundError:
                return False
            if hashlib.sha256(content).hexdigest() != noted.sha256:
                return False
        return True

    def in_store(self, path: str) -> bool:

        try:
            manifest: dict[str, Any] = json.loads(self._store.read(path.removesuffix(".log") + ".manifest.json"))
            for kind, noted in self._live.closed[path].items():
                entry = manifest["files"][kind]
                content = self._store.read(entry["key"])
                if hashlib.sha256(content).hexdigest() != noted.sha256 or entry["mtime_ns"] != noted.mtime_ns:
                    return False
        except Exception as error:
            if type(error).__name__ in {"FileNotFoundError", "NoSuchKey"}:
                return False
            raise
        return True

    def lost(self, paths: list[str]) -> int:
        """Bytes of those that are whole neither here nor there. A restore may end between the two looks: look twice."""
        lost = 0
        for path in paths:
            size = sum(noted.size for noted in self._live.closed[path].values())
            is_lost = not (self.on_disk(path) or self.in_store(path) or self.on_disk(path))
            TALLY.note(size, lost=is_lost)
            lost += size if is_lost else 0
        return lost


_LONGER = 30.0  # seconds, at most, for a restore that succeeds


@pytest.fixture(params=["directory", "s3"] if FULL else ["directory"])
def world(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Iterator[tuple[LiveBroker, Any, Store]]:
    changes: dict[str, Any] = {"archive_interval_minutes": 0.002, "restore_lease_hours": 1 / 3600}
    if request.param == "directory":
        settings = directory_settings(broker, tmp_path / "store", **changes)
        store: Store = Folder(tmp_path / "store")
    else:
        store = request.getfixturevalue("bucket")
        settings = store_settings(broker, request.getfixturevalue("bucket"), **changes)
    seed = int(os.environ.get("TAKHIN_TEST_SEED", random.randrange(1 << 30)))
    print(f"TAKHIN_TEST_SEED={seed}")
    live = LiveBroker(broker.root, random.Random(seed))
    live.start()
    yield live, settings, store
    live.ended.set()
    live.join()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_random_kills_lose_nothing(world: tuple[LiveBroker, Any, Store], tmp_path: Path) -> None:
    live, settings, store = world
    chance, checker = random.Random(live.chance.random()), Checker(live, store)
    restored = 0
    for number in range(KILLS):
        live.allowed = SEGMENTS * (number + 1) // KILLS
        running = Daemon(settings, tmp_path / "log")
        try:
            if chance.random() < 0.15:
                time.sleep(chance.uniform(0.3, 1.2))
            else:
                api = running.wait_serving()
                until = time.monotonic() + chance.uniform(0.0, 1.5)
                # On a busy machine longer: kills that meet no restore show little.
                at_last, wanted = until + _LONGER, 2 + number // 4
                while time.monotonic() < (until if restored >= wanted else at_last):
                    paths = list(live.closed) or [""]
                    with suppress(httpx.HTTPError):
                        body = {"segment_path": chance.choice(paths)}
                        asked = httpx.post(f"{api}/api/v1/tiered/restore", json=body, trust_env=False, timeout=5)
                        restored += asked.status_code == 200
        finally:
            running.kill()
        some = list(live.closed)
        assert checker.lost(chance.sample(some, min(40, len(some)))) == 0
    while len(live.closed) < SEGMENTS:
        assert not live.ended.wait(0.01)
    live.ended.set()
    live.join()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert restored > KILLS // 4

    # Left alone, it finishes: everything that was closed is archived, and nothing else lies about. A lease that was
    # given before is kept: three cycles may be over sooner.
    time.sleep(settings.restore_lease_hours * 3600)
    at_rest = settings.model_copy(update={"restore_lease_hours": 0.0})
    for _ in range(3):
        ended = command(at_rest, "run", "--once")
        assert ended.returncode == 0, ended.stderr[-2000:]
    truth = Truth(Broker(live.root), store)
    assert (truth.orphans(), truth.temporary_files(), store.uploads()) == ([], [], [])
    assert checker.lost(list(live.closed)) == 0
    assert [path for path in live.closed if not checker.in_store(path)] == []
    left = {path.relative_to(live.root).as_posix() for path in live.root.glob("orders-*/*")}
    assert left == {f"{p}/{offset:020d}.{kind}" for p, offset in live.active.items() for kind in KINDS}

    shutil.rmtree(settings.state_dir)
    for verb in (["rebuild"], ["restore", "*"]):
        ended = command(settings, *verb)
        assert ended.returncode == 0, ended.stderr[-2000:]
    for path, files in live.closed.items():
        assert checker.on_disk(path)
        for kind, noted in files.items():
            assert (live.root / f"{path.removesuffix('log')}{kind}").stat().st_mtime_ns == noted.mtime_ns
    total = sum(noted.size for files in live.closed.values() for noted in files.values())
    print(f"{KILLS} random kills, {len(live.closed)} segments, {restored} restores, {total} bytes closed, 0 lost")
