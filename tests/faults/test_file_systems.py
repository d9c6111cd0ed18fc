"""File systems that lack something: owners, modes, times, hard links, flushing, locks. No byte depends on those."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from takhin_tiered import TieredStorage, filesystems
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.disk.lock import DataDirLock, read_holder
from takhin_tiered.errors import DiskError, HeldElsewhere, ObjectExists
from takhin_tiered.store.directory import DirectoryStore
from tests.faults.disk import DiskFault, FaultyOs
from tests.faults.test_disk_faults import Scene
from tests.support import HOUR, Broker, directory_settings, environment

BLOCK = 4096
LACKING = [
    ("fchown", "EPERM"), ("fchown", "EINVAL"), ("fchmod", "EPERM"), ("fchmod", "EACCES"), ("utime", "EPERM"),
    ("utime", "ENOSYS"), ("link", "EPERM"), ("link", "EOPNOTSUPP"), ("link", "EMLINK"), ("fsync", "EINVAL"),
    ("fsync", "EROFS"),
]  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    data = tmp_path / "data"
    data.mkdir()
    return Scene(data, tmp_path)


@pytest.fixture(autouse=True)
def _tell_again() -> None:
    filesystems._warned.clear()


def lacking(monkeypatch: pytest.MonkeyPatch, root: Path, operation: str, error: str, ending: str = "") -> DiskFault:
    """A file system below ``root`` that refuses an operation."""
    stand_in = FaultyOs(root)
    fault = DiskFault(operation, ending, getattr(errno, error))
    stand_in.faults.append(fault)
    monkeypatch.setattr("takhin_tiered.filesystems.os", stand_in)
    return fault


@pytest.mark.parametrize(("operation", "error"), LACKING)
async def test_a_data_directory_that_lacks_something_gets_its_segments_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, operation: str, error: str
) -> None:
    if operation == "fchown":
        if os.geteuid():
            pytest.skip("only root restores what belongs to another user")
        for directory in (scene.broker.root, *scene.broker.root.iterdir()):
            os.chown(directory, 1234, 1234)
    fault = lacking(monkeypatch, scene.broker.root, operation, error)
    async with TieredStorage.open(scene.settings) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        with capture_logs() as logs:
            for path in scene.closed:
                await storage.restore_segment(path)
        assert fault.hits > 0
        assert all(scene.broker.is_whole(path) for path in scene.closed)
        warnings = [line for line in logs if line["log_level"] == "warning"]
        assert len(warnings) == len({line["event"] for line in warnings}), "each is told once"
        # A rename does the same as a link: nothing is to be told of it.
        assert (operation == "link") == (not warnings)
        assert scene.truth.lost(scene.closed) == {}
        if operation != "utime":
            scene.require_sound(storage)


@pytest.mark.parametrize(("operation", "error"), [("link", "EPERM"), ("link", "ENOSYS"), ("fsync", "EINVAL")])
async def test_a_store_directory_that_lacks_something_archives(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, operation: str, error: str
) -> None:
    fault = lacking(monkeypatch, scene.store, operation, error)
    async with TieredStorage.open(scene.settings) as storage:
        report = await storage.run_cycle()
        assert fault.hits > 0
        assert report.failures == []
        scene.require_sound(storage)
        await scene.require_finished(storage)


async def test_a_store_whose_flush_fails_has_archived_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = lacking(monkeypatch, scene.store / ".takhin-tmp", "fsync", "EIO")
    async with TieredStorage.open(scene.settings) as storage:
        with pytest.raises(Exception, match="Input/output error"):
            await storage.archive_segment(scene.closed[0])
        assert fault.hits > 0
        assert all(scene.broker.is_whole(path) for path in scene.closed)


async def test_a_file_system_that_stopped_is_not_taken_for_one_that_cannot_flush(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel answers EROFS to a flush there too: it takes no change of a mode either, and bytes are lost."""
    async with TieredStorage.open(scene.settings) as storage:
        await storage.run_cycle()
        stand_in = FaultyOs(scene.broker.root)
        stand_in.faults += [DiskFault("fsync", "orders-0", errno.EROFS), DiskFault("fchmod", "orders-0", errno.EROFS)]
        monkeypatch.setattr("takhin_tiered.filesystems.os", stand_in)
        with pytest.raises(DiskError, match="Read-only file system"):
            await storage.restore_segment(scene.closed[0])
        assert scene.broker.on_disk(scene.closed[0]) == []


