"""Archive and evict, through the façade, on a real S3 server."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import (
    SegmentActive,
    SegmentChanged,
    SegmentNotFound,
    SegmentRefused,
    StoreUnavailable,
    TieredStorage,
)
from tests.support import (
    HOUR,
    WARM,
    AtPoint,
    Broker,
    Bucket,
    directory_settings,
    free_port,
    parts,
    sha256,
    store_settings,
)


async def test_a_cycle_moves_closed_cold_segments_and_nothing_else(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 3) + broker.segments("my.dashed-topic-name-12", 2)
    warm = broker.segment("fresh-0", age_hours=WARM)
    active = broker.segment("fresh-0", age_hours=WARM)
    for name in ("orders-0/00000000000000099999.snapshot", "orders-0/leader-epoch-checkpoint", "orders-0/junk.log"):
        (broker.root / name).write_bytes(b"not ours")
    (broker.root / "audit").mkdir()
    (broker.root / "audit/audit.log").write_bytes(b"not ours")
    before = {path: path.read_bytes() for path in broker.root.rglob("*") if path.is_file()}

    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        report = await storage.run_cycle()

    assert (report.archived, report.failures) == (len(closed), [])
    for path in closed:
        assert broker.on_disk(path) == []
        for name in broker.triple(path):
            assert bucket.read(name) == broker.files[name]
        manifest = json.loads(bucket.read(path.replace(".log", ".manifest.json")))
        assert manifest["segment"] == path
        assert {kind: entry["sha256"] for kind, entry in manifest["files"].items()} == {
            name.rsplit(".")[-1]: sha256(broker.files[name]) for name in broker.triple(path)
        }
    assert broker.is_whole(warm)
    assert broker.is_whole(active)
    moved = {broker.root / name for path in closed for name in broker.triple(path)}
    left = {path: path.read_bytes() for path in before if path not in moved}
    assert left == {path: content for path, content in before.items() if path not in moved}
    assert len(bucket.keys()) == 4 * len(closed)


async def test_a_segment_is_archived_evicted_and_restored_with_all_that_belongs_to_it(
    broker: Broker, bucket: Bucket
) -> None:
    (path,) = broker.segments("orders-0", 1)
    (broker.root / "orders-0/partition.metadata").write_text("version: 0\ntopic_id: 1HPDq9KPTmqeRsGSyBUSuA")
    for kind, content in (("txnindex", bytes(34)), ("snapshot", b"producers")):
        broker.files[path.replace(".log", f".{kind}")] = content
        broker.overwrite(path.replace(".log", f".{kind}"), content)
    names = [path.replace(".log", f".{kind}") for kind in ("log", "index", "timeindex", "txnindex", "snapshot")]
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        assert not any((broker.root / name).exists() for name in names)
        assert all(bucket.read(name) == broker.files[name] for name in names)
        manifest = json.loads(bucket.read(path.replace(".log", ".manifest.json")))
        assert list(manifest["files"]) == ["log", "index", "timeindex", "txnindex", "snapshot"]
        assert (manifest["version"], manifest["topic_id"]) == (2, "1HPDq9KPTmqeRsGSyBUSuA")
        await storage.restore_segment(path)
    assert all((broker.root / name).read_bytes() == broker.files[name] for name in names)


async def test_the_manifest_tells_what_a_kafka_log_holds(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    manifest = json.loads(bucket.read(path.replace(".log", ".manifest.json")))
    assert manifest["format"] == "kafka"
    assert manifest["first_offset"] == 0
    assert manifest["last_offset"] == int(broker.segment("orders-0")[-24:-4]) // 2 - 1
    assert manifest["first_timestamp"] == 1_700_000_000_000
    assert manifest["last_timestamp"] == 1_700_000_000_000 + manifest["last_offset"]


async def test_the_active_segment_is_never_touched_however_old(broker: Broker, bucket: Bucket) -> None:
    only = broker.segment("quiet-0", age_hours=10_000)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        report = await storage.run_cycle()
        assert report.planned == 0
        with pytest.raises(SegmentActive):
            await storage.archive_segment(only)
    assert broker.is_whole(only)
    assert bucket.keys() == []


async def test_a_segment_becomes_active_again_when_the_broker_truncates(broker: Broker, bucket: Bucket) -> None:
    closed, active = broker.segment("orders-0", age_hours=1), broker.segment("orders-0", age_hours=1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        for name in broker.triple(active):
            (broker.root / name).unlink()
        with pytest.raises(SegmentActive):
            await storage.archive_segment(closed)
    assert broker.is_whole(closed)


async def test_a_segment_that_grew_since_the_scan_is_kept(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        plan = await storage.plan()
        assert [step.verb for step in plan.work] == ["archive"]
        broker.append(path)
        os.utime(broker.root / path, (time.time() - 300 * HOUR,) * 2)
        plan = await storage.plan()
        assert plan.work == ()
        assert "changed since the last scan" in {step.reason for step in plan.steps}
    assert broker.is_whole(path)
    assert bucket.keys() == []


@pytest.mark.parametrize(
    "point", ["archive.log.stored", "archive.timeindex.stored", "archive.before.manifest", "archive.committed"]
)
async def test_a_segment_that_grows_during_the_archive_keeps_its_file_and_its_new_bytes(
    broker: Broker, bucket: Bucket, at_point: AtPoint, point: str
) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        at_point(point, lambda: broker.append(path))
        report = await storage.run_cycle()
        assert [failed for failed, _ in report.failures] == [path]
        assert broker.is_whole(path)
        # The next cycles see it standing still, and archive all of it.
        os.utime(broker.root / path, (time.time() - 300 * HOUR,) * 2)
        await storage.run_cycle()
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
        assert broker.on_disk(path) == []
        await storage.restore_segment(path)
    assert broker.is_whole(path)


async def test_a_file_replaced_by_another_of_the_same_size_is_not_unlinked(
    broker: Broker, bucket: Bucket, at_point: AtPoint
) -> None:
    (path,) = broker.segments("orders-0", 1)
    other = broker.files[path][::-1]

    def replace() -> None:
        file = broker.root / path
        times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
        temp = file.with_suffix(".swap")
        temp.write_bytes(other)
        os.utime(temp, ns=times)
        temp.rename(file)

    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        at_point("evict.begin", replace)
        report = await storage.run_cycle()
    assert len(report.failures) == 1
    assert (broker.root / path).read_bytes() == other


async def test_a_missing_index_is_archived_and_restored_as_missing(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    index = path.replace(".log", ".index")
    (broker.root / index).unlink()
    del broker.files[index]
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        assert index not in set(bucket.keys())
        await storage.restore_segment(path)
    assert not (broker.root / index).exists()
    assert broker.is_whole(path)


async def test_archiving_twice_succeeds_and_uploads_once(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.archive_segment(path)
        uploaded = storage.metrics.uploaded._value.get()
        info = await storage.archive_segment(path)
        assert info.is_archived
        assert storage.metrics.uploaded._value.get() == uploaded


async def test_the_same_bytes_left_by_a_broken_archive_are_not_uploaded_again(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        await storage.run_cycle()
    bucket.delete(path.replace(".log", ".manifest.json"))
    settings = store_settings(broker, bucket, state_path=broker.root.parent / "another-state")
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
        assert storage.metrics.uploaded._value.get() == 0
    assert broker.on_disk(path) == []


async def test_an_archived_object_is_never_overwritten_by_other_bytes(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        bucket.write(path, b"somebody else's bytes, with no manifest")
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
        assert bucket.read(path) == b"somebody else's bytes, with no manifest"
        await storage.restore_segment(path)
    assert broker.is_whole(path)


async def test_a_segment_rewritten_after_it_was_copied_gets_a_new_generation(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        await storage.run_cycle()
        broker.append(path, b"x" * 100)
        os.utime(broker.root / path, (time.time() - 300 * HOUR,) * 2)
        await storage.run_cycle()
        report = await storage.run_cycle()
        assert (report.copied, report.failures) == (1, [])
        assert storage.segment(path).generation == 2
    manifest = json.loads(bucket.read(path.replace(".log", ".manifest.json")))
    assert bucket.read(manifest["files"]["log"]["key"]) == broker.files[path]
    # The first one may be the only copy of its records: it stays, and its manifest says what it is.
    first = json.loads(bucket.read(path.replace(".log", ".g1.manifest.json")))
    assert bucket.read(first["files"]["log"]["key"]) == broker.files[path][:-100]
    named = {entry["key"] for each in (manifest, first) for entry in each["files"].values()}
    manifests = {path.replace(".log", ".manifest.json"), path.replace(".log", ".g1.manifest.json")}
    assert set(bucket.keys()) == named | manifests
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        assert storage.status().superseded_generations == 1
        assert (await storage.rebuild()).superseded == 1


async def test_copy_mode_keeps_every_local_file_and_a_deleted_segment_is_archived(
    broker: Broker, bucket: Bucket
) -> None:
    first, second = broker.segments("orders-0", 2)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        report = await storage.run_cycle()
        assert (report.copied, report.bytes_freed) == (2, 0)
        assert broker.is_whole(first)
        for name in broker.triple(first):
            (broker.root / name).unlink()
        report = await storage.run_cycle()
        assert report.planned == 0
        assert storage.segment(first).state == "archived"
        assert storage.segment(second).state == "copied"
        await storage.restore_segment(first)
    assert broker.is_whole(first)


async def test_not_enabled_moves_nothing(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, enabled=False)) as storage:
        report = await storage.run_cycle()
        assert report.planned == 0
        with pytest.raises(SegmentRefused, match="not enabled"):
            await storage.archive_segment(path)
        assert storage.stats().cold_segments == 1
    assert broker.is_whole(path)
    assert bucket.keys() == []


async def test_topics_left_out_are_not_moved(broker: Broker, bucket: Bucket) -> None:
    internal = broker.segments("__consumer_offsets-0", 1) + broker.segments("private-0", 1)
    moved = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket, topics_exclude=("__*", "priv*"))
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        with pytest.raises(SegmentRefused, match="leaves topic private out"):
            await storage.archive_segment(internal[1])
    assert all(broker.is_whole(path) for path in internal)
    assert broker.on_disk(moved[0]) == []


async def test_one_bad_segment_does_not_stop_the_others(broker: Broker, bucket: Bucket) -> None:
    bad, *good = broker.segments("orders-0", 4)
    # Another generation of it is committed, by a program of a later version.
    bucket.write("takhin-tiered.store.json", b'{"id": "known"}')
    bucket.write(bad, b"x")
    bucket.write(bad.replace(".log", ".manifest.json"), b'{"version": 99}')
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        report = await storage.run_cycle()
        assert report.archived == 3
        assert [path for path, _ in report.failures] == [bad]
        assert "version 99" in report.failures[0][1]
        assert "version 99" in storage.segment(bad).problem
    assert broker.is_whole(bad)
    assert all(broker.on_disk(path) == [] for path in good)


async def test_a_large_segment_goes_in_parts_and_comes_back(broker: Broker, bucket: Bucket) -> None:
    path = broker.segment("big-0", size=1000)
    broker.segment("big-0")
    broker.overwrite(path, os.urandom(70 << 20))
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        manifest = json.loads(bucket.read(path.replace(".log", ".manifest.json")))
        assert manifest["files"]["log"]["part_size"] == 16 << 20
        assert manifest["files"]["log"]["sha256"].endswith("-5")
        assert bucket.uploads() == []
        await storage.restore_segment(path)
    assert broker.is_whole(path)


@pytest.mark.long
async def test_a_store_that_is_down_leaves_everything_on_disk(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 3)
    settings = store_settings(broker, bucket, s3_endpoint=f"http://127.0.0.1:{free_port()}")
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(StoreUnavailable):
            await storage.run_cycle()
        assert storage.stats().cold_segments == 3
        assert parts(storage).health.problem
    assert all(broker.is_whole(path) for path in closed)


async def test_a_segment_gone_before_its_turn_is_not_found(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        for name in broker.triple(path):
            (broker.root / name).unlink()
        with pytest.raises((SegmentNotFound, SegmentChanged)):
            await storage.archive_segment(path)
        await storage.plan()
        assert storage.stats().total_segments == 1
    assert bucket.keys() == []


async def test_the_archive_and_a_restore_of_one_segment_follow_one_another(broker: Broker, bucket: Bucket) -> None:
    (path,) = broker.segments("orders-0", 1, size=400_000)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        for _ in range(5):
            await storage.archive_segment(path)
            await asyncio.gather(*(storage.restore_segment(path) for _ in range(5)), storage.archive_segment(path))
            assert broker.is_whole(path) != storage.is_segment_archived(path)
        await storage.restore_segment(path)
    assert broker.is_whole(path)


async def test_a_directory_store_holds_the_same_objects(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    store = tmp_path / "store"
    async with TieredStorage.open(directory_settings(broker, store)) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        for path in closed:
            for name in broker.triple(path):
                assert (store / name).read_bytes() == broker.files[name]
        await storage.restore_segment(closed[0])
    assert broker.is_whole(closed[0])
    assert not list(store.glob(".takhin-tmp/*"))


async def test_a_segment_that_becomes_active_before_it_is_unlinked_stays(
    broker: Broker, bucket: Bucket, at_point: AtPoint
) -> None:
    """A follower truncates to this segment while it is uploaded: what the broker appends next goes here."""
    closed, active = broker.segment("orders-0"), broker.segment("orders-0")

    def truncate() -> None:
        for name in broker.triple(active):
            (broker.root / name).unlink()

    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        at_point("evict.begin", truncate)
        report = await storage.run_cycle()
        assert "became the active one" in report.failures[0][1]
    assert broker.is_whole(closed)


async def test_uploads_of_others_in_the_same_bucket_are_left_alone(broker: Broker, bucket: Bucket) -> None:
    broker.segments("orders-0", 1)
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="somebody/elses/backup.tar")
    async with TieredStorage.open(store_settings(broker, bucket, s3_prefix="")) as storage:
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
    assert bucket.uploads() == ["somebody/elses/backup.tar"]


async def test_what_a_broken_upload_left_of_a_file_that_changed_since_is_removed(
    broker: Broker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        store: Any = parts(storage).store
        put = store.put

        async def put_no_manifest(key: str, *arguments: Any, **named: Any) -> Any:
            if key.endswith(".manifest.json"):
                raise StoreUnavailable("made to fail")
            return await put(key, *arguments, **named)

        monkeypatch.setattr(store, "put", put_no_manifest)
        await storage.run_cycle()
        assert set(bucket.keys()) == set(broker.triple(path))
        monkeypatch.undo()
        broker.append(path, b"a compaction")
        os.utime(broker.root / path, (time.time() - 300 * HOUR,) * 2)
        for _ in range(3):
            await storage.run_cycle()
        assert storage.segment(path).is_archived
    manifest = path.replace(".log", ".manifest.json")
    files = json.loads(bucket.read(manifest))["files"]
    assert set(bucket.keys()) == {manifest, *(file["key"] for file in files.values())}
    assert bucket.read(files["log"]["key"]) == broker.files[path]


@pytest.mark.parametrize("store", ["directory", "s3"])
async def test_a_throttle_holds_both_ways(broker: Broker, bucket: Bucket, tmp_path: Path, store: str) -> None:
    closed = broker.segments("orders-0", 3, size=400_000)
    size = sum(len(broker.files[name]) for path in closed for name in broker.triple(path))
    limits = {"throttle_upload_mbps": 1.0, "throttle_download_mbps": 2.0}
    settings = (
        store_settings(broker, bucket, **limits)
        if store == "s3"
        else directory_settings(broker, tmp_path / "store", **limits)
    )
    async with TieredStorage.open(settings) as storage:
        begun = time.monotonic()
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (3, [])
        assert time.monotonic() - begun > size / 1e6 - 0.2
        begun = time.monotonic()
        await asyncio.gather(*(storage.restore_segment(path) for path in closed))
        assert time.monotonic() - begun > size / 2e6 - 0.2
    assert all(broker.is_whole(path) for path in closed)
