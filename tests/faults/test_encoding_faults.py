"""What can go wrong while segments are encoded and decoded: nothing is lost, nothing wrong is stored or restored."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import DiskError, DiskFull, Settings, TieredStorage
from takhin_tiered.codec import chunks, zstd
from tests.decoding import keys_in
from tests.faults.disk import ERRORS, DiskFault, FaultyOs
from tests.faults.proxy import Fault, Kind, Proxy
from tests.faults.truth import Folder, Truth
from tests.support import AtPoint, Broker, Bucket, directory_settings, store_settings

LARGE = "orders-0/00000000000000000000.log"
SPOOL = "(deleted)"
"""How the kernel shows a file without a name."""


class Scene:
    """A large segment, whose log is spooled, and two small ones, which are encoded in memory."""

    def __init__(self, broker: Broker, home: Path, make: Callable[..., Settings]) -> None:
        self.broker, self._make, self.state = broker, make, home / "state"
        self.key_file = home / "keys"
        self.key_file.write_text(f"first {base64.b64encode(os.urandom(32)).decode()}\n")
        self.large = broker.segments("orders-0", 1, size=600_000)
        self.small = broker.segments("audit-1", 2)
        self.closed = self.large + self.small

    def settings(self, *, key: bool = True, **changes: Any) -> Settings:
        secret = {"encryption_key_file": self.key_file} if key else {}
        codec = {"compression_codec": "zstd", "chunk_size_mb": 1 / 16, "state_path": self.state}
        return self._make(**(codec | secret | changes))


@pytest.fixture
def scene(broker: Broker, tmp_path: Path) -> Scene:
    return Scene(broker, tmp_path, lambda **changes: directory_settings(broker, tmp_path / "store", **changes))


@pytest.fixture
def truth(scene: Scene, tmp_path: Path) -> Truth:
    found = Truth(scene.broker, Folder(tmp_path / "store"), keys=keys_in(scene.key_file))
    found.remember()
    return found


@pytest.fixture
def faulty(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    stand_in = FaultyOs(tmp_path)
    for module in ("vault.stored", "filesystems", "disk.files", "engine.incoming", "store.landing"):
        monkeypatch.setattr(f"takhin_tiered.{module}.os", stand_in)
    return stand_in


async def require_finished(scene: Scene, truth: Truth) -> None:
    """All is well again: a cycle archives what is left, and a restore brings back all."""
    assert truth.lost(scene.closed) == {}
    async with TieredStorage.open(scene.settings()) as storage:
        for _ in range(2):
            assert (await storage.run_cycle()).failures == []
        assert all(truth.whole_in_store(path) and not scene.broker.on_disk(path) for path in scene.closed)
        assert truth.orphans() == []
        for path in scene.closed:
            await storage.restore_segment(path)
    assert all(truth.whole_on_disk(path) for path in scene.closed)
    assert truth.temporary_files() == []
    assert left_in(scene.state) == []


def left_in(state: Path) -> list[str]:
    """Files of the state directory that are neither the catalog's, nor the lock, nor the cache of readers."""
    return [path.name for path in state.iterdir() if not path.name.startswith(("catalog.db", "lock", "cache"))]


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EACCES", "EROFS"])
@pytest.mark.parametrize(("operation", "skip"), [("open", 0), ("pwrite", 0), ("pwrite", 3)])
async def test_encoded_bytes_that_find_no_room_are_told_and_stop_no_other(
    scene: Scene, truth: Truth, faulty: FaultyOs, operation: str, skip: int, error: str
) -> None:
    async with TieredStorage.open(scene.settings()) as storage:
        ending = SPOOL if operation == "pwrite" else "/state"
        faulty.faults.append(fault := DiskFault(operation, ending, ERRORS[error], skip=skip))
        report = await storage.run_cycle()
        assert fault.hits > 0
        ((path, message),) = report.failures
        assert path == LARGE
        assert LARGE in message
        assert "state directory" in message
        code = storage.segment(LARGE).last_failure
        assert "room" in code if error == "ENOSPC" else "cannot be kept" in code
        assert truth.whole_on_disk(LARGE)
        assert {key.partition("/")[0] for key in truth.store.keys()} == {"audit-1"}  # noqa: SIM118
        assert all(truth.whole_in_store(small) for small in scene.small)
        with pytest.raises(DiskFull if error == "ENOSPC" else DiskError):
            await storage.archive_segment(LARGE)
    faulty.faults.clear()
    await require_finished(scene, truth)


async def test_a_full_disk_can_still_be_emptied_where_nothing_is_encrypted(scene: Scene, truth: Truth) -> None:
    # No disk is that large.
    full = scene.settings(key=False, restore_reserve_mb=1e12)
    async with TieredStorage.open(full) as storage:
        assert (await storage.run_cycle()).failures == []
    assert truth.store.read(LARGE) == scene.broker.files[LARGE]
    assert all(truth.whole_in_store(path) and not scene.broker.on_disk(path) for path in scene.closed)


