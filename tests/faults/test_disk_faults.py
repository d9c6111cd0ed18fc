"""What the data directory's disk can do wrong, and what a broker can do to it at a bad moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from takhin_tiered import DiskError, DiskFull, Settings, TakhinError, TieredStorage
from takhin_tiered.disk.files import DataDir
from tests.faults.disk import ERRORS, DiskFault, FaultyOs
from tests.faults.truth import Folder, Truth
from tests.support import HOUR, KINDS, AtPoint, Broker, directory_settings

PARTITION = "orders-0"
FIRST = f"{PARTITION}/00000000000000000000"


class Scene:
    """A broker with two closed segments of one partition and one of another, and a directory store."""

    def __init__(self, data: Path, home: Path, **changes: object) -> None:
        self.broker = Broker(data, transactional=True)
        self.store = home / "store"
        self.settings: Settings = directory_settings(self.broker, self.store, state_path=home / "state", **changes)
        self.closed = self.broker.segments(PARTITION, 2, size=400_000) + self.broker.segments("audit-1", 1)
        self.truth = Truth(self.broker, Folder(self.store))
        self.truth.remember()

    def require_sound(self, storage: TieredStorage) -> None:
        assert self.truth.lost(self.closed) == {}
        reported = [(info.segment_path, info.state) for info in storage.segments()]
        assert self.truth.misreported(reported, self.closed) == []
        assert self.truth.temporary_files() == []
        assert self.truth.store.uploads() == []

    async def require_finished(self, storage: TieredStorage) -> None:
        """The disk is well again: two cycles and a restore leave nothing to be wished for."""
        for _ in range(2):
            await storage.run_cycle()
        self.require_sound(storage)
        assert storage.last_cycle is not None
        assert storage.last_cycle.failures == []
        assert all(self.broker.on_disk(path) == [] for path in self.closed)
        for path in self.closed:
            await storage.restore_segment(path)
        assert all(self.truth.whole_on_disk(path) for path in self.closed)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    data = tmp_path / "data"
    data.mkdir()
    return Scene(data, tmp_path)


@pytest.fixture
def faulty(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    stand_in = FaultyOs(scene.broker.root)
    monkeypatch.setattr("takhin_tiered.disk.files.os", stand_in)
    monkeypatch.setattr("takhin_tiered.engine.incoming.os", stand_in)
    monkeypatch.setattr("takhin_tiered.store.landing.os", stand_in)
    monkeypatch.setattr("takhin_tiered.filesystems.os", stand_in)
    return stand_in


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
@pytest.mark.parametrize(
    ("operation", "ending"), [("open", ".log"), ("open", ".index"), ("preadv", ".log"), ("preadv", ".txnindex")]
)
async def test_a_file_that_cannot_be_read_is_not_archived_and_holds_up_no_other(
    scene: Scene, faulty: FaultyOs, operation: str, ending: str, error: str
) -> None:
    async with TieredStorage.open(scene.settings) as storage:
        faulty.faults.append(fault := DiskFault(operation, FIRST + ending, ERRORS[error]))
        report = await storage.run_cycle()
        assert fault.hits > 0
        assert [path for path, _ in report.failures] == [scene.closed[0]]
        assert FIRST in report.failures[0][1]
        assert scene.truth.whole_on_disk(scene.closed[0])
        assert all(scene.truth.whole_in_store(path) for path in scene.closed[1:])
        scene.require_sound(storage)
        faulty.faults.clear()
        await scene.require_finished(storage)


async def test_a_file_that_fails_in_the_middle_of_its_upload_is_not_archived(scene: Scene, faulty: FaultyOs) -> None:
    async with TieredStorage.open(scene.settings) as storage:
        faulty.faults.append(fault := DiskFault("pread", FIRST + ".log", ERRORS["EIO"]))
        report = await storage.run_cycle()
        assert fault.hits > 0
        assert [path for path, _ in report.failures] == [scene.closed[0]]
        scene.require_sound(storage)
        faulty.faults.clear()
        await scene.require_finished(storage)


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
async def test_a_partition_that_cannot_be_opened_holds_up_no_other(scene: Scene, faulty: FaultyOs, error: str) -> None:
    async with TieredStorage.open(scene.settings) as storage:
        faulty.faults.append(fault := DiskFault("open", PARTITION, ERRORS[error]))
        try:
            await storage.run_cycle()
        except TakhinError as raised:
            assert PARTITION in str(raised)  # noqa: PT017 - either way of telling will do
        assert fault.hits > 0
        assert scene.truth.whole_in_store(scene.closed[2])
        assert scene.truth.lost(scene.closed) == {}
        faulty.faults.clear()
        await scene.require_finished(storage)


@pytest.mark.parametrize(
    ("operation", "ending", "error"),
    [
        *(("unlink", f".{kind}", error) for kind in KINDS for error in ("EIO", "EACCES", "EROFS")),
        ("fsync", PARTITION, "EIO"),
    ],
)
@pytest.mark.parametrize("restored", [False, True], ids=["archive", "evict"])
async def test_a_file_that_cannot_be_unlinked_loses_nothing(
    scene: Scene, faulty: FaultyOs, restored: bool, operation: str, ending: str, error: str
) -> None:
    settings = scene.settings.model_copy(update={"restore_lease_hours": 0.0})
    async with TieredStorage.open(settings) as storage:
        if restored:
            await storage.run_cycle()
            for path in scene.closed:
                await storage.restore_segment(path)
        name = ending if operation == "fsync" else FIRST + ending
        faulty.faults.append(fault := DiskFault(operation, name, ERRORS[error], count=1))
        report = await storage.run_cycle()
        assert fault.hits == 1
        ((failed, message),) = report.failures
        assert failed in scene.closed[:2]
        assert failed in message
        assert all(scene.truth.whole_in_store(path) for path in scene.closed)
        scene.require_sound(storage)
        await scene.require_finished(storage)


RESTORE_FAULTS = [
    *(("open", f"{ending}.takhin-tmp") for ending in (".index", ".log")),
    *(("pwrite", f"{ending}.takhin-tmp") for ending in (".index", ".log")),
    *(("fsync", f"{ending}.takhin-tmp") for ending in (".timeindex", ".log")),
    *(("rename", f"{ending}.takhin-tmp") for ending in (".index", ".timeindex")),
    ("fchmod", ".log.takhin-tmp"),
    ("link", ".log.takhin-tmp"),
    ("fsync", PARTITION),
]
# What a file system may refuse without harm to a byte: see test_file_systems.py.
HARMLESS = {("fchmod", "EACCES"), ("fsync", "EROFS")}


@pytest.mark.parametrize(
    ("operation", "ending", "error"),
    [
        (*fault, error)
        for fault in RESTORE_FAULTS
        for error in ("ENOSPC", "EIO", "EACCES", "EROFS")
        if (fault[0], error) not in HARMLESS
    ],
)
async def test_a_restore_that_the_disk_refuses_leaves_nothing_behind(
    scene: Scene, faulty: FaultyOs, operation: str, ending: str, error: str
) -> None:
    path = scene.closed[0]
    async with TieredStorage.open(scene.settings) as storage:
        await storage.run_cycle()
        name = ending if ending == PARTITION else FIRST + ending
        faulty.faults.append(fault := DiskFault(operation, name, ERRORS[error]))
        with pytest.raises(DiskFull if error == "ENOSPC" else DiskError) as raised:
            await storage.restore_segment(path)
        assert fault.hits > 0
        assert raised.value.segment == path
        if error == "ENOSPC":
            assert raised.value.http_status == 507
        assert scene.broker.on_disk(path) == []
        scene.require_sound(storage)
        faulty.faults.clear()
        await scene.require_finished(storage)


async def test_a_log_is_never_left_without_its_indexes_by_a_restore(scene: Scene, faulty: FaultyOs) -> None:
    """The log has its name, and its temporary one cannot be taken away: either all stands there, or nothing."""
    path = scene.closed[0]
    async with TieredStorage.open(scene.settings) as storage:
        await storage.run_cycle()
        faulty.faults.append(fault := DiskFault("unlink", FIRST + ".log.takhin-tmp", ERRORS["EIO"], skip=1, count=1))
        try:
            await storage.restore_segment(path)
        except DiskError:
            assert scene.broker.on_disk(path) == []
        else:
            assert scene.truth.whole_on_disk(path)
        assert fault.hits == 1
        scene.require_sound(storage)
        await storage.restore_segment(path)
        assert scene.truth.whole_on_disk(path)


@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
async def test_a_partition_that_cannot_be_made_is_told(scene: Scene, faulty: FaultyOs, error: str) -> None:
    path = scene.closed[0]
    async with TieredStorage.open(scene.settings) as storage:
        await storage.run_cycle()
        shutil.rmtree(scene.broker.root / PARTITION)
        faulty.faults.append(fault := DiskFault("mkdir", PARTITION, ERRORS[error]))
        with pytest.raises(DiskFull if error == "ENOSPC" else DiskError) as raised:
            await storage.restore_segment(path)
        assert fault.hits == 1
        assert raised.value.segment == path
        faulty.faults.clear()
        await storage.restore_segment(path)
        assert scene.truth.whole_on_disk(path)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 1 MiB, mounted; where this user may not mount, a directory in which no restore may write."""
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    print("a full disk:", "a tmpfs that is full" if mounted else "injected, as mount is refused")
    if not mounted:
        stand_in = FaultyOs(root)
        stand_in.faults.append(DiskFault("pwrite", ".takhin-tmp", ERRORS["ENOSPC"]))
        monkeypatch.setattr("takhin_tiered.engine.incoming.os", stand_in)
        monkeypatch.setattr("takhin_tiered.store.landing.os", stand_in)
    yield root
    if mounted:
        subprocess.run(["umount", "-l", str(root)], check=True, capture_output=True)


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("foreseen", [True, False], ids=["foreseen", "in-the-middle"])
async def test_a_disk_that_is_full_restores_nothing_and_says_so(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    scene = Scene(small_disk, tmp_path, restore_reserve_mb=1 if foreseen else 0)
    path = scene.closed[0]
    async with TieredStorage.open(scene.settings) as storage:
        await storage.run_cycle()
        # All but 40 KiB, where the segment takes 100: its first pieces have room.
        (small_disk / "ballast").write_bytes(bytes(max(0, min(free_bytes(small_disk), 1 << 20) - (40 << 10))))
        if not foreseen:
            monkeypatch.setattr(DataDir, "free_bytes", lambda _: 1 << 40)
        with pytest.raises(DiskFull) as raised:
            await storage.restore_segment(path)
        assert raised.value.http_status == 507
        assert raised.value.segment == path
        assert scene.broker.on_disk(path) == []
        scene.require_sound(storage)


DURING_ARCHIVE = ["archive.intended", "archive.log.stored", "archive.before.manifest", "archive.committed"]


def take_away(scene: Scene) -> None:
    """As a broker does that deletes a partition."""
    os.rename(scene.broker.root / PARTITION, scene.broker.root / f"{PARTITION}.0123456789abcdef-delete")


@pytest.mark.parametrize("point", [*DURING_ARCHIVE, "evict.begin"])
async def test_a_partition_that_vanishes_during_an_archive_stops_no_other(
    scene: Scene, at_point: AtPoint, point: str
) -> None:
    async with TieredStorage.open(scene.settings.model_copy(update={"archive_concurrency": 1})) as storage:
        # audit-1 is first in the order of work.
        at_point(point, lambda: shutil.rmtree(scene.broker.root / "audit-1"))
        report = await storage.run_cycle()
        assert scene.closed[2] in {path for path, _ in report.failures}
        assert scene.closed[2] in report.failures[0][1]
        assert all(scene.truth.whole_in_store(path) for path in scene.closed[:2])
        for _ in range(2):
            report = await storage.run_cycle()
            assert report.failures == []
        # The files were held open: from before the manifest on, the archive has all of them.
        committed = point not in {"archive.intended", "archive.log.stored"}
        assert scene.truth.whole_in_store(scene.closed[2]) == committed
        assert scene.truth.orphans() == []
        assert scene.truth.lost(scene.closed[:2]) == {}


@pytest.mark.parametrize("point", ["restore.index.downloaded", "restore.log.downloaded"])
async def test_a_partition_that_vanishes_during_a_restore_gets_no_files(
    scene: Scene, at_point: AtPoint, point: str
) -> None:
    path = scene.closed[0]
    async with TieredStorage.open(scene.settings) as storage:
        await storage.run_cycle()
        at_point(point, lambda: take_away(scene))
        with pytest.raises(TakhinError) as raised:
            await storage.restore_segment(path)
        assert raised.value.segment == path
        assert scene.truth.temporary_files() == []
        assert not (scene.broker.root / PARTITION).exists()
        await storage.restore_segment(path)
        assert scene.truth.whole_on_disk(path)


Change = Callable[[Path, bytes], None]


def by_another_file(file: Path, content: bytes) -> None:
    status = file.stat()
    other = file.with_suffix(".swap")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(file)


def in_place(file: Path, content: bytes) -> None:
    """Same name, size, time and inode: also what a deleted file's number, given out again, looks like."""
    status = file.stat()
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [by_another_file, in_place])
@pytest.mark.parametrize("when", [*DURING_ARCHIVE, "evict.begin", "lease"])
async def test_other_bytes_of_the_same_size_and_time_are_not_unlinked(
    scene: Scene, at_point: AtPoint, when: str, change: Change
) -> None:
    settings = scene.settings.model_copy(update={"archive_concurrency": 1, "restore_lease_hours": 0.0})
    path = scene.closed[2]
    other = scene.broker.files[path][::-1]

    def swap() -> None:
        change(scene.broker.root / path, other)
        scene.broker.files[path] = other

    async with TieredStorage.open(settings) as storage:
        if when == "lease":
            await storage.run_cycle()
            await storage.restore_segment(path)
            swap()
        else:
            at_point(when, swap)
        await storage.run_cycle()
        assert scene.truth.lost(scene.closed) == {}
        await storage.run_cycle()
        await storage.run_cycle()
        assert scene.truth.lost(scene.closed) == {}
        assert scene.truth.temporary_files() == []


async def test_a_file_that_grew_after_its_restore_is_kept_with_its_new_bytes(scene: Scene) -> None:
    settings = scene.settings.model_copy(update={"restore_lease_hours": 0.0})
    path = scene.closed[0]
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        await storage.restore_segment(path)
        scene.broker.append(path)
        os.utime(scene.broker.root / path, (time.time() - 300 * HOUR,) * 2)
        scene.truth.remember()
        for _ in range(4):
            await storage.run_cycle()
            assert scene.truth.lost(scene.closed) == {}
        assert scene.truth.whole_in_store(path)