def without_any_of_them(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Neither hard links nor a rename that replaces nothing: some FUSE file systems."""
    lacking(monkeypatch, root, "link", "EPERM")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("takhin_tiered.filesystems._rename_without_replacing", refuse)


@pytest.mark.parametrize("with_renameat2", [True, False])
def test_a_name_that_is_taken_stays_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_renameat2: bool
) -> None:
    if with_renameat2:
        lacking(monkeypatch, tmp_path, "link", "EPERM")
    else:
        without_any_of_them(monkeypatch, tmp_path)
    (tmp_path / "temp").write_bytes(b"new")
    (tmp_path / "taken").write_bytes(b"old")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            filesystems.move_to_free_name("temp", "taken", source=fd, target=fd)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"temp": b"new", "taken": b"old"}
        filesystems.move_to_free_name("temp", "free", source=fd, target=fd)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"free": b"new", "taken": b"old"}
    finally:
        os.close(fd)


async def test_one_of_many_conditional_writes_wins_where_nothing_is_atomic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from takhin_tiered.codec.checksums import bytes_source, checksum_of
    from takhin_tiered.concurrency import all_of

    without_any_of_them(monkeypatch, tmp_path)
    store = DirectoryStore(tmp_path)

    async def write(number: int) -> int:
        data = b"%d" % number
        source = bytes_source(data)
        try:
            await store.put("a/key", source, size=len(data), checksum=checksum_of(source, len(data)), if_absent=True)
        except ObjectExists:
            return -1
        return number

    won = [number for number in await all_of([write(number) for number in range(20)]) if number >= 0]
    assert len(won) == 1
    assert await store.read("a/key") == b"%d" % won[0]


def test_whoever_waits_for_a_directory_without_links_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_any_of_them(monkeypatch, tmp_path)
    (tmp_path / "temp").write_bytes(b"new")
    fd, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    fcntl.flock(other, fcntl.LOCK_EX)
    mover = threading.Thread(
        target=filesystems.move_to_free_name, args=("temp", "name"), kwargs={"source": fd, "target": fd}
    )
    mover.start()
    mover.join(0.2)
    assert not (tmp_path / "name").exists()
    os.close(other)
    mover.join(10)
    assert (tmp_path / "name").read_bytes() == b"new"
    os.close(fd)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root restores what belongs to another user")
def test_root_without_the_right_to_give_files_away_restores(broker: Broker, tmp_path: Path) -> None:
    """As in a container whose capabilities were dropped, or on NFS that squashes root."""
    closed = broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    program = [sys.executable, "-m", "takhin_tiered"]
    subprocess.run([*program, "run", "--once"], env=environment(settings), check=True, capture_output=True)
    assert broker.on_disk(closed[0]) == []
    os.chown(broker.root / "orders-0", 1234, 1234)
    os.chmod(broker.root / "orders-0", 0o777)
    drop = [
        "setpriv",
        "--bounding-set",
        "-chown",
        "--inh-caps",
        "-chown",
        "--",
        "capsh",
        "--drop=cap_chown",
        "--",
        "-c",
    ]
    ended = subprocess.run(
        [*drop, f"exec {' '.join(program)} restore {closed[0]}"],
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, broker.is_whole(closed[0])) == (0, True)
    assert ended.stderr.count("cannot be given to user 1234") == 1


def refusing_flock(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    class NoFlock:
        def __getattr__(self, name: str) -> Any:
            return getattr(fcntl, name)

        def flock(self, *_: Any) -> None:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr("takhin_tiered.filesystems.fcntl", NoFlock())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_another_kind_of_lock_is_taken_where_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refusing_flock(monkeypatch, code)
    (tmp_path / "data").mkdir()
    first, second = (DataDirLock(DataDirs.open([tmp_path / "data"]), tmp_path / "state") for _ in range(2))
    first.acquire()
    first.announce("http://127.0.0.1:1")
    holder = read_holder(tmp_path / "state")
    assert holder is not None
    assert (holder.pid, holder.api) == (os.getpid(), "http://127.0.0.1:1")
    with pytest.raises(HeldElsewhere):
        second.acquire()
    first.release()
    assert read_holder(tmp_path / "state") is None
    second.acquire()
    second.release()


def test_without_any_locks_a_living_process_keeps_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise filesystems.NoLocks(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("takhin_tiered.filesystems.lock", refuse)
    (tmp_path / "data").mkdir()
    lock = DataDirLock(DataDirs.open([tmp_path / "data"]), tmp_path / "state")
    lock.acquire()
    monkeypatch.setattr("takhin_tiered.disk.lock.os.getpid", os.getppid)
    lock.announce("")
    monkeypatch.undo()
    monkeypatch.setattr("takhin_tiered.filesystems.lock", refuse)
    assert read_holder(tmp_path / "state") is not None
    with pytest.raises(HeldElsewhere, match=f"process {os.getppid()}"):
        DataDirLock(DataDirs.open([tmp_path / "data"]), tmp_path / "state").acquire()
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    (tmp_path / "state" / "lock").write_text(
        (tmp_path / "state" / "lock").read_text().replace(str(os.getppid()), str(dead.pid))
    )
    assert read_holder(tmp_path / "state") is None


async def test_holes_come_back_as_holes_and_zeros_as_zeros(broker: Broker, tmp_path: Path) -> None:
    broker.root.joinpath("orders-0").mkdir()
    log = broker.root / "orders-0" / "00000000000000000000.log"
    content = bytearray(40 << 20)
    # Bytes at the edges of blocks, in blocks alone, and a block whose first byte alone is zero.
    for at in (0, 5 * BLOCK - 1, 9 * BLOCK, 9 * BLOCK + BLOCK - 1, (33 << 20) + 7):
        content[at] = 1
    content[20 * BLOCK + 1 : 21 * BLOCK] = b"x" * (BLOCK - 1)
    with log.open("wb") as file:
        for at in range(0, len(content), BLOCK):
            if any(content[at : at + BLOCK]):
                file.seek(at)
                file.write(content[at : at + BLOCK])
        file.truncate(len(content))
        os.fsync(file.fileno())
    index = log.with_suffix(".index")
    with index.open("wb") as file:
        file.truncate((10 << 20) + 3)
    broker.next_offset["orders-0"] = 1000
    broker.segment("orders-0")
    for path in (log, index):
        os.utime(path, (log.stat().st_mtime - 300 * HOUR,) * 2)
    before = {path: path.stat().st_blocks for path in (log, index)}
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        assert not log.exists()
        await storage.restore_segment("orders-0/00000000000000000000.log")
    assert log.read_bytes() == content
    assert index.read_bytes() == bytes((10 << 20) + 3)
    assert {path: path.stat().st_blocks for path in (log, index)} == before


WITHOUT_FLUSHES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int below(int fd) {
  char link[64], path[4096];
  snprintf(link, 64, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, 4095);
  if (size < 0) return 0;
  path[size] = 0;
  return !strncmp(path, getenv("SHARE"), strlen(getenv("SHARE")));
}
int fsync(int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
  if (below(fd)) { errno = EINVAL; return -1; }
  return real(fd);
}
int fdatasync(int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
  if (below(fd)) { errno = EINVAL; return -1; }
  return real(fd);
}
"""


@pytest.mark.long
def test_nothing_can_be_flushed_anywhere(broker: Broker, tmp_path: Path) -> None:
    """The database of the catalog neither: a whole process on a file system that answers EINVAL."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler is here")
    source, library = tmp_path / "share.c", tmp_path / "share.so"
    source.write_text(WITHOUT_FLUSHES)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    closed = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store")
    variables = {**environment(settings), "LD_PRELOAD": str(library), "SHARE": str(tmp_path)}
    for arguments in (["run", "--once"], ["restore", "*"], ["verify", "--deep"]):
        ended = subprocess.run(
            [sys.executable, "-m", "takhin_tiered", *arguments],
            env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert all(broker.is_whole(path) for path in closed)
    assert not list(settings.state_dir.glob("flushed*"))
