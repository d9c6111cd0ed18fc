"""What runs beside a busy broker takes second place: in the page cache, and to whoever waits for a restore."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from takhin_tiered import State, Step, TieredStorage
from takhin_tiered.engine.turns import Turn, Turns
from tests.support import AtPoint, Broker, Bucket, parts, store_settings


def in_page_cache(path: Path) -> bool:
    """Whether most of the file could be read without a disk.

    Not all: the kernel holds some pages a little longer, which the network has just sent.
    """
    with path.open("rb") as file:
        pages = [_is_page_cached(file.fileno(), at) for at in range(0, path.stat().st_size, 4096)]
    return sum(pages) > len(pages) / 2


def _is_page_cached(fd: int, at: int) -> bool:
    """Source: preadv2(2), RWF_NOWAIT. A file system in memory cannot be asked so: what is there stays there."""
    try:
        return os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return True


def flush(path: Path, *, forget: bool = False) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if forget:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_what_was_archived_leaves_the_page_cache_and_nothing_else_does(
    broker: Broker, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the kernel does here with a file that it is told to forget: only in a file system in memory it stays.
    forgotten = tmp_path / "forgotten"
    forgotten.write_bytes(bytes(8_000_000))
    flush(forgotten, forget=True)
    stays = in_page_cache(forgotten)
    advise, told = os.posix_fadvise, set[tuple[str, int]]()

    def listen(fd: int, offset: int, length: int, advice: int) -> None:
        told.add((str(Path(f"/proc/self/fd/{fd}").readlink()), advice))
        advise(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", listen)
    cold = [broker.root / path for path in broker.segments("orders-0", 5, size=8_000_000)]
    hot = broker.root / broker.segments("clicks-0", 1, size=8_000_000, age_hours=1)[0]
    for file in (*cold, hot):
        flush(file)
        assert in_page_cache(file)
    async with TieredStorage.open(store_settings(broker, bucket, archive_mode="copy")) as storage:
        report = await storage.run_cycle()
        assert (report.copied, report.failures) == (5, [])
    # Of each it is told; of one or another it keeps the half for a while, whoever tells it.
    assert stays or not all(in_page_cache(file) for file in cold)
    for file in cold:
        assert told >= {(str(file), os.POSIX_FADV_NOREUSE), (str(file), os.POSIX_FADV_DONTNEED)}
        assert broker.is_whole(str(file.relative_to(broker.root)))
    assert not [path for path, _ in told if path == str(hot)]
    assert in_page_cache(hot)


class PatientTurns(Turns):
    """Tells who comes to give way."""

    def __init__(self) -> None:
        super().__init__(patience=1e6)
        self.asked: asyncio.Queue[Turn] = asyncio.Queue()

    async def give_way(self, turn: Turn) -> None:
        self.asked.put_nowait(turn)
        await super().give_way(turn)


async def test_no_archive_is_begun_while_a_restore_runs(broker: Broker, bucket: Bucket, at_point: AtPoint) -> None:
    (archived,) = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        waiting = broker.segments("clicks-0", 2)
        turns = parts(storage).limits.turns = PatientTurns()
        placed, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            loop.call_soon_threadsafe(placed.set)
            assert go_on.wait(60)

        begun: list[tuple[str, str]] = []

        def listener(step: Step, what: str) -> None:
            if what == "begin":
                begun.append((step.id.path, storage.segment(archived).state))

        at_point("restore.log.placed", hold)
        restore = asyncio.create_task(storage.restore_segment(archived))
        try:
            await asyncio.wait_for(placed.wait(), 60)
            cycle = asyncio.create_task(storage.run_cycle(listener))
            assert await asyncio.wait_for(turns.asked.get(), 60) is Turn.ARCHIVE
            for _ in range(10):
                await asyncio.sleep(0)
            assert begun == []
        finally:
            go_on.set()
        await restore
        report = await cycle
    assert (report.archived, report.failures) == (2, [])
    assert begun == [(path, State.COPIED) for path in waiting]
    assert broker.is_whole(archived)


async def test_no_scrub_goes_on_while_an_archive_runs(broker: Broker, bucket: Bucket) -> None:
    broker.segments("orders-0", 2)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        turns = parts(storage).limits.turns = PatientTurns()
        with turns.take(Turn.ARCHIVE):
            scrub = asyncio.create_task(storage.scrub())
            assert await asyncio.wait_for(turns.asked.get(), 60) is Turn.SCRUB
            for _ in range(10):
                await asyncio.sleep(0)
            assert storage.metrics.scrubbed._value.get() == 0
        await scrub
        assert storage.metrics.scrubbed._value.get() > 0
