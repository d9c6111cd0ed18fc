"""What limits a plan, with real disks and stores: the reserve of a disk, windows, and what topics have of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.cli.broker import directory_text
from takhin_tiered.disk.files import DataDir
from takhin_tiered.errors import SegmentRefused
from takhin_tiered.reload import reload
from takhin_tiered.segments.plan import Step
from tests.support import Broker, command, daemon, directory_settings, parts, pass_time, wait_until

DISK = 4 << 20
SIZE = 300_000
YOUNG = {"warm_age_hours": 100.0, "cold_age_hours": 200.0}


@contextmanager
def disk(root: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """A broker on a file system of this size; where this user may not mount, it is made up from what is in it."""
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        real = DataDir.room

        def room(self: DataDir) -> tuple[int, int]:
            if self.path != root:
                return real(self)
            return size - sum(each.stat().st_size for each in root.rglob("*") if each.is_file()), size

        monkeypatch.setattr(DataDir, "room", room)
        # Directories on one file system share its room.
        real_init = DataDir.__init__

        def init(self: DataDir, path: Path, fd: int = -1) -> None:
            real_init(self, path, fd)
            self.device = hash(path)

        monkeypatch.setattr(DataDir, "__init__", init)
    yield Broker(root)
    if mounted:
        subprocess.run(["umount", "-l", str(root)], check=True, capture_output=True)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with disk(tmp_path / "small", DISK, monkeypatch) as found:
        yield found


@pytest.fixture
def roomy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with disk(tmp_path / "roomy", 8 * DISK, monkeypatch) as found:
        yield found


def settings_of(tmp_path: Path, *brokers: Broker, **changes: Any) -> Settings:
    (tmp_path / "store").mkdir(exist_ok=True)
    return Settings(
        data_dir=[each.root for each in brokers],
        state_path=tmp_path / "state",
        **{
            "enabled": True,
            "directory_path": tmp_path / "store",
            "api_port": 0,
            "restore_reserve_mb": 0.0,
            **YOUNG,
            **changes,
        },
    )


def share_free(storage: TieredStorage, broker: Broker) -> float:
    (root,) = [each for each in parts(storage).data_dir.roots if each.path == broker.root]
    free, size = root.room()
    return 100 * free / size


async def reasons(storage: TieredStorage) -> dict[str, str]:
    return {step.id.path: step.reason_code for step in (await storage.plan()).steps}


async def test_the_coldest_leave_a_full_disk_until_its_reserve_is_met(
    small: Broker, roomy: Broker, tmp_path: Path
) -> None:
    ages = {"a-0": 20, "b-0": 90, "c-0": 50}
    paths = {name: small.segments(name, 3, age_hours=age, size=SIZE) for name, age in ages.items()}
    elsewhere = roomy.segments("d-0", 3, age_hours=95, size=SIZE)
    async with TieredStorage.open(settings_of(tmp_path, small, roomy, local_reserve_percent=40.0)) as storage:
        before = share_free(storage, small)
        assert before < 40
        codes = await reasons(storage)
        early = [path for path, code in codes.items() if code == "disk_pressure"]
        # All three of b are older than any other on that disk; the disk of d has room.
        assert early == paths["b-0"][: len(early)]
        assert len(early) == -(-int(DISK * (40 - before) / 100) // SIZE)
        report = await storage.run_cycle()
        assert (report.archived, report.evicted, report.failures) == (len(early), len(early), [])
        assert share_free(storage, small) >= 40
        assert not any(small.on_disk(path) for path in early)
        stay = [path for name in ages for path in paths[name] if path not in early]
        assert all(small.is_whole(path) for path in stay)
        assert all(roomy.is_whole(path) for path in elsewhere)
        assert (await storage.run_cycle()).planned == 0
        info = storage.segment(stay[0])
        assert info.reason_code == "hot"
        await storage.restore_segment(early[0])
        assert small.is_whole(early[0])


async def test_more_than_may_leave_is_told_and_nothing_else_leaves(
    small: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.segments("a-0", 1, age_hours=20, size=SIZE)[0]
    active = f"a-0/{small.next_offset['a-0']:020d}.log"
    async with TieredStorage.open(settings_of(tmp_path, small, local_reserve_percent=99.9)) as storage:
        codes = await reasons(storage)
        assert (codes[path], list(codes.values()).count("active")) == ("disk_pressure", 1)
        assert active not in codes
        await storage.run_cycle()
        assert not small.on_disk(path)
        assert storage.metrics.reserve_missing_bytes._value.get() > 0
        assert 0 < storage.status().reserve_missing_bytes <= storage.metrics.reserve_missing_bytes._value.get()
    assert "the reserve of the disk cannot be met" in "".join(capsys.readouterr())
    # Of a process that ended, too; and no more where nothing is set.
    settings = settings_of(tmp_path, small, local_reserve_percent=99.9)
    found = await asyncio.to_thread(command, settings, "status", "--check")
    assert found.returncode == 1
    assert "the reserve of the disk is not met" in " ".join(found.stdout.split())
    async with TieredStorage.open(settings_of(tmp_path, small)) as storage:
        assert storage.status().reserve_missing_bytes == 0


async def test_mode_copy_frees_nothing_so_nothing_is_early_and_config_check_says_so(
    small: Broker, tmp_path: Path
) -> None:
    path = small.segments("a-0", 3, age_hours=20, size=SIZE)[0]
    settings = settings_of(tmp_path, small, local_reserve_percent=99.0, archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        assert (await reasons(storage))[path] == "hot"
    # What `config check` and `doctor` print.
    assert "local.reserve.percent has no effect in mode copy" in " ".join(directory_text(settings))
    overridden = settings_of(
        tmp_path,
        small,
        local_reserve_percent=99.0,
        archive_mode="copy",
        topics_overrides={"a": {"archive.mode": "move"}},
    )
    assert list(directory_text(overridden)) == []


def window(opens: timedelta, length: timedelta = timedelta(hours=2)) -> str:
    now = datetime.now(UTC)
    return f"{now + opens:%H:%M}-{now + opens + length:%H:%M}"


async def test_outside_the_windows_only_hands_archive(broker: Broker, tmp_path: Path) -> None:
    first, second = broker.segments("orders-0", 2)
    shut = directory_settings(
        broker, tmp_path / "store", archive_windows=window(timedelta(hours=6)), archive_timezone="UTC"
    )
    async with TieredStorage.open(shut) as storage:
        assert 5 * 3600 < storage.opens_in < 6 * 3600 + 60
        steps = {step.id.path: step for step in (await storage.plan()).steps}
        assert steps[first].reason_code == "outside_window"
        assert f"the next one opens {datetime.now(UTC) + timedelta(hours=6):%a %Y-%m-%d}"[:24] in steps[first].reason
        assert (await storage.run_cycle()).planned == 0
        assert broker.is_whole(first)
        await storage.archive_segment(first)
        assert not broker.on_disk(first)
        opened = shut.model_copy(update={"archive_windows": Settings(
            data_dir=broker.root, archive_windows=window(-timedelta(hours=1)), archive_timezone="UTC"
        ).archive_windows})  # fmt: skip
        await reload(storage, Tokens(shut), lambda: opened)
        assert storage.opens_in == float("inf")
        assert (await storage.run_cycle()).archived == 1
        assert not broker.on_disk(second)


async def test_a_window_that_closes_during_a_cycle_ends_its_uploads(broker: Broker, tmp_path: Path) -> None:
    paths = broker.segments("orders-0", 3, size=2_000_000)
    settings = directory_settings(
        broker,
        tmp_path / "store",
        archive_windows=window(-timedelta(hours=1)),
        archive_timezone="UTC",
        archive_concurrency=1,
    )
    async with TieredStorage.open(settings) as storage:
        passed = 0.0

        def close(_: Step, what: str) -> None:
            nonlocal passed
            passed = 2 * 3600.0 if what == "done" else passed

        pass_time(storage, lambda: passed)
        report = await storage.run_cycle(close)
        assert (report.archived, report.postponed, report.failures) == (1, 2, [])
        assert [bool(broker.on_disk(path)) for path in paths] == [False, True, True]


OVERRIDES = {
    "orders-*": {"cold.age.hours": 1, "warm.age.hours": 0},
    "clicks": {"archive.mode": "copy", "compression.codec": "zstd"},
    "*": {"warm.age.hours": 24},
}


async def test_topics_have_ages_modes_and_codecs_of_their_own(broker: Broker, tmp_path: Path) -> None:
    (young,), (clicks,), (other,) = (
        broker.segments("orders-eu-0", 1, age_hours=2),
        broker.segments("clicks-0", 1, size=100_000),
        broker.segments("other-0", 1, age_hours=30),
    )
    settings = directory_settings(broker, tmp_path / "store", topics_overrides=OVERRIDES)
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert (report.archived, report.copied, report.failures) == (1, 1, [])
        assert not broker.on_disk(young)
        assert broker.is_whole(clicks)
        assert broker.is_whole(other)
        assert str(storage.segment_policy(other)) == "warm"
        assert storage.segment(other).reason.endswith("(warm.age.hours of topics.overrides, *)")
        stats = storage.stats()
        assert (stats.hot_segments, stats.warm_segments, stats.cold_segments) == (3, 1, 2)
        stored = next((tmp_path / "store").rglob("clicks-0/*.log"))
        assert stored.stat().st_size < 100_000
        # Whatever is asked: a topic in mode copy keeps its files.
        await storage.archive_segment(clicks)
        assert broker.is_whole(clicks)
        owned = await storage.prepare()
        known = parts(storage).catalog.get(parts(storage).catalog.current(("clicks", 0), 0))
        assert known is not None
        with pytest.raises(SegmentRefused, match="this mode never deletes a local file"):
            await parts(storage).evictor.evict(owned, known.id)
        assert broker.is_whole(clicks)


async def test_a_reload_counts_by_the_new_ages_and_leaves_modes_to_a_restart(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broker.segments("orders-eu-0", 1, age_hours=2)[0]
    settings = directory_settings(broker, tmp_path / "store")

    def changed(overrides: dict[str, Any]) -> Settings:
        return directory_settings(broker, tmp_path / "store", topics_overrides=overrides)

    async with TieredStorage.open(settings) as storage:
        assert storage.stats().cold_segments == 0
        await reload(storage, Tokens(settings), lambda: changed({"orders-*": OVERRIDES["orders-*"]}))
        assert storage.stats().cold_segments == 1
        await reload(storage, Tokens(settings), lambda: changed({"orders-*": {"archive.mode": "copy"}}))
        assert "needs_restart=['storage.tiered.topics.overrides']" in "".join(capsys.readouterr())
        assert (await storage.run_cycle()).archived == 1
        assert not broker.on_disk(path)


@pytest.mark.long
def test_a_daemon_of_a_full_disk_frees_it(small: Broker, tmp_path: Path) -> None:
    if not os.path.ismount(small.root):
        pytest.skip("this user may not mount a small disk")
    paths = small.segments("a-0", 9, age_hours=20, size=SIZE)
    settings = settings_of(tmp_path, small, local_reserve_percent=50.0)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        wait_until(lambda: not small.on_disk(paths[0]), what="the first that leaves")
        listed = json.loads(command(settings, "plan", "--json").stdout)["segments"]
        assert [each["reason_code"] for each in listed if each["action"] != "keep"] == []
        assert "tiered_storage_disk_reserve_missing_bytes 0.0" in running.request("GET", "/metrics").text
        status = os.statvfs(small.root)
        assert status.f_bavail / status.f_blocks >= 0.5
        assert small.is_whole(paths[-1])
        assert running.stop() == 0


@pytest.mark.long
def test_a_dry_run_tells_for_each_topic_what_becomes_of_its_files(broker: Broker, tmp_path: Path) -> None:
    broker.segments("clicks-0", 1)
    broker.segments("other-0", 1)
    settings = directory_settings(broker, tmp_path / "store", topics_overrides=OVERRIDES)
    told = command(settings, "archive", "-n", "clicks-0", "other-0").stdout
    assert "mode copy unlinks nothing" in told
    assert "upload, verify, unlink" in told
    done = command(settings, "archive", "clicks-0", "other-0")
    assert "The local files of some topics stay: mode copy unlinks nothing" in done.stdout
    assert "stay" not in command(settings, "archive", "other-0").stdout
