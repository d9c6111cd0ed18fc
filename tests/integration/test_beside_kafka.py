"""Beside Apache Kafka: what its directory shows decides what may be done to its files. The lock is a real one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from takhin_tiered import (
    ConfigError,
    SegmentConflict,
    SegmentNotFound,
    SegmentRefused,
    Settings,
    State,
    TieredStorage,
)
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import SegmentId
from tests.support import AtPoint, Broker, command, parts

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def running_kafka(data: Path) -> Iterator[None]:
    """A process that holds ``.lock`` as a broker does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(10)


@pytest.fixture
def kafka(tmp_path: Path) -> Broker:
    data = tmp_path / "data"
    data.mkdir()
    (data / "meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
    return Broker(data)


def settings_of(broker: Broker, **more: object) -> Settings:
    store = broker.root.parent / "store"
    store.mkdir(exist_ok=True)
    return Settings(data_dir=broker.root, enabled=True, directory_path=store, **more)


async def test_where_no_mode_is_set_nothing_is_deleted_beside_kafka(kafka: Broker) -> None:
    paths = kafka.segments()
    async with TieredStorage.open(settings_of(kafka)) as storage:
        report = await storage.run_cycle()
        assert (report.copied, report.archived) == (3, 0)
        assert storage.status().mode == "copy"
    assert all(kafka.is_whole(path) for path in paths)


async def test_move_for_some_topics_is_refused_while_kafka_runs(kafka: Broker) -> None:
    kafka.segments()
    settings = settings_of(kafka, topics_overrides={"orders-*": {"archive.mode": "move"}})
    with running_kafka(kafka.root), pytest.raises(ConfigError, match=r"overrides, orders-\*, is move, and an Apache"):
        async with TieredStorage.open(settings):
            pass


async def test_move_is_refused_while_kafka_runs(kafka: Broker) -> None:
    kafka.segments()
    with running_kafka(kafka.root), pytest.raises(ConfigError, match=r"archive\.mode is move") as refused:
        async with TieredStorage.open(settings_of(kafka, archive_mode="move")):
            pass
    assert refused.value.exit_code == 2
    assert "trim" in refused.value.hint


async def test_move_evicts_where_kafka_is_stopped(kafka: Broker) -> None:
    paths = kafka.segments()
    (kafka.root / ".lock").touch()
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        await storage.run_cycle()
    assert not any(kafka.on_disk(path) for path in paths)


async def test_a_broker_that_starts_later_stops_all_unlinking(kafka: Broker) -> None:
    paths = kafka.segments()
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        with running_kafka(kafka.root):
            report = await storage.run_cycle()
            assert (report.copied, report.archived, report.failures) == (3, 0, [])
            await storage.archive_segment(paths[0])
            assert all(kafka.is_whole(path) for path in paths)
            assert (storage.status().broker.kind, storage.status().broker.running) == ("kafka", True)
        report = await storage.run_cycle()
        assert report.evicted == 3


async def test_the_lock_is_asked_before_each_unlink(kafka: Broker, at_point: AtPoint) -> None:
    path = kafka.segments(count=1)[0]
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        holder = running_kafka(kafka.root)
        seen = at_point("evict.begin", holder.__enter__)
        with pytest.raises(SegmentRefused, match="would fail"):
            await storage.archive_segment(path)
        assert seen
        assert kafka.is_whole(path)
        with pytest.raises(SegmentRefused, match="would fail"):
            await parts(storage).evictor.evict(await storage.prepare(), SegmentId.parse(path))
        holder.__exit__(None, None, None)
        assert storage.segment(path).state == State.COPIED


async def test_restored_segments_outlive_their_lease_beside_a_running_kafka(kafka: Broker) -> None:
    path = kafka.segments(count=1)[0]
    async with TieredStorage.open(settings_of(kafka, archive_mode="move", restore_lease_hours=0)) as storage:
        await storage.run_cycle()
        await storage.restore_segment(path)
        with running_kafka(kafka.root):
            await storage.run_cycle()
            assert kafka.is_whole(path)


async def test_a_new_disk_is_still_kafkas(kafka: Broker) -> None:
    kafka.segments()
    async with TieredStorage.open(settings_of(kafka)) as storage:
        await storage.run_cycle()
    (kafka.root / "meta.properties").unlink()
    async with TieredStorage.open(settings_of(kafka)) as storage:
        assert storage.status().mode == "copy"


async def test_empty_indexes_that_a_broker_made_fail_no_cycle(kafka: Broker) -> None:
    path = kafka.segments(count=1)[0]
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        await storage.run_cycle()
        index = kafka.root / path.replace(".log", ".index")
        index.touch()
        os.truncate(index, 10 << 20)
        report = await storage.run_cycle()
        assert not report.failures
        assert index.exists()
        await storage.restore_segment(path)
    assert kafka.is_whole(path)


TOPIC_IDS = ("1HPDq9KPTmqeRsGSyBUSuA", "2HPDq9KPTmqeRsGSyBUSuB")


def give_topic_id(broker: Broker, topic_id: str) -> None:
    (broker.root / "orders-0/partition.metadata").write_text(f"version: 0\ntopic_id: {topic_id}")


def make_anew(broker: Broker) -> None:
    shutil.rmtree(broker.root / "orders-0")
    broker.next_offset.clear()


async def test_a_restore_mixes_no_two_topics_of_one_name(kafka: Broker) -> None:
    old = kafka.segments(count=3)
    give_topic_id(kafka, TOPIC_IDS[0])
    async with TieredStorage.open(settings_of(kafka, archive_mode="copy")) as storage:
        await storage.run_cycle()
        make_anew(kafka)
        kafka.segments(count=1, size=1_000)
        give_topic_id(kafka, TOPIC_IDS[1])
        await storage.run_cycle()
        with pytest.raises(SegmentConflict, match=f"{TOPIC_IDS[0]}.*{TOPIC_IDS[1]}"):
            await storage.restore_segment(old[2], topic_id=TOPIC_IDS[0])
        with pytest.raises(SegmentNotFound, match=f"--topic-id {TOPIC_IDS[0]}"):
            await storage.restore_segment(old[2])
    assert kafka.on_disk(old[2]) == []


async def test_a_restore_overlaps_nothing_and_stands_not_above_the_active_segment(kafka: Broker) -> None:
    """Without topic IDs the offsets tell."""
    old = kafka.segments(count=3)
    async with TieredStorage.open(settings_of(kafka, archive_mode="copy")) as storage:
        await storage.run_cycle()
        make_anew(kafka)
        first = kafka.segment(size=30_000)
        with pytest.raises(SegmentConflict, match=rf"overlaps {first}|above {first}"):
            await storage.restore_segment(old[1])
        active = kafka.segment()
        with pytest.raises(SegmentConflict, match=r"above|overlaps"):
            await storage.restore_segment(old[2])
        report = await storage.run_cycle()
        assert active not in {path for path, _ in report.failures}
    assert kafka.is_whole(active)


async def test_a_truncated_branch_is_not_restored(kafka: Broker) -> None:
    old = kafka.segments(count=2, size=2_000)
    epochs = struct.pack(">i", 0)
    for path in old:
        log = bytearray(kafka.files[path])
        at = 0
        while at < len(log):
            log[at + 12 : at + 16] = epochs
            at += 12 + int.from_bytes(log[at + 8 : at + 12])
        kafka.overwrite(path, bytes(log))
    async with TieredStorage.open(settings_of(kafka, archive_mode="copy")) as storage:
        await storage.run_cycle()
        for name in kafka.triple(old[0]):
            (kafka.root / name).unlink()
        (kafka.root / "orders-0/leader-epoch-checkpoint").write_text("0\n2\n0 0\n1 10\n")
        with pytest.raises(SegmentConflict, match="truncated"):
            await storage.restore_segment(old[0])
        (kafka.root / "orders-0/leader-epoch-checkpoint").write_text("0\n1\n0 0\n")
        await storage.restore_segment(old[0])
    assert kafka.is_whole(old[0])


async def test_a_new_machine_gets_what_kafka_knows_a_partition_by(kafka: Broker, tmp_path: Path) -> None:
    paths = kafka.segments(count=3)
    give_topic_id(kafka, TOPIC_IDS[0])
    settings = settings_of(kafka, archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    shutil.rmtree(kafka.root)
    shutil.rmtree(settings.state_dir)
    kafka.root.mkdir()
    async with TieredStorage.open(settings_of(kafka)) as storage:
        await storage.rebuild()
        # In the order in which nobody asks for them.
        await storage.restore_segment(paths[2])
        with pytest.raises(SegmentRefused, match="would skip this gap"):
            await storage.restore_segment(paths[0])
        await storage.restore_segment(paths[0], force=True)
        await storage.restore_segment(paths[1])
        assert storage.status().mode == "copy"
    assert all(kafka.is_whole(path) for path in paths)
    assert (kafka.root / "orders-0/partition.metadata").read_text() == f"version: 0\ntopic_id: {TOPIC_IDS[0]}"


async def test_what_an_earlier_release_meant_to_remove_stays(kafka: Broker) -> None:
    """Its intents name objects that a later generation took the place of."""
    (path,) = kafka.segments(count=1)
    async with TieredStorage.open(settings_of(kafka, archive_mode="copy")) as storage:
        await storage.run_cycle()
        first = kafka.files[path]
        kafka.overwrite(path, first[:-50])
        await storage.run_cycle()
        await storage.run_cycle()
        identity = SegmentId.parse(path)
        sha256 = hashlib.sha256(first).hexdigest()
        parts(storage).catalog.intend([Intent(path, identity, len(first), sha256, 0, 1.0)])
        await storage.run_cycle()
        assert parts(storage).catalog.intents() == []
    assert (kafka.root.parent / "store" / path).read_bytes() == first


async def test_move_leaves_no_gap_above_a_segment_that_stays(kafka: Broker) -> None:
    """Restored segments stay for their lease, and so does what is above them."""
    old = kafka.segments(count=3)
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        await storage.run_cycle()
        for path in reversed(old):
            await storage.restore_segment(path)
        new = [kafka.segment() for _ in range(3)]
        for _ in range(2):
            report = await storage.run_cycle()
            assert not report.failures
        assert all(kafka.is_whole(path) for path in [*old, *new])
        plan = {step.id.path: step for step in (await storage.plan()).steps}
        assert plan[new[0]].reason_code == "gap"
        assert storage.segment(new[0]).archived_at is not None
        with pytest.raises(SegmentRefused, match="a lower one does"):
            await parts(storage).evictor.evict(await storage.prepare(), SegmentId.parse(new[0]))
        (found,) = await storage.partitions()
        assert len(found.local) == 1
        # Their lease ends: all of it goes, from the lowest up.
        for path in old:
            await storage.restore_segment(path, lease=0)
        report = await storage.run_cycle()
        assert not report.failures
        assert not any(kafka.on_disk(path) for path in [*old, *new[:-1]])


async def test_a_quarantined_segment_stops_the_restore_of_what_is_below(kafka: Broker) -> None:
    paths = kafka.segments(count=3)
    store = kafka.root.parent / "store"
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        await storage.run_cycle()
        (store / paths[1]).write_bytes(b"damaged")
        await storage.scrub_segment(paths[1])
        with pytest.raises(SegmentRefused, match="gap"):
            await storage.restore_segment(paths[1])
        choice = await storage.choose_restore(Wanted(("orders-0",)))
        assert not choice.segments
        assert f"--offsets {SegmentId.parse(paths[2]).base_offset}-" in choice.problems[0]


async def test_an_archive_without_topic_ids_is_no_stray_log(kafka: Broker) -> None:
    """Of a release that archived none: on an empty disk Kafka would not know the partition."""
    (path,) = kafka.segments(count=1)
    async with TieredStorage.open(settings_of(kafka, archive_mode="move")) as storage:
        await storage.run_cycle()
        manifest = kafka.root.parent / "store" / path.replace(".log", ".manifest.json")
        document = json.loads(manifest.read_text())
        del document["crc32c"]
        manifest.write_text(json.dumps({**document, "version": 1, "topic_id": ""}))
        shutil.rmtree(kafka.root / "orders-0")
        with pytest.raises(SegmentRefused, match=r"partition\.metadata first"):
            await storage.restore_segment(path)
        (kafka.root / "orders-0").mkdir()
        give_topic_id(kafka, TOPIC_IDS[0])
        await storage.restore_segment(path)
    assert kafka.is_whole(path)


def test_by_hand_all_that_was_chosen_leaves_a_kafka_that_is_stopped(kafka: Broker) -> None:
    """Many go at once, and none leaves before those below it."""
    paths = kafka.segments("orders-0", 9)
    settings = settings_of(kafka, archive_mode="move")
    ended = command(settings, "archive", "orders-0")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"{len(paths)} segments archived, 0 failed" in ended.stdout
    assert "still on the disk" not in ended.stdout
    assert not any((kafka.root / path).exists() for path in paths)


def test_by_hand_what_stays_on_the_disk_is_told(kafka: Broker) -> None:
    paths = kafka.segments("orders-0", 3)
    ended = command(settings_of(kafka, archive_mode="move"), "archive", paths[2])
    assert ended.returncode == 0
    assert (kafka.root / paths[2]).exists()
    told = " ".join(ended.stdout.split())
    assert f"1 segment archived, and still on the disk too, as {paths[2]}: a lower segment" in told
