"""Warm copies: uploaded early, and nothing is left to upload when the segment is cold, or when the disk is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from takhin_tiered import TieredStorage
from tests.faults.proxy import Proxy, proxy
from tests.support import HOUR, WARM, Broker, Bucket, directory_settings, pass_time, store_settings

pytestmark = pytest.mark.long

UPLOADS = ("PUT", "POST")


def uploads(between: Proxy, segment: str) -> list[tuple[str, str]]:
    stem = segment.removesuffix(".log")
    return [(method, target) for method, target in between.seen if method in UPLOADS and stem in target]


async def test_what_was_copied_goes_cold_without_an_upload(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments(count=3, age_hours=WARM)
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(broker, bucket, s3_endpoint=between.endpoint, warm_copy=True)
        async with TieredStorage.open(settings) as storage:
            report = await storage.run_cycle()
            assert (report.copied, report.archived, report.evicted, report.bytes_freed) == (3, 0, 0, 0)
            assert all(uploads(between, path) for path in closed)
            assert all(broker.is_whole(path) for path in closed)
            assert all(bucket.read(name) == broker.files[name] for path in closed for name in broker.triple(path))
            assert {storage.segment(path).reason_code for path in closed} == {"warm"}
            assert (await storage.run_cycle()).planned == 0
            between.seen.clear()
            pass_time(storage, lambda: 100 * HOUR)
            report = await storage.run_cycle()
            assert (report.copied, report.archived, report.evicted) == (0, 0, 3)
            assert [uploads(between, path) for path in closed] == [[], [], []]
            # Proven before they were unlinked.
            for path in closed:
                stem = path.removesuffix(".log")
                heads = [target for method, target in between.seen if method == "HEAD" and stem in target]
                assert len(heads) >= len(broker.triple(path))
                assert not broker.on_disk(path)


async def test_with_the_data_directory_lost_all_warm_and_cold_segments_restore(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    warm, cold = broker.segments("warm-0", 3, age_hours=WARM), broker.segments("cold-0", 3)
    settings = store_settings(broker, bucket, warm_copy=True)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    assert all(broker.is_whole(path) for path in warm)
    shutil.rmtree(broker.root)
    shutil.rmtree(settings.state_dir)
    broker.root.mkdir()
    async with TieredStorage.open(store_settings(broker, bucket, warm_copy=True)) as storage:
        for path in (*warm, *cold):
            await storage.restore_segment(path)
    assert all(broker.is_whole(path) for path in (*warm, *cold))


async def test_what_changed_after_its_copy_is_archived_anew_and_never_lost(broker: Broker, tmp_path: Path) -> None:
    changed, same = broker.segments(count=2, age_hours=WARM)
    settings = directory_settings(broker, tmp_path / "store", warm_copy=True)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        before = broker.files[changed]
        broker.append(changed)
        modified = os.stat(broker.root / same).st_mtime - 1
        os.utime(broker.root / changed, (modified, modified))
        # Once to see that it has settled.
        await storage.run_cycle()
        report = await storage.run_cycle()
        assert (report.copied, report.evicted) == (1, 0)
        assert storage.segment(changed).generation == 2
        pass_time(storage, lambda: 100 * HOUR)
        assert (await storage.run_cycle()).evicted == 2
        await storage.restore_segment(changed)
    assert broker.is_whole(changed)
    assert any(file.read_bytes() == before for file in (tmp_path / "store").rglob("*.log"))


@pytest.mark.parametrize("lost", ["log", "manifest.json"])
async def test_a_copy_that_is_gone_keeps_the_files_on_the_disk(broker: Broker, bucket: Bucket, lost: str) -> None:
    [path] = broker.segments(count=1, age_hours=WARM)
    async with TieredStorage.open(store_settings(broker, bucket, warm_copy=True)) as storage:
        await storage.run_cycle()
        bucket.delete(path.removesuffix("log") + lost)
        pass_time(storage, lambda: 100 * HOUR)
        await storage.run_cycle()
        assert broker.is_whole(path)
        # What was gone is stored again, and only then the files leave the disk.
        report = await storage.run_cycle()
        assert (report.archived, report.evicted) == (1, 1)
        await storage.restore_segment(path)
    assert broker.is_whole(path)