async def test_what_is_encrypted_leaves_the_reserve_of_the_disk(scene: Scene, truth: Truth) -> None:
    async with TieredStorage.open(scene.settings(restore_reserve_mb=1e12)) as storage:
        with pytest.raises(DiskFull, match=r"restore\.reserve\.mb.*storage\.tiered\.state\.dir") as raised:
            await storage.archive_segment(LARGE)
    assert raised.value.segment == LARGE
    assert truth.whole_on_disk(LARGE)
    assert truth.store.keys() == []
    await require_finished(scene, truth)


async def test_a_file_system_without_unnamed_files_keeps_no_names_either(
    scene: Scene, truth: Truth, faulty: FaultyOs
) -> None:
    async with TieredStorage.open(scene.settings()) as storage:
        # As a process left it that was killed at the wrong moment.
        (scene.state / "unnamed-left").write_bytes(b"part of a segment")
        faulty.faults.append(fault := DiskFault("open", "/state", errno.EOPNOTSUPP))
        assert (await storage.run_cycle()).failures == []
        assert fault.hits > 0
        assert left_in(scene.state) == []
    await require_finished(scene, truth)


@pytest.mark.parametrize("point", ["archive.before.encoding", "archive.encoding", "archive.encoded"])
async def test_a_file_that_changes_while_it_is_encoded_is_not_archived(
    scene: Scene, truth: Truth, at_point: AtPoint, point: str
) -> None:
    path = scene.broker.root / LARGE
    content = scene.broker.files[LARGE][::-1]

    def change() -> None:
        status = path.stat()
        with path.open("r+b") as opened:
            opened.write(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        scene.broker.files[LARGE] = content

    async with TieredStorage.open(scene.settings(archive_concurrency=1, topics_include=["orders"])) as storage:
        seen = at_point(point, change)
        report = await storage.run_cycle()
        assert seen == [point]
        assert [failed for failed, _ in report.failures] == [LARGE]
        assert "changed" in report.failures[0][1]
        assert truth.whole_on_disk(LARGE)
        assert truth.store.keys() == []
    await require_finished(scene, truth)


def of_other_bytes(plain: bytes | memoryview, level: int) -> bytes:
    return REAL_COMPRESS(bytes(plain)[:-1] + b"!", level)


def of_no_frame(plain: bytes | memoryview, level: int) -> bytes:
    return REAL_COMPRESS(plain, level)[:-3]


REAL_COMPRESS = zstd.compress


@pytest.mark.parametrize("broken", [of_other_bytes, of_no_frame])
@pytest.mark.parametrize("key", [False, True])
async def test_what_does_not_decode_to_the_file_is_not_stored(
    scene: Scene,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[bytes | memoryview, int], bytes],
    key: bool,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(chunks, "compress", broken)
        async with TieredStorage.open(scene.settings(key=key)) as storage:
            report = await storage.run_cycle()
    assert {path for path, _ in report.failures} == set(scene.closed)
    assert all("do not decode to the original" in message for _, message in report.failures)
    assert all(truth.whole_on_disk(path) for path in scene.closed)
    assert truth.store.keys() == []
    await require_finished(scene, truth)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("skip", [0, 3])
async def test_a_disk_that_refuses_decoded_bytes_gets_nothing(
    scene: Scene, truth: Truth, faulty: FaultyOs, error: str, skip: int
) -> None:
    async with TieredStorage.open(scene.settings()) as storage:
        await storage.run_cycle()
        faulty.faults.append(fault := DiskFault("pwrite", ".log.takhin-tmp", ERRORS[error], skip=skip))
        with pytest.raises(DiskFull if error == "ENOSPC" else DiskError) as raised:
            await storage.restore_segment(LARGE)
        assert fault.hits == 1
        assert raised.value.segment == LARGE
        assert scene.broker.on_disk(LARGE) == []
        assert truth.temporary_files() == []
    faulty.faults.clear()
    await require_finished(scene, truth)


@pytest.mark.parametrize("kind", [Kind.CUT_RESPONSE, Kind.HANG_BODY])
@pytest.mark.parametrize("key", [False, True])
async def test_a_download_that_breaks_off_within_a_chunk_goes_on(
    broker: Broker,
    bucket: Bucket,
    between: Proxy,
    tmp_path: Path,
    kind: Kind,
    key: bool,
) -> None:
    scene = Scene(
        broker,
        tmp_path,
        lambda **changes: store_settings(broker, bucket, **({"s3_endpoint": between.endpoint} | changes)),
    )
    async with TieredStorage.open(scene.settings(key=key)) as storage:
        assert (await storage.run_cycle()).failures == []
        between.faults.append(fault := Fault(kind, "GET", LARGE, count=2))
        await storage.restore_segment(LARGE)
    assert fault.hits == 2
    assert broker.is_whole(LARGE)
