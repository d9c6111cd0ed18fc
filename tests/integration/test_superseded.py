"""`archive.superseded.keep.hours`: what a later generation took the place of leaves the archive in its time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.engine.merged import forget_compacted
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.vault.generations import superseded_of
from takhin_tiered.vault.proof import load_manifest
from tests.faults.truth import Folder, Store
from tests.support import HOUR, AtPoint, Broker, Bucket, daemon, directory_settings, parts, pass_time, store_settings

KEEP = 48 * HOUR


class Stopped(BaseException):
    """Stands for a process that ends here: nothing in the program catches it."""


def stop() -> None:
    raise Stopped


@dataclass
class World:
    broker: Broker
    settings: Callable[..., Settings]
    store: Store
    delete: Callable[[str], None]


@pytest.fixture(params=["directory", "s3"])
def world(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> World:
    """A data directory, and a store of each kind, in a mode that keeps local files."""

    def settings(**changes: Any) -> Settings:
        return store_settings(broker, request.getfixturevalue("bucket"), archive_mode="copy", **changes)

    def in_directory(**changes: Any) -> Settings:
        return directory_settings(broker, tmp_path / "store", archive_mode="copy", **changes)

    if request.param == "directory":
        return World(broker, in_directory, Folder(tmp_path / "store"), lambda key: (tmp_path / "store" / key).unlink())
    bucket: Bucket = request.getfixturevalue("bucket")
    return World(broker, settings, bucket, bucket.delete)


async def rewrite(storage: TieredStorage, broker: Broker, path: str) -> None:
    """Other bytes in a segment that is archived: the archive gets one generation more."""
    broker.append(path, b"x" * 100)
    os.utime(broker.root / path, (time.time() - 300 * HOUR,) * 2)
    await storage.run_cycle()
    report = await storage.run_cycle()
    assert (report.copied, report.failures) == (1, [])


async def rewritten(storage: TieredStorage, broker: Broker) -> str:
    """A segment with one superseded generation."""
    (path,) = broker.segments("orders-0", 1)
    await storage.run_cycle()
    await rewrite(storage, broker, path)
    return path


async def clean(storage: TieredStorage, *, hours_later: float = 49.0) -> int:
    """What the upkeep does, so much later."""
    pass_time(storage, lambda: hours_later * HOUR)
    owned = await storage.prepare()
    found = await storage.reconcile()
    return await parts(storage).superseded.remove(owned, found.rewritten, KEEP)


def named_by(store: Store, key: str) -> set[str]:
    return {entry["key"] for entry in json.loads(store.read(key))["files"].values()}


def manifest_key(path: str, generation: int | None = None) -> str:
    return path.replace(".log", f".g{generation}.manifest.json" if generation else ".manifest.json")


async def test_it_goes_when_its_time_is_over_and_not_before(world: World) -> None:
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
        before = world.store.keys()
        assert await clean(storage, hours_later=47) == 0
        assert world.store.keys() == before
        assert storage.status().superseded_generations == 1
        assert await clean(storage) == 1
        assert storage.status().superseded_generations == 0
        # Of the first generation the log is gone; the indexes are the second one's too.
        assert set(before) - set(world.store.keys()) == {path, manifest_key(path, 1)}
        assert named_by(world.store, manifest_key(path)) < set(world.store.keys())
        assert await clean(storage) == 0
        assert (await storage.rebuild()).superseded == 0
        assert [verdict.problem async for verdict in storage.verify(deep=True)] == [""]


async def test_what_another_generation_names_stays_until_that_one_goes(world: World) -> None:
    """The second generation names the first one's indexes. The third has indexes of its own."""
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
        index = path.replace(".log", ".index")
        world.broker.overwrite(index, bytes(8))
        await storage.run_cycle()
        pass_time(storage, lambda: 24 * HOUR)
        await rewrite(storage, world.broker, path)
        assert index in named_by(world.store, manifest_key(path, 2)) | named_by(world.store, manifest_key(path, 1))
        assert storage.status().superseded_generations == 2
        # The third was archived a day later: the second has been superseded for a day less.
        assert await clean(storage) == 1
        kept = named_by(world.store, manifest_key(path, 2))
        assert kept <= set(world.store.keys())
        assert await clean(storage, hours_later=80) == 1
        assert set(world.store.keys()) == named_by(world.store, manifest_key(path)) | {manifest_key(path)}


@pytest.mark.parametrize("harm", ["object gone", "object damaged", "manifest gone", "manifest damaged", "quarantined"])
async def test_while_the_current_generation_is_not_proven_it_stays(world: World, harm: str) -> None:
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
        current = named_by(world.store, manifest_key(path))
        (log,) = (key for key in current if key.endswith(".log"))
        if harm == "object gone":
            world.delete(log)
        elif harm == "object damaged":
            world.store.write(log, world.store.read(log)[:-1] + b"?")
        elif harm == "manifest gone":
            world.delete(manifest_key(path))
        elif harm == "manifest damaged":
            world.store.write(manifest_key(path), b"{}")
        else:
            index = path.replace(".log", ".index")
            world.broker.files.pop(index)
            (world.broker.root / path).unlink()
            whole = world.store.read(log)
            world.store.write(log, whole[:-1] + b"?")
            assert (await storage.scrub_segment(path)).problem
            world.store.write(log, whole)
        before = world.store.keys()
        assert await clean(storage) == 0
        assert world.store.keys() == before


