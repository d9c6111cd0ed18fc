"""One daemon for all of a broker's data directories, and for what a daemon for each of them archived before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import ConfigError, DiskError, DiskFull, HeldElsewhere, Settings, State, TieredStorage
from tests.support import Broker, Bucket, command, daemon, directory_settings, parts, store_settings

pytestmark = pytest.mark.long

PARTITION = "orders-0"


@pytest.fixture
def brokers(tmp_path: Path) -> list[Broker]:
    """Two directories of one broker."""
    made = [Broker(tmp_path / name) for name in ("disk-1", "disk-2")]
    for each in made:
        each.root.mkdir()
    return made


@pytest.fixture
def settings(brokers: list[Broker], tmp_path: Path) -> Settings:
    return several(brokers, tmp_path)


def several(brokers: list[Broker], tmp_path: Path, **changes: Any) -> Settings:
    (tmp_path / "store").mkdir(exist_ok=True)
    return Settings(
        data_dir=[each.root for each in brokers],
        state_path=tmp_path / "state",
        **{"enabled": True, "directory_path": tmp_path / "store", "api_port": 0, **changes},
    )


def move(brokers: list[Broker], partition: str = PARTITION) -> None:
    """As Kafka does between two log directories: copied, and the old one is gone."""
    shutil.copytree(brokers[0].root / partition, brokers[1].root / partition)
    shutil.rmtree(brokers[0].root / partition)


def test_one_daemon_serves_them_all(brokers: list[Broker], settings: Settings, tmp_path: Path) -> None:
    first, second = brokers[0].segments(PARTITION, 2)[0], brokers[1].segments("audit-3", 1)[0]
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        assert (brokers[0].on_disk(first), brokers[1].on_disk(second)) == ([], [])
        status = json.loads(command(settings, "status", "--json").stdout)
        assert status["data_dirs"] == [str(each.root) for each in brokers]
        assert status["data_dir"] == ",".join(status["data_dirs"])
        assert (status["total_segments"], status["archived_segments"]) == (5, 3)
        metrics = running.request("GET", "/metrics").text
        for each in brokers:
            assert f'tiered_storage_data_dir_free_bytes{{data_dir="{each.root}"}}' in metrics
            # Nobody else gets one of them, with whatever state directory.
            other = command(directory_settings(each, tmp_path / "other"), "run", "--once")
            assert other.returncode == HeldElsewhere.exit_code
            assert f"{each.root} is held by" in other.stderr
        assert command(settings, "restore", "*").returncode == 0
        assert brokers[0].is_whole(first)
        assert brokers[1].is_whole(second)


def test_a_status_of_one_directory_is_as_it_was(broker: Broker, tmp_path: Path) -> None:
    status = json.loads(command(directory_settings(broker, tmp_path / "store"), "status", "--json").stdout)
    assert (status["data_dir"], status["data_dirs"]) == (str(broker.root), [str(broker.root)])


async def test_a_partition_that_moved_stays_one_partition(brokers: list[Broker], tmp_path: Path) -> None:
    paths = brokers[0].segments(PARTITION, 3)
    async with TieredStorage.open(several(brokers, tmp_path, archive_mode="copy")) as storage:
        await storage.run_cycle()
        known = [info.segment_path for info in storage.segments()]
        objects = sorted((tmp_path / "store").rglob("*.log"))
        move(brokers)
        for _ in range(2):
            assert not (await storage.run_cycle()).failures
        assert [info.segment_path for info in storage.segments()] == known
        assert {str(storage.segment(path).state) for path in paths} == {str(State.COPIED)}
        assert sorted((tmp_path / "store").rglob("*.log")) == objects
    async with TieredStorage.open(several(brokers, tmp_path, archive_mode="move")) as storage:
        await storage.run_cycle()
        await storage.run_cycle()
        assert {str(storage.segment(path).state) for path in paths} == {str(State.ARCHIVED)}
        await storage.restore_segment(paths[0])
    assert (brokers[1].root / paths[0]).read_bytes() == brokers[0].files[paths[0]]
    assert not (brokers[0].root / PARTITION).exists()


async def test_a_partition_that_stands_twice_is_reported_and_left_alone(
    brokers: list[Broker], settings: Settings
) -> None:
    path, other = brokers[0].segments(PARTITION, 2)[0], brokers[1].segments("audit-3", 1)[0]
    shutil.copytree(brokers[0].root / PARTITION, brokers[1].root / PARTITION)
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        ((name, problem),) = report.failures
        assert name == PARTITION
        for each in brokers:
            assert str(each.root / PARTITION) in problem
        assert brokers[1].on_disk(other) == []
        for verb in (storage.archive_segment, storage.restore_segment):
            with pytest.raises(DiskError, match="is in several data directories"):
                await verb(path)
        assert brokers[0].is_whole(path)
        shutil.rmtree(brokers[1].root / PARTITION)
        assert not (await storage.run_cycle()).failures
        assert brokers[0].on_disk(path) == []


async def test_one_that_comes_to_stand_twice_is_not_evicted(
    brokers: list[Broker], settings: Settings, at_point: Any
) -> None:
    path = brokers[0].segments(PARTITION, 1)[0]
    async with TieredStorage.open(settings) as storage:
        reached = at_point("evict.begin", lambda: (brokers[1].root / PARTITION).mkdir())
        report = await storage.run_cycle()
        assert reached
        assert [failed for failed, _ in report.failures] == [path]
        assert brokers[0].is_whole(path)


async def test_a_restored_partition_goes_where_most_room_is(
    brokers: list[Broker], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = brokers[0].segments(PARTITION, 2)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        shutil.rmtree(brokers[0].root / PARTITION)
        dirs = parts(storage).data_dir
        for number, root in enumerate(dirs.roots):
            monkeypatch.setattr(root, "device", number)
            monkeypatch.setattr(root, "free_bytes", lambda number=number: (1 << 30) * (number + 1))
        await storage.restore_segment(paths[0])
        assert (brokers[1].root / paths[0]).read_bytes() == brokers[0].files[paths[0]]
        # The room is that of the disk that the partition is on, whatever another one has.
        monkeypatch.setattr(dirs.roots[1], "free_bytes", lambda: 1000)
        with pytest.raises(DiskFull):
            await storage.restore_segment(paths[1])
        assert not (brokers[0].root / PARTITION).exists()
        assert not +dirs.held


def test_a_directory_that_is_missing_is_named(brokers: list[Broker], settings: Settings) -> None:
    brokers[1].root.rmdir()
    for arguments in (["run"], ["run", "--once"], ["status"]):
        ended = command(settings, *arguments)
        assert ended.returncode == ConfigError.exit_code
        assert f"storage.data.dir {brokers[1].root} cannot be opened" in ended.stderr
    checked = command(settings, "config", "check")
    assert checked.returncode == 0
    assert f"Warning: storage.data.dir {brokers[1].root} is not a directory" in " ".join(checked.stderr.split())
    assert str(brokers[0].root) not in checked.stderr


async def test_one_that_cannot_be_read_in_a_scan_changes_nothing(
    brokers: list[Broker], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = brokers[0].segments(PARTITION, 1)[0], brokers[1].segments("audit-3", 1)[0]
    async with TieredStorage.open(settings) as storage:

        def broken() -> list[str]:
            raise OSError(5, "Input/output error", str(brokers[1].root))

        monkeypatch.setattr(parts(storage).data_dir.roots[1], "names", broken)
        with pytest.raises(DiskError, match=f"{brokers[1].root} cannot be read: Input/output error"):
            await storage.run_cycle()
        assert brokers[0].is_whole(path)
        assert brokers[1].is_whole(other)
        assert storage.segment(other).state == State.LOCAL


def test_a_state_directory_that_cannot_be_made_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    """Nobody may make a directory in /proc, whoever runs this."""
    ended = command(Settings(data_dir="/proc/sys", directory_path=tmp_path, enabled=True, api_port=0), "run", "--once")
    assert ended.returncode == ConfigError.exit_code
    assert "/proc/sys.takhin-tiered" in ended.stderr
    assert "storage.tiered.state.dir" in ended.stderr


@pytest.mark.parametrize("backend", ["directory", "s3"])
async def test_what_earlier_daemons_archived_is_read_and_left_as_it_is(
    brokers: list[Broker], bucket: Bucket, tmp_path: Path, backend: str
) -> None:
    def one(number: int) -> Settings:
        if backend == "s3":
            return store_settings(brokers[number], bucket, s3_prefix=f"old/{number}")
        return directory_settings(brokers[number], tmp_path / f"old-{number}")

    first, second = brokers[0].segments(PARTITION, 2), brokers[1].segments("audit-3", 2)
    for number in range(2):
        async with TieredStorage.open(one(number)) as storage:
            assert not (await storage.run_cycle()).failures

    stores: dict[str, Any] = {"s3_prefixes_read": ("old-0", str(tmp_path / "old-1"))}
    if backend == "s3":
        stores = {
            "directory_path": None,
            "s3_bucket": bucket.name,
            "s3_endpoint": bucket.endpoint,
            "s3_prefix": "new",
            "s3_prefixes_read": ("old/0", "old/1"),
        }
    before = written(bucket, tmp_path)
    # The daemon of before is alive under its own prefix, and that is no concern of this one's.
    shutil.copytree(brokers[0].root, tmp_path / "elsewhere")
    still = one(0).model_copy(update={"data_dirs": (tmp_path / "elsewhere",)})
    settings = several(brokers, tmp_path, **stores)
    async with TieredStorage.open(still) as other, TieredStorage.open(settings) as storage:
        await other.prepare()
        assert not (await storage.run_cycle()).failures
        assert {str(storage.segment(path).state) for path in (*first, *second)} == {str(State.ARCHIVED)}
        verdicts = [verdict async for verdict in storage.verify(deep=True)]
        assert [verdict.problem for verdict in verdicts] == [""] * 4
        for broker, paths in zip(brokers, (first, second), strict=True):
            for path in paths:
                await storage.restore_segment(path)
                assert broker.is_whole(path)
        # A new one goes to its own prefix, also one of a partition that is archived elsewhere.
        brokers[0].segments(PARTITION, 1)
        assert not (await storage.run_cycle()).failures
        assert not (await storage.run_cycle()).failures
    after = written(bucket, tmp_path)
    assert {key: after[key] for key in before} == before
    added = [key for key in after if key not in before]
    assert added
    assert all(key.startswith(("new/", "store/")) for key in added)


def written(bucket: Bucket, tmp_path: Path) -> dict[str, Any]:
    """When each object was written, in whatever store; without owner records."""
    found: dict[str, Any] = bucket.times()
    for name in ("old-0", "old-1", "store"):
        for path in (tmp_path / name).rglob("*"):
            if path.is_file():
                found[path.relative_to(tmp_path).as_posix()] = path.stat().st_mtime_ns
    return {key: time for key, time in found.items() if "takhin-tiered." not in key}
