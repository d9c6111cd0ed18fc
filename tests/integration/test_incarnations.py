"""A topic made anew, and a log that was truncated, are other logs of the same name: both are kept, and never mixed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from takhin_tiered import SegmentConflict, SegmentNotFound, Settings, TieredStorage
from takhin_tiered.formats.sample import make_segment
from tests.support import AtPoint, parts

IDS = ("1HPDq9KPTmqeRsGSyBUSuA", "2HPDq9KPTmqeRsGSyBUSuB")
DAY = 86_400_000


class Kafka:
    """A log directory as a stopped broker leaves it, with one partition."""

    def __init__(self, root: Path) -> None:
        self.root, self.partition = root, root / "orders-0"
        root.mkdir()
        (root / "meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
        self.store = root.parent / "store"
        self.store.mkdir()

    def make_topic(self, topic_id: str = "") -> None:
        shutil.rmtree(self.partition, ignore_errors=True)
        self.partition.mkdir()
        if topic_id:
            (self.partition / "partition.metadata").write_text(f"version: 0\ntopic_id: {topic_id}")

    def write(
        self, count: int, *, base: int = 0, seed: int = 0, epoch: int = 0, day: int = 0, size: int = 9_000
    ) -> dict[str, bytes]:
        """Closed segments from ``base`` on, and an active one; returns the logs of the closed ones by path."""
        found: dict[str, bytes] = {}
        for number in range(count + 1):
            made = make_segment(base, size, seed=seed, first_timestamp=1_700_000_000_000 + day * DAY)
            log, at = bytearray(made.log), 0
            while at < len(log):
                log[at + 12 : at + 16] = struct.pack(">i", epoch)
                at += 12 + int.from_bytes(log[at + 8 : at + 12])
            for kind, content in (("log", bytes(log)), ("index", made.index), ("timeindex", made.timeindex)):
                path = self.partition / f"{base:020d}.{kind}"
                path.write_bytes(content)
                os.utime(path, (time.time() - 1_000_000,) * 2)
            if number < count:
                found[f"orders-0/{base:020d}.log"] = bytes(log)
            base = made.next_offset
        return found

    def settings(self, **more: object) -> Settings:
        values = {"archive_mode": "copy", "data_dir": self.root, "enabled": True, "directory_path": self.store}
        return Settings(**values | more)

    def archived(self) -> set[bytes]:
        return {path.read_bytes() for path in self.store.rglob("*.log")}

    def logs(self) -> dict[str, bytes]:
        return {f"orders-0/{path.name}": path.read_bytes() for path in sorted(self.partition.glob("*.log"))}


@pytest.fixture
def kafka(tmp_path: Path) -> Kafka:
    return Kafka(tmp_path / "data")


async def cycles(storage: TieredStorage, count: int = 3) -> None:
    """A segment is archived at the second look."""
    for _ in range(count):
        report = await storage.run_cycle()
        assert not report.failures


async def all_sound(storage: TieredStorage) -> int:
    verdicts = [verdict async for verdict in storage.verify(deep=True)]
    assert not [verdict.problem for verdict in verdicts if verdict.problem]
    return len(verdicts)


async def test_a_topic_made_anew_has_keys_of_its_own(kafka: Kafka, tmp_path: Path) -> None:
    kafka.make_topic(IDS[0])
    old = kafka.write(3)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        kafka.make_topic(IDS[1])
        new = kafka.write(2, seed=1, day=1)
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        first = min(new)
        assert (kafka.store / first).read_bytes() == old[first]
        labelled = kafka.store / "orders-0" / IDS[1]
        assert (labelled / Path(first).name).read_bytes() == new[first]
        manifest = json.loads((labelled / Path(first).name.replace(".log", ".manifest.json")).read_text())
        assert manifest["topic_id"] == IDS[1]
        assert manifest["files"]["log"]["key"] == f"orders-0/{IDS[1]}/{Path(first).name}"
        assert await all_sound(storage) == 5
        assert parts(storage).catalog.superseded == 0
        for info in storage.segments(topic_id=IDS[0]):
            assert (info.is_current, info.local_size_bytes) == (False, 0)
            with pytest.raises(SegmentConflict, match=f"{IDS[0]}.*{IDS[1]}"):
                await storage.restore_segment(info.segment_path, topic_id=IDS[0])
        await cycles(storage)
        assert kafka.logs().items() >= new.items()

    shutil.rmtree(kafka.partition)
    settings = kafka.settings(state_path=tmp_path / "new-state")
    async with TieredStorage.open(settings) as storage:
        for path in new:
            await storage.restore_segment(path)
        assert kafka.logs() == new
        with pytest.raises(SegmentConflict, match=IDS[0]):
            await storage.restore_segment(max(old), topic_id=IDS[0])
    shutil.rmtree(kafka.partition)
    async with TieredStorage.open(settings) as storage:
        for path in old:
            await storage.restore_segment(path, topic_id=IDS[0])
        assert kafka.logs() == old
        assert IDS[0] in (kafka.partition / "partition.metadata").read_text()
        # What was restored is what stands there now.
        assert {info.segment_path for info in storage.segments() if info.is_current} == set(old)
        with pytest.raises(SegmentNotFound, match="no incarnation"):
            await storage.restore_segment(max(old), topic_id="3HPDq9KPTmqeRsGSyBUSuC")


async def test_no_cycle_expires_an_earlier_incarnation(kafka: Kafka) -> None:
    kafka.make_topic(IDS[0])
    old = kafka.write(2)
    async with TieredStorage.open(kafka.settings(retention_hours=1, retention_bytes=1)) as storage:
        await cycles(storage)
        kafka.make_topic(IDS[1])
        new = kafka.write(2, seed=1, day=1)
        await cycles(storage)
        shutil.rmtree(kafka.partition)
        await cycles(storage)
        assert kafka.archived() == set(old.values())
        assert new


async def test_a_topic_that_was_never_archived_takes_no_keys(kafka: Kafka) -> None:
    kafka.make_topic(IDS[0])
    kafka.write(0)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        kafka.make_topic(IDS[1])
        new = kafka.write(1, seed=1)
        await cycles(storage)
    assert {path: (kafka.store / path).read_bytes() for path in new} == new


@pytest.mark.parametrize("topic_id", [IDS[0], ""])
async def test_a_truncated_log_is_another_from_there_on(kafka: Kafka, tmp_path: Path, topic_id: str) -> None:
    kafka.make_topic(topic_id)
    old = kafka.write(4)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        cut = sorted(old)[2]
        base = int(Path(cut).stem)
        for path in kafka.partition.iterdir():
            if path.stem.isdigit() and int(path.stem) >= base:
                path.unlink()
        (kafka.partition / "leader-epoch-checkpoint").write_text(f"0\n2\n0 0\n1 {base}\n")
        new = kafka.write(3, base=base, seed=1, epoch=1, size=5_000)
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        assert (kafka.store / "orders-0/~1" / Path(cut).name).read_bytes() == new[cut]
        assert await all_sound(storage) == 7
        current = {info.segment_path for info in storage.segments() if info.is_current and info.archived_at}
        assert current == {*sorted(old)[:2], *new}

    shutil.rmtree(kafka.partition)
    settings = kafka.settings(state_path=tmp_path / "new-state")
    async with TieredStorage.open(settings) as storage:
        for name in sorted(current):
            await storage.restore_segment(name)
        assert kafka.logs() == {path: log for path, log in old.items() if path < cut} | new
        with pytest.raises(SegmentConflict, match=r"~1|overlaps"):
            await storage.restore_segment(f"{sorted(old)[3]}@~0")


async def test_without_topic_ids_the_times_tell(kafka: Kafka) -> None:
    kafka.make_topic()
    old = kafka.write(3)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        kafka.make_topic()
        new = kafka.write(2, seed=1, day=1)
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        assert {info.incarnation for info in storage.segments() if info.is_current} == {"~1"}
        with pytest.raises(SegmentConflict, match="~1"):
            await storage.restore_segment(max(old), topic_id="~0")


async def test_without_topic_ids_overlapping_offsets_tell(kafka: Kafka) -> None:
    """The first segment that is seen of the new log has a base offset that the old one had not."""
    kafka.make_topic()
    old = kafka.write(2, size=30_000)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        kafka.make_topic()
        new = kafka.write(2, base=20, seed=1, size=30_000)
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        assert {storage.segment(path).incarnation for path in new} == {"~1"}


async def test_an_archive_without_topic_ids_is_the_present_topics_unless_it_is_contradicted(kafka: Kafka) -> None:
    kafka.make_topic()
    old = kafka.write(2)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        (kafka.partition / "partition.metadata").write_text(f"version: 0\ntopic_id: {IDS[0]}")
        await cycles(storage)
        assert {info.incarnation for info in storage.segments()} == {""}
        kafka.make_topic(IDS[0])
        new = kafka.write(2, seed=1, day=1)
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        assert (kafka.store / "orders-0" / IDS[0] / Path(min(new)).name).exists()
        assert storage.segment(min(new), topic_id=IDS[0]).incarnation == IDS[0]
        assert storage.segment(min(new), topic_id="~0").topic_id == ""


def run(kafka: Kafka, *arguments: str, point: str = "") -> int:
    """The program, which kills itself at a point; its exit status."""
    config = kafka.root.parent / "takhin.yaml"
    keys = {"enabled": True, "archive": {"mode": "copy"}, "directory": {"path": str(kafka.store)}}
    config.write_text(json.dumps({"storage": {"data": {"dir": str(kafka.root)}, "tiered": keys}}))
    launcher = str(Path(__file__).parents[1] / "faults/kill_launcher.py")
    return subprocess.run(
        [sys.executable, launcher, "--config", str(config), *arguments],
        env=os.environ | {"TORTURE_POINT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
    ).returncode


@pytest.mark.long
@pytest.mark.parametrize("point", ["archive.intended", "archive.log.stored", "archive.before.manifest"])
async def test_a_kill_in_the_first_archive_of_another_incarnation(kafka: Kafka, point: str) -> None:
    kafka.make_topic()
    old = kafka.write(2)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
    kafka.make_topic()
    new = kafka.write(2, seed=1, day=1)
    assert -signal.SIGKILL in [run(kafka, "run", "--once", point=point) for _ in range(3)]
    assert kafka.archived() >= set(old.values())
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        assert await all_sound(storage) == 4


@pytest.mark.long
@pytest.mark.parametrize("point", ["restore.adopted", "restore.log.placed", "restore.placed"])
async def test_a_kill_in_the_restore_of_an_earlier_incarnation(kafka: Kafka, point: str) -> None:
    kafka.make_topic()
    old = kafka.write(2)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        kafka.make_topic()
        new = kafka.write(2, seed=1, day=1)
        await cycles(storage)
    shutil.rmtree(kafka.partition)
    assert run(kafka, "restore", "orders-0", "--topic-id", "~0", point=point) == -signal.SIGKILL
    run(kafka, "restore", "orders-0", "--topic-id", "~1")
    found = set(kafka.logs().items())
    assert found <= set(old.items()) or found <= set(new.items())
    assert kafka.archived() == {*old.values(), *new.values()}


def cut(kafka: Kafka, base: int) -> None:
    """As a truncation leaves a log: nothing from here on."""
    for path in kafka.partition.iterdir():
        if path.stem.isdigit() and int(path.stem) >= base:
            path.unlink()


def epochs(kafka: Kafka, *starts: int) -> None:
    entries = "".join(f"{epoch} {start}\n" for epoch, start in enumerate(starts))
    (kafka.partition / "leader-epoch-checkpoint").write_text(f"0\n{len(starts)}\n{entries}")


@pytest.mark.parametrize("then", ["rebuild", "cycle", "lost catalog"])
async def test_a_restored_earlier_incarnation_stays_what_is_on_the_disk(
    kafka: Kafka, tmp_path: Path, then: str
) -> None:
    (kafka.root / "meta.properties").unlink()
    kafka.make_topic()
    old = kafka.write(3)
    settings = kafka.settings()
    async with TieredStorage.open(settings) as storage:
        await cycles(storage)
        kafka.make_topic()
        new = kafka.write(3, seed=1, day=1)
        await cycles(storage)
        shutil.rmtree(kafka.partition)
        await cycles(storage)
        for path in sorted(old)[:0:-1]:
            await storage.restore_segment(path, topic_id="~0")
        if then == "cycle":
            kafka.write(0, base=int(Path(max(old)).stem) + 20)
            await cycles(storage)
    if then == "lost catalog":
        settings = kafka.settings(state_path=tmp_path / "new-state")
    async with TieredStorage.open(settings) as storage:
        await storage.rebuild()
        with pytest.raises((SegmentConflict, SegmentNotFound)):
            await storage.restore_segment(f"{min(new)}@~1")
        await cycles(storage)
        assert kafka.archived() >= {*old.values(), *new.values()}
    assert set(kafka.logs().items()) & set(new.items()) == set()


@pytest.mark.parametrize("mode", ["copy", "move"])
async def test_what_is_above_an_unseen_truncation_is_filed_with_the_new_log(kafka: Kafka, mode: str) -> None:
    """The lower segments changed since the last scan, and wait for the next; the higher ones are new."""
    kafka.make_topic()
    old = kafka.write(3)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
    cut(kafka, 20)
    new = kafka.write(4, base=20, seed=1, day=1)
    async with TieredStorage.open(kafka.settings(archive_mode=mode)) as storage:
        await cycles(storage)
        assert kafka.archived() == {*old.values(), *new.values()}
        assert {storage.segment(path).incarnation for path in new} == {"~1"}
        (found,) = [each for each in await storage.partitions() if each.current]
        assert (found.holes, found.overlaps) == ([], [])
        assert [info.segment_path for info in storage.segments(topic_id="~0")] == sorted(old)


async def test_two_truncations_are_two_incarnations(kafka: Kafka) -> None:
    kafka.make_topic(IDS[0])
    kafka.write(4)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        for number, base in enumerate((40, 20), 1):
            cut(kafka, base)
            epochs(kafka, 0, *([20, 21] if base == 20 else [40]))
            log = kafka.write(3, base=base, seed=number, epoch=number, day=number)
            await cycles(storage)
            assert {storage.segment(path).incarnation for path in log} == {f"~{number}"}
            assert kafka.archived() >= set(log.values())


async def test_a_topic_made_anew_with_older_records(kafka: Kafka) -> None:
    kafka.make_topic()
    old = kafka.write(3, day=5)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        kafka.make_topic()
        new = kafka.write(3, seed=1, day=1)
        await cycles(storage)
        assert {storage.segment(path).incarnation for path in new} == {"~1"}
    assert kafka.archived() == {*old.values(), *new.values()}


async def test_manifests_tell_topics_apart_that_the_catalog_took_for_one(kafka: Kafka) -> None:
    """As after an upgrade: topic IDs stand in manifests, and in no catalog."""
    kafka.make_topic(IDS[0])
    old = kafka.write(3)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
    database = sqlite3.connect(kafka.settings().state_dir / "catalog.db")
    with closing(database):
        database.execute("DELETE FROM lineages")
        database.execute("INSERT OR REPLACE INTO meta VALUES ('incarnations', 'unknown')")
        database.commit()
    kafka.make_topic(IDS[1])
    new = kafka.write(5, seed=1)
    async with TieredStorage.open(kafka.settings()) as storage:
        await cycles(storage)
        assert {storage.segment(path).incarnation for path in new} == {IDS[1]}
        assert parts(storage).catalog.superseded == 0
    assert kafka.archived() == {*old.values(), *new.values()}


async def test_a_label_that_nobody_gave_is_unknown(kafka: Kafka) -> None:
    kafka.make_topic()
    path = min(kafka.write(2))
    async with TieredStorage.open(kafka.settings()) as storage:
        for verb in (storage.archive_segment, storage.restore_segment):
            with pytest.raises(SegmentNotFound, match="no incarnation ~7"):
                await verb(f"{path}@~7")
        assert storage.segment(f"{path}@~0").segment_path == path


async def test_a_cycle_leaves_a_running_restore_alone(kafka: Kafka, at_point: AtPoint) -> None:
    kafka.make_topic()
    kafka.write(2)
    async with TieredStorage.open(kafka.settings(archive_mode="move")) as storage:
        await cycles(storage)
        kafka.make_topic()
        new = kafka.write(2, seed=1, day=1)
        await cycles(storage)
        temporary: list[str] = []
        at_point("restore.index.downloaded", lambda: temporary.extend(os.listdir(kafka.partition)))
        restoring = asyncio.create_task(storage.restore_segment(max(new), force=True))
        while not temporary and not restoring.done():
            await asyncio.sleep(0)
        await storage.run_cycle()
        await restoring
        assert [name for name in temporary if name.endswith(".takhin-tmp")]
    assert (kafka.root / max(new)).read_bytes() == new[max(new)]
