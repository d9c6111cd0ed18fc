"""A store, or a data directory, that is not the one that it was: nothing is written or removed, and it is said why."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.errors import BucketMissing, DiskError, StoreChanged
from tests.support import Broker, Bucket, command, daemon, directory_settings, parts, store_settings, wait_until

pytestmark = pytest.mark.long

STORE = "takhin-tiered.store.json"
DAY = 86400.0


async def archived(settings: Settings) -> None:
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert not report.failures


async def refused(settings: Settings) -> str:
    """What a cycle says that is to be refused; nothing may be moved by it."""
    async with TieredStorage.open(settings) as storage:
        with pytest.raises((StoreChanged, BucketMissing)) as error:
            await storage.run_cycle()
        await storage.check_store()
        assert storage.status().store_problem
        return str(error.value)


def proposed(words: str) -> str:
    """The ID that the message tells to accept."""
    found = re.search(r"--accept-store ([0-9a-f]{32})", words)
    assert found is not None, words
    return found[1]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


async def test_a_mount_point_without_its_mount_gets_nothing(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    old = broker.segments("orders-0", 2)
    await archived(settings)
    (tmp_path / "store").rename(tmp_path / "unmounted")
    (tmp_path / "store").mkdir()
    more = broker.segments("orders-1", 2)
    words = await refused(settings)
    assert str(tmp_path / "store") in words
    for looking in (["doctor"], ["config", "check", "--connect"], ["status", "--check"], ["verify"]):
        looked = command(settings, *looking)
        assert looked.returncode == 1, looking
        assert "is not the store that was archived to" in looked.stdout + looked.stderr
    assert list((tmp_path / "store").iterdir()) == []
    assert all(broker.is_whole(path) for path in more)
    (tmp_path / "store").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "store")
    await archived(settings)
    assert not any(broker.on_disk(path) for path in more)
    async with TieredStorage.open(settings) as storage:
        await storage.restore_segment(old[0])
    assert broker.is_whole(old[0])


def test_a_store_that_is_unmounted_beneath_a_daemon_and_comes_back(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", archive_interval_minutes=0.01)
    first = broker.segments("orders-0", 1)
    with daemon(settings, tmp_path / "log") as running:
        wait_until(lambda: not any(broker.on_disk(path) for path in first))
        (tmp_path / "store").rename(tmp_path / "unmounted")
        (tmp_path / "store").mkdir()
        closed = broker.segments("orders-1", 2)
        wait_until(lambda: running.request("GET", "/readyz").status_code == 503, what="not being ready")
        assert all(broker.is_whole(path) for path in closed)
        assert files(tmp_path / "store") == []
        (tmp_path / "store").rmdir()
        (tmp_path / "unmounted").rename(tmp_path / "store")
        wait_until(lambda: not any(broker.on_disk(path) for path in closed), what="the rest of the archive")
        wait_until(lambda: running.request("GET", "/readyz").status_code == 200, what="being ready")


@pytest.mark.long
async def test_an_emptied_bucket_is_not_taken_for_the_archive(broker: Broker, bucket: Bucket) -> None:
    settings = store_settings(broker, bucket, archive_mode="copy")
    closed = broker.segments("orders-0", 2)
    await archived(settings)
    for key in [*bucket.keys(), STORE]:
        bucket.delete(key)
    moving = store_settings(broker, bucket)
    words = await refused(moving)
    assert "has no ID" in words
    assert bucket.keys() == []
    assert all(broker.is_whole(path) for path in closed)
    for verb in (["rebuild"], ["verify"], ["archive", closed[0]], ["restore", closed[0]]):
        said = command(moving, *verb)
        assert (said.returncode, "Traceback" in said.stderr) == (1, False)
        assert "--accept-store" in said.stderr + said.stdout
    identifier = proposed(words)
    wrong = command(moving, "run", "--once", "--accept-store", "0" * 32)
    assert wrong.returncode == 1
    assert identifier in wrong.stderr
    assert all(broker.is_whole(path) for path in closed)
    # The disk has them, and so they are archived again: not unlinked because they once were.
    assert command(moving, "--accept-store", identifier, "run", "--once").returncode == 0
    for name in (name for path in closed for name in broker.triple(path)):
        assert bucket.read(name) == broker.files[name]
    assert command(moving, "run", "--once").returncode == 0


async def test_another_bucket_in_its_place_is_refused_until_it_is_accepted(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Broker(tmp_path / "other")
    theirs = stranger.segments("orders-0", 2)
    await archived(store_settings(stranger, bucket))
    mine = directory_settings(broker, tmp_path / "store")
    closed = broker.segments("payments-0", 2)
    await archived(mine)
    more = broker.segments("payments-1", 1)
    moved = store_settings(broker, bucket)
    words = await refused(moved)
    assert "ours was" in words
    assert command(moved, "run", "--once", "--accept-store", proposed(words)).returncode == 0
    assert not broker.on_disk(more[0])
    listed = command(moved, "ls").stdout
    assert theirs[0] in listed
    # What stands in the other store is told as lost, not forgotten.
    assert "gone from the archive" in listed
    assert closed[0] in listed


async def test_a_new_state_takes_over_the_store_that_it_finds(broker: Broker, settings: Settings) -> None:
    closed = broker.segments("orders-0", 2)
    await archived(settings)
    shutil.rmtree(settings.state_dir)
    await archived(settings)
    async with TieredStorage.open(settings) as storage:
        assert all(storage.is_segment_archived(path) for path in closed)


async def test_an_archive_of_an_earlier_release_gets_an_id_only_if_the_catalog_knows_it(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    """Its store has none, and neither has its catalog."""
    closed = broker.segments("orders-0", 2)
    await archived(settings)
    (tmp_path / "store" / STORE).unlink()
    forget_id(settings)
    await archived(settings)
    assert (tmp_path / "store" / STORE).is_file()
    # An archive that no catalog knows, of no release that gives IDs: a person has to say that it is meant.
    (tmp_path / "store" / STORE).unlink()
    shutil.rmtree(settings.state_dir)
    words = await refused(settings)
    assert "without an ID" in words
    assert proposed(await refused(settings)) == proposed(words)
    assert command(settings, "run", "--once", "--accept-store", proposed(words)).returncode == 0
    async with TieredStorage.open(settings) as storage:
        assert all(storage.is_segment_archived(path) for path in closed)


async def test_a_catalog_of_an_earlier_release_beside_an_empty_store_is_refused(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    await archived(settings)
    forget_id(settings)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").mkdir()
    assert "has none of the segments that were archived" in await refused(settings)
    assert files(tmp_path / "store") == []


async def test_a_store_from_an_old_backup_unlinks_nothing_that_it_lacks(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    """Its ID is right: what was archived since is asked of the store itself before a file goes."""
    first = broker.segments("orders-0", 1)
    copying = settings.model_copy(update={"archive_mode": "copy"})
    await archived(copying)
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    second = broker.segments("orders-1", 2)
    await archived(copying)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "backup").rename(tmp_path / "store")
    await archived(settings)
    for name in (name for path in (*first, *second) for name in broker.triple(path)):
        assert (tmp_path / "store" / name).read_bytes() == broker.files[name]


async def test_a_data_directory_that_is_moved_away_is_left_alone(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    closed = broker.segments("orders-0", 2)
    async with TieredStorage.open(settings) as storage:
        broker.root.rename(tmp_path / "backup")
        broker.root.mkdir()
        other = Broker(broker.root)
        new = other.segments("new-0", 1)
        for _ in range(2):
            with pytest.raises(DiskError, match="not the directory that was opened"):
                await storage.run_cycle()
        with pytest.raises(DiskError, match="moved away"):
            await storage.archive_segment(closed[0])
        assert other.is_whole(new[0])
        broker.root = tmp_path / "backup"
        assert all(broker.is_whole(path) for path in closed)


async def test_a_clock_that_jumps_removes_nothing_for_its_age(broker: Broker, settings: Settings) -> None:
    closed = broker.segments("orders-0", 3)
    keeping = settings.model_copy(update={"retention_hours": (("*", 720.0),), "restore_lease_hours": 24.0})
    await archived(keeping)
    async with TieredStorage.open(keeping) as storage:
        await storage.restore_segment(closed[0])
        for jump in (-400 * DAY, 400 * DAY, 401 * DAY):
            parts(storage).clock.wall = lambda jump=jump: time.time() + jump  # type: ignore[misc]  # a lambda with a default
            report = await storage.run_cycle()
            assert (report.expired, report.evicted) == (0, 0)
            assert "400 days" in storage.status().clock.problem or "401 days" in storage.status().clock.problem
        parts(storage).clock.wall = time.time
        await storage.run_cycle()
        assert storage.status().clock.problem == ""
    assert broker.is_whole(closed[0])


async def test_the_clock_of_an_object_store_confirms_or_contradicts_ours(broker: Broker, bucket: Bucket) -> None:
    broker.segments("orders-0", 2)
    async with TieredStorage.open(store_settings(broker, bucket, retention_hours=720)) as storage:
        await storage.run_cycle()
        parts(storage).clock.wall = lambda: time.time() + 400 * DAY
        assert (await storage.run_cycle()).expired == 0
        assert "ahead of the store's" in storage.status().clock.problem


async def test_an_age_that_passed_while_nobody_looked_counts(broker: Broker, settings: Settings) -> None:
    """The other way round: a jump that a person confirms is an age, and retention goes on."""
    broker.segments("orders-0", 2)
    keeping = settings.model_copy(update={"retention_hours": (("*", 720.0),)})
    await archived(keeping)
    accepted = keeping.model_copy()
    accepted.accepting(accepted.accepted._replace(clock=True))
    async with TieredStorage.open(accepted) as storage:
        parts(storage).clock.wall = lambda: time.time() + 6 * DAY + 20 * DAY
        await storage.run_cycle()
        assert storage.status().clock.problem == ""
        assert storage.stats().archived_segments == 0


def forget_id(settings: Settings) -> None:
    import sqlite3

    with sqlite3.connect(settings.state_dir / "catalog.db") as database:
        database.execute("DELETE FROM meta WHERE name LIKE 'store%'")
    database.close()
