"""Hybrid tables, killed at every named point and at random: an item is complete in one place, and nothing lies about.

The check shares no code with the program: it reads the table with the plain SDK, and the objects as gzip of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid import HybridTable, HybridTables, records
from tests.forking import run_forked
from tests.support import Bucket, environment
from tests.tables import Dynamo, described, hybrid_settings, item, n, normal, s

LAUNCHER = Path(__file__).with_name("hybrid_launcher.py")
FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
ARCHIVE = ["hybrid.archive.registered", "hybrid.archive.stored", "hybrid.archive.pointed"]
REMOVE = ["hybrid.announced", "hybrid.object.before.delete", "hybrid.object.deleted"]
WRITE = ["hybrid.announced", "hybrid.unpointed", "hybrid.object.before.delete", "hybrid.object.deleted"]
SCENARIOS = {"archive": ARCHIVE, "verify": REMOVE, "unarchive": WRITE, "update": WRITE, "put": WRITE, "delete": WRITE}
CASES = [
    (operation, point, nth)
    for operation, reached in SCENARIOS.items()
    for point in reached
    for nth in ((1,) if point == "hybrid.archive.registered" else (1, 2))
]
CHOSEN = CASES if FULL else CASES[::5]
KEYS = [("c", f"{number}") for number in range(3)]
# A lease is long beside what any step takes on a machine that is busy, and so is what a late request may take.
LEASE, SETTLES = (60.0, 5.0) if FULL else (30.0, 2.0)


def typed(value: Any) -> Any:
    """From the JSON of an object."""
    ((kind, inner),) = value.items()
    if kind == "B":
        return {kind: base64.b64decode(inner)}
    if kind == "M":
        return {kind: {name: typed(each) for name, each in inner.items()}}
    return {kind: inner}


def whole(found: Item, objects: dict[str, bytes]) -> Item:
    """An item as the table and the objects have it."""
    if not {"s3Key", "archivedAt"} <= found.keys():
        return found
    archived = {name: typed(value) for name, value in json.loads(gzip.decompress(objects[found["s3Key"]["S"]])).items()}
    return archived | {name: value for name, value in found.items() if name not in {"s3Key", "archivedAt"}}


@dataclass
class Scene:
    dynamo: Dynamo
    name: str
    settings: Settings
    bucket: Bucket | None
    root: Path
    items: dict[tuple[str, str], Item]

    def objects(self) -> dict[str, bytes]:
        if self.bucket is not None:
            return {key: self.bucket.read(key) for key in set(self.bucket.keys())}
        store = self.root / "store"
        files = [path for path in (store / self.name).rglob("*") if path.is_file()]
        return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}

    def environment(self, **more: str) -> dict[str, str]:
        return {**environment(self.settings), "PYTHONPATH": str(Path(__file__).parents[2]), **more}

    def run(self, operation: str, point: str = "", nth: int = 1) -> int:
        words = [f"{pk}/{sk}" for pk, sk in self.items]
        variables = self.environment(TORTURE_POINT=point, TORTURE_NTH=str(nth))
        ended = run_forked(LAUNCHER, operation, *words, env=variables, seconds=90)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.returncode

    def found(self) -> dict[tuple[str, str], Item]:
        objects = self.objects()
        return {
            (each["pk"]["S"], each["sk"]["S"]): normal(whole(each, objects)) for each in self.dynamo.scan(self.name)
        }

    def check(self, operation: str) -> None:
        """Each item is whole, and as it was or as the operation leaves it."""
        found = self.found()
        changed = {"update": "updated", "put": "put"}.get(operation)
        for key, was in self.items.items():
            allowed = [normal(was)]
            if changed is not None:
                allowed.append(normal({**was, "text": s(changed)}))
            assert found.get(key) in allowed or (operation == "delete" and key not in found)


@pytest.fixture(params=["directory", "s3"] if FULL else ["directory"])
def scene(request: pytest.FixtureRequest, dynamo: Dynamo, tmp_path: Path) -> Scene:
    name = dynamo.create()
    bucket = request.getfixturevalue("bucket") if request.param == "s3" else None
    items = {(pk, sk): item(pk, sk, text=f"text {sk}", num=n("1.5"), data={"B": bytes(5)}) for pk, sk in KEYS}
    dynamo.put(name, *items.values())
    settings = hybrid_settings(tmp_path, dynamo, [described(name)], bucket)
    return Scene(dynamo, name, settings, bucket, tmp_path, items)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("operation", "point", "nth"), CHOSEN)
async def test_a_kill_loses_no_item_and_leaves_nothing_behind(
    scene: Scene, operation: str, point: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "SETTLES_IN", 1.0)
    if operation != "archive":
        assert scene.run("archive") == 0
    if operation == "verify":
        # Somebody who knows nothing of pointers replaces the items: their objects are left.
        scene.dynamo.put(scene.name, *scene.items.values())
    assert scene.run(operation, point, nth) == -signal.SIGKILL
    scene.check(operation)
    async with HybridTables.open(scene.settings) as tables:
        table = tables.table(scene.name, typed=True)
        read = {(each["pk"]["S"], each["sk"]["S"]): normal(each) async for each in table.scan()}
        assert read == scene.found()
        assert (await tables.archive_old_data()).errors == []
        scene.check(operation)
        found = await tables.verify()
        assert (found.bad, found.waiting, found.unknown) == ([], 0, [])
        scene.check(operation)
        # Every object has its pointer, and every pointer its object.
        assert {each["s3Key"]["S"] for each in scene.dynamo.pointers(scene.name)} == scene.objects().keys()
        if operation == "archive":
            assert len(scene.dynamo.pointers(scene.name)) == len(KEYS)


def test_every_point_of_hybrid_tables_is_among_those_tried() -> None:
    source = Path(__file__).parents[2] / "takhin_tiered/hybrid"
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    assert set(re.findall(r'reached\("([^"]+)"\)', text)) == {point for _, point, _ in CASES}


# Killed at random, among writers.


@dataclass
class Written:
    """What a writer was told is stored: the last version, and one that is being written and may be there already."""

    version: int = 0
    pending: int | None = None
    deleted: bool = False


def version_of(key: tuple[str, str], version: int) -> Item:
    text = f"{key} {version} " * 20
    return item(*key, v=n(version), text=text, sum=hashlib.sha256(text.encode()).hexdigest())


@dataclass
class Crowd:
    """Writers, each with its own keys, and readers of any."""

    scene: Scene
    table: HybridTable[Item]
    chance: random.Random
    state: dict[tuple[str, str], Written] = field(default_factory=dict)
    stop: bool = False
    reads: int = 0
    writes: int = 0

    async def write(self, keys: list[tuple[str, str]]) -> None:
        while not self.stop:
            key = self.chance.choice(keys)
            state = self.state[key]
            following = state.version + 1
            new = version_of(key, following)
            state.pending = following
            how = self.chance.random()
            if how < 0.35:
                await self.table.put(new)
            elif how < 0.65 and not state.deleted:
                changes = {name: new[name] for name in ("v", "text", "sum")}
                assert await self.table.update(*key, **changes) is not None
            elif how < 0.75:
                assert await self.table.delete(*key) is not state.deleted
                state.deleted, state.pending = True, None
                self.writes += 1
                continue
            else:
                # An application that knows nothing of pointers.
                await asyncio.to_thread(self.scene.dynamo.put, self.scene.name, new)
            state.version, state.pending, state.deleted = following, None, False
            self.writes += 1

    async def read(self) -> None:
        while not self.stop:
            key = self.chance.choice(list(self.state))
            before = Written(**vars(self.state[key]))
            found = await self.table.load(*key)
            self.require(key, before, found, self.state[key])
            self.reads += 1

    def require(self, key: tuple[str, str], before: Written, found: Item | None, after: Written) -> None:
        if found is None:
            assert before.deleted or after.deleted or after.version > before.version or after.pending
            return
        version = int(found["v"]["N"])
        assert normal(found) == normal(version_of(key, version)), "torn"
        assert version >= before.version, "older than the last acknowledged write"
        assert version <= max(after.version, after.pending or 0)


@pytest.mark.long
@pytest.mark.timeout(3000)
async def test_random_kills_among_writers_lose_nothing(
    dynamo: Dynamo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 200 if FULL else 6
    monkeypatch.setattr(records, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(records, "SETTLES_IN", SETTLES)
    chance = random.Random(kills)
    keys = [("c", f"{number:02}") for number in range(40)]
    name = dynamo.create()
    settings = hybrid_settings(tmp_path, dynamo, [described(name)])
    scene = Scene(dynamo, name, settings, None, tmp_path, {key: version_of(key, 0) for key in keys})
    dynamo.put(name, *scene.items.values())
    log = (tmp_path / "log").open("wb")

    def begin(what: str) -> subprocess.Popen[bytes]:
        words = [f"{pk}/{sk}" for pk, sk in keys]
        variables = scene.environment(TORTURE_LEASE=str(LEASE), TORTURE_SETTLES=str(SETTLES))
        return subprocess.Popen([sys.executable, str(LAUNCHER), what, *words], env=variables, stdout=log, stderr=log)

    async with HybridTables.open(settings) as tables:
        crowd = Crowd(scene, tables.table(name, typed=True), chance, {key: Written() for key in keys})
        tasks = [asyncio.create_task(crowd.write(keys[at::3])) for at in range(3)]
        tasks += [asyncio.create_task(crowd.read()) for _ in range(2)]
        running = [begin("archiving"), begin("archiving"), begin("restoring")]
        try:
            for _ in range(kills):
                at = chance.randrange(3)
                # Longer than a start takes, so that there is something to be killed.
                await asyncio.sleep(chance.uniform(1.0, 4.0))
                assert all(process.poll() is None for process in running), (tmp_path / "log").read_text()[-3000:]
                running[at].kill()
                running[at].wait()
                running[at] = begin("restoring" if at == 2 else "archiving")
                assert not any(task.done() for task in tasks), [task.result() for task in tasks if task.done()]
            crowd.stop = True
            await asyncio.gather(*tasks)
        finally:
            crowd.stop = True
            for process in running:
                process.kill()
                process.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            log.close()
        expected = {
            key: normal(version_of(key, state.version)) for key, state in crowd.state.items() if not state.deleted
        }
        assert scene.found() == expected
        deadline = time.monotonic() + 60
        while (await tables.verify()).waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        assert scene.found() == expected
        found = await tables.verify()
        assert (found.bad, found.waiting) == ([], 0)
        assert {each["s3Key"]["S"] for each in dynamo.pointers(name)} == scene.objects().keys()
    assert min(crowd.reads, crowd.writes) > kills
    print(f"{kills} kills, {crowd.writes} writes, {crowd.reads} reads")
