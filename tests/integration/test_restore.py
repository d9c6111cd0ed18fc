"""Restore, leases, the local cache, restarts, through the façade on a real S3 server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from takhin_tiered import (
    DiskFull,
    ObjectCorrupt,
    ObjectMissing,
    SegmentActive,
    SegmentConflict,
    SegmentNotFound,
    TieredStorage,
    Verb,
)
from takhin_tiered.segments.choice import Wanted
from tests.support import HOUR, WARM, Broker, Bucket, directory_settings, parts, pass_time, store_settings


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of the broker's, with its bytes and modification time."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and ".takhin-tiered" not in path.parts
    }


class Clock:
    """The time, moved on by hand."""

    def __init__(self, storage: TieredStorage) -> None:
        self.ahead = 0.0
        pass_time(storage, lambda: self.ahead)


async def test_everything_comes_back_byte_for_byte_with_its_time_and_mode(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 3) + broker.segments("a.b-c-7", 2)
    (broker.root / closed[0]).chmod(0o640)
    before = snapshot(broker.root)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        assert all(broker.on_disk(path) == [] for path in closed)
        for path in closed:
            await storage.restore_segment(path)
    assert snapshot(broker.root) == before
    assert (broker.root / closed[0]).stat().st_mode & 0o777 == 0o640


async def test_a_restart_knows_every_archived_segment(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 3)
    settings = store_settings(broker, bucket)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    async with TieredStorage.open(settings, scan=False) as storage:
        assert [info.segment_path for info in storage.segments() if info.is_archived] == closed
        await storage.restore_segment(closed[0])
    assert broker.is_whole(closed[0])


async def test_a_restored_segment_stays_for_its_lease_and_then_leaves_without_an_upload(
    broker: Broker, bucket: Bucket
) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, restore_lease_hours=5)) as storage:
        await storage.run_cycle()
        clock = Clock(storage)
        await storage.restore_segment(path)
        uploaded = storage.metrics.uploaded._value.get()
        clock.ahead = 4.9 * HOUR
        assert storage.segment_policy(path) == "hot"
        report = await storage.run_cycle()
        assert report.planned == 0
        assert broker.is_whole(path)
        clock.ahead = 5.1 * HOUR
        assert storage.segment_policy(path) == "cold"
        report = await storage.run_cycle()
        assert (report.evicted, report.failures) == (1, [])
        assert broker.on_disk(path) == []
        assert storage.metrics.uploaded._value.get() == uploaded


async def test_a_restored_segment_stays_over_a_restart(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        await storage.restore_segment(path, by="ann, for the audit")
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert report.planned == 0
        info = storage.segment(path)
        assert info.lease_by == "ann, for the audit"
        assert "by ann, for the audit, its lease ends in" in info.reason
    assert broker.is_whole(path)


async def test_restored_copies_that_outgrow_the_cache_leave_by_last_use(broker: Broker, bucket: Bucket) -> None:
    # By their age they would stay.
    closed = broker.segments("orders-0", 3, size=400_000, age_hours=WARM)
    settings = store_settings(broker, bucket, local_cache_size_mb=1)
    async with TieredStorage.open(settings) as storage:
        for path in closed:
            await storage.archive_segment(path)
        choice = await storage.choose_restore(Wanted(("*",)))
        assert "stay for their lease" in choice.warnings[0]
        clock = Clock(storage)
        for path in closed:
            clock.ahead += 10
            await storage.restore_segment(path, lease=60)
        # As long as their leases run, all of them stay.
        assert (await storage.plan()).work == ()
        await storage.run_cycle()
        assert all(broker.is_whole(path) for path in closed)
        clock.ahead += 100
        storage.update_access_time(closed[0])
        plan = await storage.plan()
        assert [(step.verb, step.id.path) for step in plan.work] == [(Verb.EVICT, closed[1])]
        await storage.run_cycle()
    assert [broker.is_whole(path) for path in closed] == [True, False, True]


async def test_ten_restores_at_once_share_one_download(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1, size=500_000)
    size = sum(len(broker.files[name]) for name in broker.triple(path))
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        await asyncio.gather(*(storage.restore_segment(path) for _ in range(10)))
        metrics = storage.metrics
        assert metrics.downloaded._value.get() == size
        assert (metrics.cache_misses._value.get(), metrics.cache_hits._value.get()) == (1, 9)
    assert broker.is_whole(path)


@pytest.mark.parametrize("kind", ["log", "index", "timeindex"])
@pytest.mark.parametrize("damage", ["flipped", "short", "long", "gone"])
async def test_a_damaged_object_is_refused_and_nothing_is_left_behind(
    broker: Broker, bucket: Bucket, kind: str, damage: str
) -> None:
    (path,) = broker.segments("orders-0", 1)
    key = path.replace(".log", f".{kind}")
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        before = snapshot(broker.root)
        content = bytearray(bucket.read(key))
        if damage == "gone":
            bucket.delete(key)
        else:
            content[len(content) // 2] ^= 1 if damage == "flipped" else 0
            bucket.write(key, bytes({"short": content[:-1], "long": content + b"x"}.get(damage, content)))
        with pytest.raises((ObjectCorrupt, ObjectMissing), match=key):
            await storage.restore_segment(path)
        assert snapshot(broker.root) == before
        assert storage.is_segment_archived(path)


async def test_other_bytes_on_disk_are_never_overwritten_by_a_restore(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        (broker.root / path).write_bytes(b"somebody put this here")
        with pytest.raises(SegmentConflict, match="other bytes"):
            await storage.restore_segment(path)
        await storage.plan()
    assert (broker.root / path).read_bytes() == b"somebody put this here"
    assert bucket.read(path) == broker.files[path]


async def test_the_same_bytes_on_disk_are_taken_for_the_restored_ones(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        for name in broker.triple(path):
            (broker.root / name).write_bytes(broker.files[name])
        await storage.restore_segment(path)
        assert storage.metrics.downloaded._value.get() == 0
        assert storage.segment(path).state == "copied"


async def test_what_was_never_archived_cannot_be_restored(broker: Broker, bucket: Bucket) -> None:
    closed, active = broker.segment("orders-0"), broker.segment("orders-0")
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        with pytest.raises(SegmentConflict, match="never archived"):
            await storage.restore_segment(closed)
        with pytest.raises(SegmentActive):
            await storage.restore_segment(active)
        with pytest.raises(SegmentNotFound):
            await storage.restore_segment("orders-0/00000000000000999999.log")
        with pytest.raises(SegmentNotFound):
            await storage.restore_segment("nothing-0/00000000000000000000.log")
    assert not (broker.root / "nothing-0").exists()


async def test_a_restore_that_does_not_fit_is_refused_before_it_begins(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        parts(storage).data_dir.held.update(dict.fromkeys(parts(storage).data_dir.free_by_device(), 1 << 62))
        with pytest.raises(DiskFull, match="whole in the archive"):
            await storage.restore_segment(path)
        assert storage.metrics.downloaded._value.get() == 0
    assert broker.on_disk(path) == []


async def test_unfinished_files_of_a_killed_restore_are_removed(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    left = broker.root / (path + ".takhin-tmp")
    left.write_bytes(b"half a segment")
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    assert not left.exists()


async def test_an_interrupted_evict_is_finished(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket, archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    (broker.root / path).unlink()
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        report = await storage.run_cycle()
        assert (report.evicted, report.failures) == (1, [])
        assert broker.on_disk(path) == []
        await storage.restore_segment(path)
    assert broker.is_whole(path)


async def test_nothing_is_evicted_that_the_archive_has_lost(broker: Broker, bucket: Bucket) -> None:
    """A copy is on disk, its lease ends, and meanwhile somebody emptied the bucket."""
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, restore_lease_hours=0)) as storage:
        await storage.run_cycle()
        await storage.restore_segment(path)
        bucket.delete(path)
        report = await storage.run_cycle()
        assert [failed for failed, _ in report.failures] == [path]
        assert broker.is_whole(path)
        # And it is archived again from the disk.
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
        assert bucket.read(json.loads(bucket.read(path.replace(".log", ".manifest.json")))["files"]["log"]["key"])
        await storage.restore_segment(path)
    assert broker.is_whole(path)


async def test_a_new_machine_learns_the_archive_from_the_bucket(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("topic-1", 2) + broker.segments("topic-10", 2)
    before = snapshot(broker.root)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    active = snapshot(broker.root)
    shutil.rmtree(broker.root)
    broker.root.mkdir()
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        assert [info.segment_path for info in storage.segments(topic="topic")] == closed
        for path in closed:
            await storage.restore_segment(path)
    assert snapshot(broker.root) == {name: was for name, was in before.items() if name not in active}


async def test_a_directory_store_that_is_not_mounted_is_no_reason_to_lose_anything(
    broker: Broker, tmp_path: Path
) -> None:
    (path,) = broker.segments("orders-0", 1)
    store = tmp_path / "store"
    settings = directory_settings(broker, store)
    os.rmdir(store)
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(Exception, match="is not there"):
            await storage.run_cycle()
        assert broker.is_whole(path)
        store.mkdir()
        report = await storage.run_cycle()
        assert report.archived == 1
