"""What keeps an archive sound: orphans, reconcile, rebuild, scrub, retention, damaged input."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from takhin_tiered import ObjectCorrupt, Settings, TieredStorage
from takhin_tiered.pace import Pace
from tests.support import HOUR, AtPoint, Broker, Bucket, command, daemon, parts, store_settings

pytestmark = pytest.mark.long


class Stopped(BaseException):
    """Stands for a process that ends here: nothing in the program catches it."""


def stop() -> None:
    raise Stopped


def manifest_of(bucket: Bucket, path: str) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = json.loads(bucket.read(path.replace(".log", ".manifest.json")))
    return found


def remove_locally(broker: Broker, path: str) -> None:
    for name in broker.triple(path):
        (broker.root / name).unlink()


async def test_objects_of_a_broken_archive_are_removed_when_the_broker_deletes_the_segment(
    broker: Broker, bucket: Bucket, at_point: AtPoint
) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket)
    await interrupted(settings, at_point)
    assert set(bucket.keys()) == set(broker.triple(path))
    remove_locally(broker, path)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        assert parts(storage).catalog.intents() == []
    assert bucket.keys() == []


async def interrupted(settings: Settings, at_point: AtPoint) -> None:
    """An archive whose objects are stored, and whose manifest is not; the attempt could not clean up."""
    at_point("archive.before.manifest", stop)
    async with TieredStorage.open(settings) as storage:

        async def fails(keys: object) -> None:
            raise Stopped(str(keys))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts(storage).store, "delete", fails)
            with pytest.raises(Stopped):
                await storage.run_cycle()


async def test_objects_of_a_broken_archive_are_taken_over_by_the_next(
    broker: Broker, bucket: Bucket, at_point: AtPoint
) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket)
    await interrupted(settings, at_point)
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
        assert storage.metrics.uploaded._value.get() == 0
        assert parts(storage).catalog.intents() == []
    assert len(bucket.keys()) == 4
    assert broker.on_disk(path) == []


async def test_objects_that_nobody_intended_are_never_removed(broker: Broker, bucket: Bucket) -> None:
    broker.segments("orders-0", 1)
    foreign = {"legacy-0/00000000000000000000.log": b"an older system's archive", "notes.txt": b"somebody's"}
    for key, content in foreign.items():
        bucket.write(key, content)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        for _ in range(3):
            await storage.run_cycle()
        result = await storage.rebuild()
        assert result.strays == 1
    assert {key: bucket.read(key) for key in foreign} == foreign


async def test_a_segment_lost_from_the_archive_is_told_and_never_dropped(broker: Broker, bucket: Bucket) -> None:
    lost, sound = broker.segments("orders-0", 2)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        for key in set(bucket.keys()):
            if key.startswith(lost.removesuffix(".log")):
                bucket.delete(key)
        result = await storage.reconcile()
        assert result.lost == [lost]
        assert storage.status().quarantined_segments == 1
        assert "gone from the archive" in storage.segment(lost).problem
        assert storage.segment(sound).problem == ""
        await storage.run_cycle()
        assert storage.segment(lost).is_archived


async def test_a_segment_lost_from_the_archive_is_archived_again_from_the_disk(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        await storage.run_cycle()
        bucket.delete(path)
        assert (await storage.reconcile()).lost == []
        report = await storage.run_cycle()
        assert (report.copied, report.failures) == (1, [])
    assert bucket.read(manifest_of(bucket, path)["files"]["log"]["key"]) == broker.files[path]


async def test_rebuild_and_restore_bring_everything_back_to_an_empty_machine(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("topic-1", 3) + broker.segments("topic-10", 3)
    settings = store_settings(broker, bucket)
    before = {
        name: (content, (broker.root / name).stat().st_mtime_ns)
        for path in closed
        for name in broker.triple(path)
        if (content := broker.files[name]) is not None
    }
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    shutil.rmtree(broker.root)
    shutil.rmtree(settings.state_dir)
    broker.root.mkdir()

    rebuilt = command(settings, "rebuild")
    assert (rebuilt.returncode, rebuilt.stderr) == (0, "")
    assert "6 archived segments added or updated" in rebuilt.stdout
    restored = command(settings, "restore", "*")
    assert (restored.returncode, restored.stderr) == (0, "")
    assert {
        name: ((broker.root / name).read_bytes(), (broker.root / name).stat().st_mtime_ns) for name in before
    } == before


async def test_one_flipped_byte_is_named_quarantined_and_never_restored(broker: Broker, bucket: Bucket) -> None:
    bad, good = broker.segments("orders-0", 2)
    settings = store_settings(broker, bucket)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        content = bytearray(bucket.read(bad))
        content[1234] ^= 1
        bucket.write(bad, bytes(content))
        await parts(storage).scrubber.scrub(await storage.prepare(), Pace(0))
        assert bad in storage.segment(bad).problem
        assert storage.segment(good).problem == ""
        assert storage.status().quarantined_segments == 1
        with pytest.raises(ObjectCorrupt, match=bad):
            await storage.restore_segment(bad)
        storage.update_metrics()
        assert b"tiered_storage_quarantined_segments 1.0" in storage.metrics.render()
    assert broker.on_disk(bad) == []
    verified = command(settings, "verify", "--deep")
    assert verified.returncode == 1
    assert f"BAD {bad}" in verified.stdout
    assert f"QUARANTINED {bad}" in verified.stdout
    assert good not in verified.stdout
    assert broker.on_disk(bad) == []


async def test_verify_deep_releases_a_quarantined_segment_whose_copy_is_sound_again(
    broker: Broker, bucket: Bucket
) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    whole = bucket.read(path)
    bucket.write(path, b"x" + whole[1:])
    assert command(settings, "verify", "--deep").returncode == 1
    assert path in command(settings, "ls", "--problem").stdout
    bucket.write(path, whole)
    verified = command(settings, "verify", "--deep")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert f"RELEASED {path}" in verified.stdout
    assert path not in command(settings, "ls", "--problem").stdout
    again = command(settings, "verify", "--deep")
    assert "RELEASED" not in again.stdout


@pytest.mark.parametrize("served", [False, True], ids=["alone", "daemon"])
async def test_verify_heals_a_bad_object_from_the_local_copy(
    broker: Broker, bucket: Bucket, tmp_path: Path, served: bool
) -> None:
    bad, good = broker.segments("orders-0", 2)
    settings = store_settings(broker, bucket, archive_mode="copy")
    assert command(settings, "run", "--once").returncode == 0
    content = bytearray(bucket.read(bad))
    content[1234] ^= 1
    bucket.write(bad, bytes(content))
    with ExitStack() as stack:
        if served:
            stack.enter_context(daemon(settings, tmp_path / "log")).wait_serving()
        found = command(settings, "verify", "--deep")
        assert (found.returncode, f"BAD {bad}" in found.stdout, f"HEALED {bad}" in found.stdout) == (1, True, True)
        assert good not in found.stdout
        again = command(settings, "verify", "--deep")
        assert (again.returncode, again.stderr) == (0, "")
    assert bucket.read(manifest_of(bucket, bad)["files"]["log"]["key"]) == broker.files[bad]
    assert broker.is_whole(bad)


async def test_a_bad_object_is_healed_from_the_local_copy(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        await storage.run_cycle()
        content = bytearray(bucket.read(path))
        content[99] ^= 1
        bucket.write(path, bytes(content))
        verdict = await storage.scrub_segment(path)
        assert verdict.healed
        assert storage.status().quarantined_segments == 0
        assert (await storage.scrub_segment(path)).problem == ""
    log = manifest_of(bucket, path)["files"]["log"]
    assert log["key"] != path
    assert bucket.read(log["key"]) == broker.files[path]
    # Kept like any other generation: what is damaged in it is not for a program to judge.
    assert bucket.read(path) == bytes(content)


@pytest.mark.parametrize("damage", ["crc", "tail"])
@pytest.mark.parametrize("mode", ["archive", "refuse"])
async def test_a_damaged_segment_never_stops_the_others(broker: Broker, bucket: Bucket, damage: str, mode: str) -> None:
    bad, *good = broker.segments("orders-0", 3)
    content = bytearray(broker.files[bad])
    if damage == "crc":
        content[len(content) // 2] ^= 1
    else:
        del content[-10:]
    broker.files[bad] = bytes(content)
    (broker.root / bad).write_bytes(content)
    os.utime(broker.root / bad, (time.time() - 300 * HOUR,) * 2)
    async with TieredStorage.open(store_settings(broker, bucket, archive_corrupt=mode)) as storage:
        report = await storage.run_cycle()
        assert all(broker.on_disk(path) == [] for path in good)
        assert storage.segment(bad).problem
        if mode == "refuse":
            assert [path for path, _ in report.failures] == [bad]
            assert broker.is_whole(bad)
            assert not [key for key in set(bucket.keys()) if key.startswith(bad[:-4])]
        else:
            assert report.failures == []
            assert bucket.read(bad) == bytes(content)
            assert json.loads(bucket.read(bad.replace(".log", ".manifest.json")))["problem"]
            await storage.restore_segment(bad)
            assert broker.is_whole(bad)


async def test_retention_removes_what_is_too_old_and_nothing_that_is_on_disk(broker: Broker, bucket: Bucket) -> None:
    old = broker.segment("orders-0", age_hours=1000)
    kept = broker.segment("orders-0", age_hours=300)
    other = broker.segment("audit-0", age_hours=1000)
    restored = broker.segment("orders-1", age_hours=1000)
    for partition in ("orders-0", "orders-1", "audit-0"):
        broker.segment(partition)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        await storage.restore_segment(restored)
    settings = store_settings(broker, bucket, retention_hours={"orders*": 500})
    async with TieredStorage.open(settings) as storage:
        plan = await storage.plan()
        assert [(step.verb, step.id.path) for step in plan.work] == [("expire", old)]
        report = await storage.run_cycle()
        assert (report.expired, report.failures) == (1, [])
        assert parts(storage).catalog.intents() == []
        assert [info.segment_path for info in storage.segments() if info.is_archived] == [other, kept]
    left = set(bucket.keys())
    assert not [key for key in left if key.startswith(old.removesuffix(".log"))]
    assert {path.replace(".log", ".manifest.json") for path in (kept, other, restored)} <= left


async def test_retention_by_bytes_keeps_the_newest(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 4)
    size = sum(len(broker.files[name]) for name in broker.triple(closed[3]))
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    active = len(broker.files["orders-0/" + max(broker.files).split("/")[1].split(".")[0] + ".log"])
    settings = store_settings(broker, bucket, retention_bytes=size + active)
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        left = [info.segment_path for info in storage.segments() if info.is_archived]
    assert left == closed[4 - len(left) :]
    assert 1 <= len(left) < 4


@pytest.mark.parametrize("point", ["expire.intended", "expire.manifest.deleted", "expire.objects.deleted"])
async def test_an_expire_that_is_killed_is_finished(
    broker: Broker, bucket: Bucket, at_point: AtPoint, point: str
) -> None:
    (path,) = broker.segments("orders-0", 1, age_hours=1000)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    settings = store_settings(broker, bucket, retention_hours=500)
    at_point(point, stop)
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(Stopped):
            await storage.run_cycle()
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        await storage.run_cycle()
        assert parts(storage).catalog.intents() == []
        assert [info.segment_path for info in storage.segments() if info.segment_path == path] == []
    assert bucket.keys() == []
