"""A symlink, or another directory, in the place of a partition: nothing outside the data directory is touched."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from takhin_tiered import TakhinError, TieredStorage
from tests.faults.truth import Folder, Truth
from tests.support import AtPoint, Broker, directory_settings

PARTITION = "orders-0"
ARCHIVE = [
    "archive.intended", "archive.log.stored", "archive.index.stored", "archive.before.manifest", "archive.committed",
    "archive.journaled", "evict.begin", "evict.log.unlinked", "evict.index.unlinked", "evict.timeindex.unlinked",
]  # fmt: skip
RESTORE = [
    "restore.index.downloaded", "restore.timeindex.downloaded", "restore.log.downloaded", "restore.index.placed",
    "restore.timeindex.placed", "restore.log.placed",
]  # fmt: skip


class Outside:
    """A directory of somebody else, with files of the same names, and a link or a directory that leads to it."""

    def __init__(self, broker: Broker, home: Path, how: str) -> None:
        self.broker, self.how = broker, how
        self.root = home / "outside"
        self.root.mkdir()
        for name, content in broker.files.items():
            if name.startswith(PARTITION):
                (self.root / Path(name).name).write_bytes(content[::-1])
        (self.root / "precious").write_bytes(b"precious")
        self.before = self.look()
        self.place, self.aside = broker.root / PARTITION, broker.root / f"{PARTITION}.aside"

    def look(self) -> dict[str, tuple[bytes, int, int]]:
        found = {}
        for entry in os.scandir(self.root):
            status = entry.stat()
            found[entry.name] = (Path(entry.path).read_bytes(), status.st_mtime_ns, status.st_ino)
        return found

    def swap_in(self) -> None:
        with suppress(FileNotFoundError):
            self.place.rename(self.aside)
        # A restore may have made the partition anew in between: then it stands there.
        with suppress(FileExistsError):
            if self.how == "symlink":
                self.place.symlink_to(self.root)
            elif self.how == "relative symlink":
                self.place.symlink_to("../outside")

    def swap_back(self) -> None:
        if self.place.is_symlink():
            self.place.unlink()
        if self.aside.exists():
            # A restore may have made the partition anew meanwhile, and may be filling it at any moment.
            while not self._renamed_back():
                for file in self.place.iterdir():
                    with suppress(FileNotFoundError):
                        file.rename(self.aside / file.name)

    def _renamed_back(self) -> bool:
        """Over a directory that is empty; False where it is not."""
        try:
            self.aside.rename(self.place)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True


@pytest.fixture(params=["symlink", "relative symlink", "moved away"])
def outside(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Outside:
    broker.segments(PARTITION, 3)
    return Outside(broker, tmp_path, request.param)


@pytest.mark.parametrize("point", [*ARCHIVE, *RESTORE])
async def test_a_path_swapped_at_any_step_leads_nowhere(
    broker: Broker, tmp_path: Path, outside: Outside, at_point: AtPoint, point: str
) -> None:
    closed = [name for name in broker.files if name.endswith(".log")][:3]
    truth = Truth(broker, Folder(tmp_path / "store"))
    truth.remember()
    settings = directory_settings(broker, tmp_path / "store", state_path=tmp_path / "state", archive_concurrency=1)
    async with TieredStorage.open(settings) as storage:
        if point in RESTORE:
            await storage.run_cycle()
        reached = at_point(point, outside.swap_in)
        if point in RESTORE:
            with suppress(TakhinError):
                await storage.restore_segment(closed[0])
        else:
            await storage.run_cycle()
        assert reached
        assert outside.look() == outside.before
        outside.swap_back()
        for _ in range(2):
            await storage.run_cycle()
        assert truth.lost(closed) == {}
        assert outside.look() == outside.before
        for path in closed:
            await storage.restore_segment(path)
            assert truth.whole_on_disk(path)


async def test_a_path_that_is_swapped_all_the_time_leads_nowhere(
    broker: Broker, tmp_path: Path, outside: Outside
) -> None:
    closed = [name for name in broker.files if name.endswith(".log")][:3]
    truth = Truth(broker, Folder(tmp_path / "store"))
    truth.remember()
    settings = directory_settings(
        broker, tmp_path / "store", state_path=tmp_path / "state", restore_lease_hours=0.0, archive_concurrency=2
    )
    ended = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not ended.is_set():
            outside.swap_in()
            outside.swap_back()
            swaps += 1

    swapper = threading.Thread(target=swap)
    async with TieredStorage.open(settings) as storage:
        swapper.start()
        try:
            for _ in range(25):
                with suppress(TakhinError):
                    await storage.run_cycle()
                await asyncio.gather(*(storage.restore_segment(path) for path in closed), return_exceptions=True)
        finally:
            ended.set()
            swapper.join()
        assert swaps > 25
        assert outside.look() == outside.before
        for _ in range(2):
            await storage.run_cycle()
        assert truth.lost(closed) == {}
        for path in closed:
            await storage.restore_segment(path)
            assert truth.whole_on_disk(path)
    assert outside.look() == outside.before
