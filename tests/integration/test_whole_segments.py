"""The transaction index and the producer snapshot are proven, scrubbed, cleaned up and brought back like the triple."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from takhin_tiered import ObjectCorrupt, ObjectMissing, TieredStorage
from tests.support import KINDS, AtPoint, Broker, Bucket, command, parts, store_settings

ADDED = ("txnindex", "snapshot")


class Stopped(BaseException):
    """Stands for a process that ends here: nothing in the program catches it."""


def stop() -> None:
    raise Stopped


@pytest.fixture
def broker(broker: Broker) -> Broker:
    broker.transactional = True
    return broker


def of_kind(path: str, kind: str) -> str:
    return path.replace(".log", f".{kind}")


def flip(bucket: Bucket, key: str) -> bytes:
    content = bytearray(bucket.read(key))
    content[len(content) // 2] ^= 1
    bucket.write(key, bytes(content))
    return bytes(content)


def files_of(bucket: Bucket, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bucket.read(path.replace(".log", ".manifest.json")))["files"]
    return found


@pytest.mark.parametrize("kind", ADDED)
async def test_a_scrub_finds_a_damaged_object_and_heals_it_from_the_disk(
    broker: Broker, bucket: Bucket, kind: str
) -> None:
    bad, good = broker.segments("orders-0", 2)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        await storage.run_cycle()
        damaged = flip(bucket, of_kind(bad, kind))
        assert [v.id.path for v in [v async for v in storage.verify(deep=True)] if v.problem] == [bad]
        verdict = await storage.scrub_segment(bad)
        assert (of_kind(bad, kind) in verdict.problem, verdict.healed) == (True, True)
        assert (await storage.scrub_segment(bad)).problem == ""
        assert (await storage.scrub_segment(good)).problem == ""
        assert storage.status().quarantined_segments == 0
    entry = files_of(bucket, bad)[kind]
    assert entry["key"] != of_kind(bad, kind)
    assert bucket.read(entry["key"]) == broker.files[of_kind(bad, kind)]
    # What was superseded is kept as it is.
    assert bucket.read(of_kind(bad, kind)) == damaged


@pytest.mark.parametrize("kind", ADDED)
async def test_a_scrub_quarantines_what_the_disk_cannot_heal(broker: Broker, bucket: Bucket, kind: str) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        flip(bucket, of_kind(path, kind))
        assert not (await storage.scrub_segment(path)).healed
        assert storage.status().quarantined_segments == 1
        with pytest.raises(ObjectCorrupt, match=of_kind(path, kind)):
            await storage.restore_segment(path)
    assert broker.on_disk(path) == []


@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("harm", ["gone", "other bytes"])
async def test_nothing_is_unlinked_while_the_object_is_not_proven(
    broker: Broker, bucket: Bucket, kind: str, harm: str
) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        await storage.run_cycle()
    if harm == "gone":
        bucket.delete(of_kind(path, kind))
    else:
        flip(bucket, of_kind(path, kind))
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        report = await storage.run_cycle()
        assert [failed for failed, _ in report.failures] == [path]
        assert of_kind(path, kind) in report.failures[0][1]
        assert broker.is_whole(path)
        # The disk had the last whole copy: it is archived again, and only then unlinked.
        assert (await storage.run_cycle()).failures == []
        assert [verdict.problem async for verdict in storage.verify(deep=True)] == [""]
    assert broker.on_disk(path) == []


async def test_orphans_of_a_broken_archive_are_removed(broker: Broker, bucket: Bucket, at_point: AtPoint) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = store_settings(broker, bucket)
    at_point("archive.before.manifest", stop)
    async with TieredStorage.open(settings) as storage:

        async def fails(keys: object) -> None:
            raise Stopped(str(keys))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts(storage).store, "delete", fails)
            with pytest.raises(Stopped):
                await storage.run_cycle()
    assert set(bucket.keys()) == {of_kind(path, kind) for kind in KINDS}
    for kind in KINDS:
        (broker.root / of_kind(path, kind)).unlink()
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        assert parts(storage).catalog.intents() == []
    assert bucket.keys() == []


async def test_rebuild_and_restore_bring_all_of_it_back(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments("orders-0", 3)
    settings = store_settings(broker, bucket)
    names = [name for path in closed for name in broker.triple(path)]
    assert len(names) == 3 * len(KINDS)
    before = {name: (broker.files[name], (broker.root / name).stat().st_mtime_ns) for name in names}
    async with TieredStorage.open(settings) as storage:
        assert (await storage.run_cycle()).archived == 3
    shutil.rmtree(broker.root)
    shutil.rmtree(settings.state_dir)
    broker.root.mkdir()
    for arguments in (["rebuild"], ["restore", "*"]):
        ended = command(settings, *arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
    found = {name: ((broker.root / name).read_bytes(), (broker.root / name).stat().st_mtime_ns) for name in names}
    assert found == before


@pytest.mark.parametrize("kind", ADDED)
async def test_a_restore_without_the_object_leaves_nothing_behind(broker: Broker, bucket: Bucket, kind: str) -> None:
    (path,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        bucket.delete(of_kind(path, kind))
        with pytest.raises(ObjectMissing, match=of_kind(path, kind)):
            await storage.restore_segment(path)
    assert broker.on_disk(path) == []