async def test_what_cannot_be_read_of_it_is_left_alone(world: World) -> None:
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
        other = world.broker.segments("audit-0", 1)[0]
        await storage.run_cycle()
        await rewrite(storage, world.broker, other)
        world.store.write(manifest_key(path, 1), b"no manifest")
        assert await clean(storage) == 1
        assert {path, manifest_key(path, 1)} <= set(world.store.keys())
        assert other not in set(world.store.keys())
        assert storage.status().superseded_generations == 1


@pytest.mark.parametrize("later", [False, True])
async def test_a_manifest_of_a_generation_that_nothing_superseded_is_left_alone(world: World, later: bool) -> None:
    """It is written before the one that takes its place, which may never have come."""
    (path,) = world.broker.segments("orders-0", 1)
    async with TieredStorage.open(world.settings()) as storage:
        await storage.run_cycle()
        world.store.write(manifest_key(path, 1), world.store.read(manifest_key(path)))
        if later:
            # Left by a segment of that name that retention removed: its generations were counted from 1 again.
            document = json.loads(world.store.read(manifest_key(path)))
            world.store.write(manifest_key(path, 2), json.dumps({**document, "generation": 2}).encode())
        before = world.store.keys()
        assert await clean(storage, hours_later=10_000) == 0
        assert world.store.keys() == before


@pytest.mark.parametrize("point", ["superseded.proven", "superseded.objects.deleted", "superseded.manifest.deleted"])
async def test_a_removal_that_is_killed_is_finished_by_the_next(world: World, at_point: AtPoint, point: str) -> None:
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
        at_point(point, stop)
        with pytest.raises(Stopped):
            await clean(storage)
    async with TieredStorage.open(world.settings()) as storage:
        assert await clean(storage) == (point != "superseded.manifest.deleted")
        assert storage.status().superseded_generations == 0
        assert set(world.store.keys()) == named_by(world.store, manifest_key(path)) | {manifest_key(path)}
        assert [verdict.problem async for verdict in storage.verify(deep=True)] == [""]


async def test_what_stands_under_a_prefix_that_is_only_read_is_left_alone(broker: Broker, tmp_path: Path) -> None:
    async with TieredStorage.open(directory_settings(broker, tmp_path / "old", archive_mode="copy")) as storage:
        await rewritten(storage, broker)
    old = Folder(tmp_path / "old")
    before = old.keys()
    # A new daemon, over what an earlier one archived.
    changes = {"archive_mode": "copy", "s3_prefixes_read": ("old",), "state_path": tmp_path / "state"}
    settings = directory_settings(broker, tmp_path / "store", **changes)
    async with TieredStorage.open(settings) as storage:
        await storage.rebuild()
        assert await clean(storage, hours_later=10_000) == 0
        assert storage.status().superseded_generations == 1
    assert old.keys() == before


async def test_it_is_kept_for_ever_where_no_time_is_set(world: World) -> None:
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
        pass_time(storage, lambda: 100_000 * HOUR)
        assert await storage.remove_superseded((await storage.reconcile()).rewritten, 0) == 0
        assert {path, manifest_key(path, 1)} <= set(world.store.keys())


@pytest.mark.long
async def test_the_daemon_removes_it_at_its_reconcile(world: World, tmp_path: Path) -> None:
    async with TieredStorage.open(world.settings()) as storage:
        path = await rewritten(storage, world.broker)
    settings = world.settings(archive_superseded_keep_hours=0.1 / 3600, reconcile_interval_hours=0.5 / 3600)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("removed a superseded generation")
        assert not {path, manifest_key(path, 1)} & set(world.store.keys())
        assert running.request("GET", "/api/v1/tiered/status").json()["superseded_generations"] == 0
        assert running.stop() == 0


RETAINS = 100.0
EXPIRE = [
    "expire.intended",
    "expire.superseded.deleted",
    "expire.manifest.deleted",
    "expire.objects.deleted",
    "expire.journaled",
]


async def generations(world: World, *, with_log: bool) -> str:
    """A segment in the archive alone, of two generations; the second has another log, or other indexes alone."""
    async with TieredStorage.open(world.settings()) as storage:
        if with_log:
            path = await rewritten(storage, world.broker)
        else:
            (path,) = world.broker.segments("orders-0", 1)
            await storage.run_cycle()
            world.broker.overwrite(path.replace(".log", ".index"), bytes(8))
            await storage.run_cycle()
            assert (await storage.run_cycle()).failures == []
    assert manifest_key(path, 1) in objects(world.store)
    for name in world.broker.triple(path):
        (world.broker.root / name).unlink(missing_ok=True)
    return path


def objects(store: Store) -> set[str]:
    keys = store.keys()
    return {key for key in keys if not key.startswith("takhin-tiered.")}


