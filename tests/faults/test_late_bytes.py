"""What a broker does late, and no time of a file tells: its bytes are in the archive, or on the disk.

A store to a mapped page that is dirty already changes no time: brokers map their indexes.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from takhin_tiered import SegmentChanged, State, TieredStorage
from takhin_tiered.disk.files import DataDir
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.disk.scan import scan
from takhin_tiered.segments.listing import PartitionListing
from tests.faults.truth import Folder
from tests.support import KINDS, AtPoint, Broker, directory_settings, parts


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file as a broker maps it, its first page dirty."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(descriptor, 0) as memory:
            memory[0] = memory[0]
            yield memory
    finally:
        os.close(descriptor)


async def test_what_changes_while_a_segment_settles_is_archived(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        with mapped(broker.root / path) as memory:
            before = bytes(memory)
            archiving = asyncio.create_task(storage.archive_segment(path))
            # The first look is over long before the wait for a change is.
            await asyncio.sleep(0.5)
            assert not archiving.done()
            memory[200] ^= 1
            try:
                await archiving
                held = Folder(tmp_path / "store").read(path)
            except SegmentChanged:
                # The kernel wrote the page out meanwhile, and so noticed the store to it.
                held = (broker.root / path).read_bytes()
            assert held == bytes(memory) != before


async def test_each_attempt_reads_what_it_sends(broker: Broker, tmp_path: Path, at_point: AtPoint) -> None:
    path = broker.segments("orders-0", 1)[0]
    index = path.replace(".log", ".index")
    store = Folder(tmp_path / "store")
    with mapped(broker.root / index) as memory:
        async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
            store.write(path, b"somebody else's")
            reached = at_point("archive.intended", lambda: memory.__setitem__(0, memory[0] ^ 1))
            await storage.archive_segment(path)
            assert reached
            assert store.read(index.replace(".index", ".g2.index")) == bytes(memory)


@pytest.mark.parametrize("then", ["nothing", "symlink", "directory"])
async def test_a_partition_that_is_moved_while_it_is_listed_keeps_its_files(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_point: AtPoint, then: str
) -> None:
    path = broker.segments("orders-0", 2)[0]
    place, aside = broker.root / "orders-0", tmp_path / "aside"
    active = max(place.glob("*.log"))

    def move_and_look(data_dir: DataDir, name: str) -> PartitionListing | None:
        place.rename(aside)
        if then == "symlink":
            place.symlink_to(aside)
        if then == "directory":
            place.mkdir()
            (place / "00000000000000999999.log").write_bytes(b"x")
        return scan_partition(data_dir, name)

    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        # The broker truncates: the log that was active is gone, so the directory is listed.
        for file in place.glob(f"{active.stem}.*"):
            file.unlink()
        reached = at_point(
            "evict.begin", lambda: monkeypatch.setattr("takhin_tiered.engine.evict.scan_partition", move_and_look)
        )
        with pytest.raises(SegmentChanged):
            await storage.archive_segment(path)
        assert reached
        assert len(list(aside.glob(f"{Path(path).stem}.*"))) == len(KINDS)


async def test_what_a_verb_found_outweighs_a_scan_that_looked_before(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    place, aside = broker.root / "orders-0", tmp_path / "aside"
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store", archive_mode="copy")) as storage:
        await storage.run_cycle()
        catalog, data_dir, memory = parts(storage).catalog, parts(storage).data_dir, parts(storage).scanner.memory
        place.rename(aside)
        catalog.begin_scan()
        listings = list(scan(data_dir, memory, catalog.unsettled_offsets, known=1))
        aside.rename(place)
        assert (await storage.archive_segment(path)).state == State.COPIED
        for listing in listings:
            catalog.observe(listing)
        catalog.observe_missing({(listing.topic, listing.partition) for listing in listings})
        assert storage.segment(path).state == State.COPIED
