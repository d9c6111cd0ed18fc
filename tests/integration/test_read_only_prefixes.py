"""Retention, and prefixes that are only read: what stands there is left alone, and said to be."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import SegmentRefused, Settings, TieredStorage
from takhin_tiered.segments.names import SegmentId
from tests.faults.truth import Folder, Store
from tests.support import HOUR, Broker, Bucket, command, directory_settings, parts, store_settings

OLD = 1000.0
RETENTION: dict[str, Any] = {"retention_hours": 500}


@dataclass
class World:
    broker: Broker
    before: Callable[..., Settings]
    now: Callable[..., Settings]
    read: Store
    own: Store


@pytest.fixture(params=["directory", "s3"])
def world(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Iterator[World]:
    """An earlier daemon's settings, and those of one that has another prefix, and reads the earlier one's."""

    def settings(prefix: str, **changes: Any) -> Settings:
        if request.param == "directory":
            return directory_settings(broker, tmp_path / prefix, **changes)
        return store_settings(broker, request.getfixturevalue("bucket"), s3_prefix=prefix, **changes)

    def before(**changes: Any) -> Settings:
        return settings("old", state_path=tmp_path / "old-state", **changes)

    def now(**changes: Any) -> Settings:
        return settings("new", s3_prefixes_read=("old",), **changes)

    if request.param == "directory":
        yield World(broker, before, now, Folder(tmp_path / "old"), Folder(tmp_path / "new"))
        return
    bucket: Bucket = request.getfixturevalue("bucket")
    read, own = (Bucket(bucket.endpoint, bucket.name, prefix) for prefix in ("old", "new"))
    yield World(broker, before, now, read, own)
    read.close()
    own.close()


async def archived_before(world: World, count: int = 2) -> list[str]:
    closed = world.broker.segments("orders-0", count, age_hours=OLD)
    async with TieredStorage.open(world.before()) as storage:
        assert (await storage.run_cycle()).archived == count
    return closed


def states(storage: TieredStorage) -> dict[str, str]:
    return {info.segment_path: info.state for info in storage.segments() if not info.is_active}


@pytest.mark.long
async def test_retention_leaves_it_alone_and_says_why(world: World) -> None:
    closed = await archived_before(world)
    own = world.broker.segment("audit-0", age_hours=OLD)
    world.broker.segment("audit-0", age_hours=OLD)
    async with TieredStorage.open(world.now()) as storage:
        assert (await storage.run_cycle()).archived == 1
    before = world.read.keys()
    async with TieredStorage.open(world.now(**RETENTION)) as storage:
        plan = await storage.plan()
        assert [step.id.path for step in plan.work] == [own]
        kept = {step.id.path: (step.reason_code, step.reason) for step in plan.steps if step.id.path in closed}
        assert {code for code, _ in kept.values()} == {"read_only"}
        assert all("under a prefix that is only read" in reason for _, reason in kept.values())
        for expired in (1, 0):
            report = await storage.run_cycle()
            assert (report.expired, report.failures) == (expired, [])
            assert states(storage) == dict.fromkeys(closed, "archived")
        await storage.rebuild()
        report = await storage.run_cycle()
        assert (report.planned, report.failures) == (0, [])
        assert states(storage) == dict.fromkeys(closed, "archived")
        assert [storage.segment(path).problem for path in closed] == ["", ""]
    assert world.read.keys() == before
    assert world.own.keys() == []
    assert "under a prefix that is only read" in " ".join(command(world.now(**RETENTION), "plan").stdout.split())


async def test_an_expire_of_it_is_refused_before_anything_is_removed(world: World) -> None:
    path, _ = await archived_before(world)
    async with TieredStorage.open(world.now()) as storage:
        await storage.run_cycle()
        with pytest.raises(SegmentRefused, match="under a prefix that is only read"):
            await parts(storage).expirer.expire(await storage.prepare(), SegmentId.parse(path))
        assert storage.is_segment_archived(path)
        assert parts(storage).catalog.intents() == []


async def test_where_the_own_copy_is_removed_the_one_that_is_only_read_is_known_again(world: World) -> None:
    (path,) = await archived_before(world, 1)
    async with TieredStorage.open(world.now(restore_lease_hours=0)) as storage:
        await storage.run_cycle()
        await storage.restore_segment(path)
        world.broker.append(path, b"x" * 100)
        os.utime(world.broker.root / path, (time.time() - 2 * OLD * HOUR,) * 2)
        for _ in range(3):
            assert (await storage.run_cycle()).failures == []
        assert storage.segment(path).generation == 2
        assert storage.is_segment_archived(path)
    before = world.read.keys()
    async with TieredStorage.open(world.now(**RETENTION)) as storage:
        assert (await storage.run_cycle()).expired == 1
        assert storage.segment(path).generation == 1
        report = await storage.run_cycle()
        assert (report.planned, report.failures) == (0, [])
        shutil.rmtree(world.broker.root / "orders-0")
        world.broker.files[path] = world.broker.files[path][:-100]
        await storage.restore_segment(path)
        assert world.broker.is_whole(path)
    assert world.read.keys() == before