def whole(store: Store) -> bool:
    """Whether each object that a manifest names stands, and nothing else does."""
    found = objects(store)
    manifests = {key for key in found if key.endswith(".manifest.json")}
    return found - manifests == {key for manifest in manifests for key in named_by(store, manifest)}


async def test_retention_removes_nothing_that_a_superseded_generation_names(world: World) -> None:
    path = await generations(world, with_log=True)
    first = named_by(world.store, manifest_key(path, 1))
    assert first & named_by(world.store, manifest_key(path))
    async with TieredStorage.open(world.settings(retention_hours=RETAINS)) as storage:
        report = await storage.run_cycle()
        assert (report.expired, report.failures) == (1, [])
        assert (await storage.run_cycle()).failures == []
    assert objects(world.store) == first | {manifest_key(path, 1)}


async def test_a_generation_with_the_same_log_leaves_with_the_segment(world: World) -> None:
    """Else retention would never free the log, as that one names it too."""
    await generations(world, with_log=False)
    async with TieredStorage.open(world.settings(retention_hours=RETAINS)) as storage:
        await storage.reconcile()
        assert storage.status().superseded_generations == 1
        report = await storage.run_cycle()
        assert (report.expired, report.failures) == (1, [])
        assert storage.status().superseded_generations == 0
    assert objects(world.store) == set()


async def test_a_generation_that_was_never_superseded_leaves_with_the_segment(world: World) -> None:
    """Its manifest was kept under its own name, and the one that would have taken its place never came."""
    (path,) = world.broker.segments("orders-0", 1)
    async with TieredStorage.open(world.settings()) as storage:
        await storage.run_cycle()
    world.store.write(manifest_key(path, 1), world.store.read(manifest_key(path)))
    for name in world.broker.triple(path):
        (world.broker.root / name).unlink()
    async with TieredStorage.open(world.settings(retention_hours=RETAINS)) as storage:
        report = await storage.run_cycle()
        assert (report.expired, report.failures) == (1, [])
    assert objects(world.store) == set()


@pytest.mark.parametrize("with_log", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("point", EXPIRE)
async def test_an_expire_of_generations_that_is_killed_is_finished(
    world: World, at_point: AtPoint, point: str, with_log: bool
) -> None:
    path = await generations(world, with_log=with_log)
    first = named_by(world.store, manifest_key(path, 1)) if with_log else set()
    seen = at_point(point, stop)
    async with TieredStorage.open(world.settings(retention_hours=RETAINS)) as storage:
        if with_log and point == "expire.superseded.deleted":
            await storage.run_cycle()
            assert seen == []
        else:
            with pytest.raises(BaseException) as raised:
                await storage.run_cycle()
            assert raised.group_contains(Stopped) if isinstance(raised.value, BaseExceptionGroup) else seen == [point]
            assert first <= set(world.store.keys())
    async with TieredStorage.open(world.settings(retention_hours=RETAINS)) as storage:
        for _ in range(2):
            assert (await storage.run_cycle()).failures == []
        # A start after a kill compares the catalog with the store.
        await storage.reconcile()
        assert (await storage.run_cycle()).failures == []
        assert [each.segment_path for each in storage.segments() if each.reason_code != "active"] == []
    assert whole(world.store)
    assert objects(world.store) == (first | {manifest_key(path, 1)} if with_log else set())


async def test_nothing_expires_while_a_superseded_manifest_cannot_be_read(world: World) -> None:
    path = await generations(world, with_log=True)
    world.store.write(manifest_key(path, 1), b"no manifest")
    before = objects(world.store)
    async with TieredStorage.open(world.settings(retention_hours=RETAINS)) as storage:
        report = await storage.run_cycle()
        assert (report.expired, len(report.failures)) == (0, 1)
    assert objects(world.store) == before


async def test_what_compaction_replaced_goes_with_the_last_that_names_it(world: World) -> None:
    """It holds keys that were deleted on purpose. The second generation has the first one's log, the third another."""
    async with TieredStorage.open(world.settings()) as storage:
        (path,) = world.broker.segments("orders-0", 1)
        owned, store, identity = await storage.prepare(), parts(storage).store, SegmentId.parse(path)

        async def forget() -> None:
            (old,) = [each async for each in superseded_of(store, identity)]
            new = await load_manifest(store, identity)
            assert new is not None
            await forget_compacted(owned, old, new)
            assert whole(world.store)

        await storage.run_cycle()
        world.broker.overwrite(path.replace(".log", ".index"), bytes(8))
        await storage.run_cycle()
        await storage.run_cycle()
        await forget()
        assert path in objects(world.store)
        await rewrite(storage, world.broker, path)
        await forget()
        assert path not in objects(world.store)


async def test_generations_stay_while_the_manifest_of_the_segment_stands(world: World) -> None:
    """What compaction merged away may be relied on by others: they have the segment with all that belongs to it."""
    path = await generations(world, with_log=True)
    before = objects(world.store)
    async with TieredStorage.open(world.settings()) as storage:
        owned = await storage.prepare()
        identity = SegmentId.parse(path)
        parts(storage).catalog.remove(identity)
        await parts(storage).superseded.remove_all(owned, identity)
        assert objects(world.store) == before
