"""Several data directories as one: a partition stands in one of them, wherever a broker moves it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered.disk.files import DataDir, DataDirs, DuplicatePartition
from takhin_tiered.disk.lock import DataDirLock
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.disk.scan import ScanMemory, scan
from takhin_tiered.errors import HeldElsewhere
from takhin_tiered.segments.listing import PartitionListing
from tests.support import Broker


@pytest.fixture
def brokers(tmp_path: Path) -> list[Broker]:
    """Three directories of one broker."""
    made = [Broker(tmp_path / name) for name in ("a", "b", "c")]
    for each in made:
        each.root.mkdir()
    return made


@pytest.fixture
def dirs(brokers: list[Broker]) -> Iterator[DataDirs]:
    opened = DataDirs.open([each.root for each in brokers])
    yield opened
    opened.close()


def by_name(listings: Iterator[PartitionListing]) -> dict[str, PartitionListing]:
    found = list(listings)
    named = {listing.directory: listing for listing in found}
    assert len(named) == len(found)
    return named


def test_a_scan_sees_the_partitions_of_all_directories_in_order(brokers: list[Broker], dirs: DataDirs) -> None:
    for number, name in enumerate(("orders-1", "orders-0", "audit-0", "orders-3")):
        brokers[number % 3].segments(name, number + 1)
    found = by_name(scan(dirs, ScanMemory()))
    assert list(found) == ["audit-0", "orders-0", "orders-1", "orders-3"]
    assert [len(listing.rows) for listing in found.values()] == [4, 3, 2, 5]
    assert not any(listing.problem for listing in found.values())


@pytest.mark.parametrize("alone", [0, 1000])
def test_a_partition_that_stands_twice_is_a_problem_that_names_both(
    brokers: list[Broker], dirs: DataDirs, alone: int
) -> None:
    brokers[0].segments("orders-0", 1)
    brokers[2].segments("orders-0", 2)
    brokers[1].segments("orders-1", 1)
    for number in range(3):
        brokers[1].segments(f"other-{number}", 1)
    found = by_name(scan(dirs, ScanMemory(), helper_threshold=alone))
    for path in (brokers[0].root / "orders-0", brokers[2].root / "orders-0"):
        assert str(path) in found["orders-0"].problem
    assert found["orders-0"].rows == {}
    assert [name for name, listing in found.items() if listing.problem] == ["orders-0"]
    with pytest.raises(DuplicatePartition), dirs.partition("orders-0"):
        pass
    with pytest.raises(DuplicatePartition):
        scan_partition(dirs, "orders-0")


def test_a_partition_that_moved_is_seen_where_it_is_now(brokers: list[Broker], dirs: DataDirs) -> None:
    path = brokers[0].segments("orders-0", 2)[0]
    memory = ScanMemory(full_below=0)
    for each in brokers:
        if (each.root / "orders-0").exists():
            os.utime(each.root / "orders-0", (time.time() - 60,) * 2)
    before = by_name(scan(dirs, memory))["orders-0"]
    assert by_name(scan(dirs, memory))["orders-0"].partial
    # As Kafka does: copied under another name, then both change theirs.
    (brokers[1].root / "orders-0.0123-future").mkdir()
    for file in (brokers[0].root / "orders-0").iterdir():
        (brokers[1].root / "orders-0.0123-future" / file.name).write_bytes(file.read_bytes())
    assert list(by_name(scan(dirs, memory))) == ["orders-0"]
    (brokers[0].root / "orders-0").rename(brokers[0].root / "orders-0.0123-delete")
    (brokers[1].root / "orders-0.0123-future").rename(brokers[1].root / "orders-0")
    after = by_name(scan(dirs, memory))["orders-0"]
    assert (after.partial, after.problem, after.active) == (False, "", before.active)
    assert after.rows.keys() == before.rows.keys()
    assert after.rows != before.rows
    with dirs.partition("orders-0") as partition, partition.open(Path(path).name) as opened:
        assert opened.read(0, 1 << 20) == brokers[0].files[path]


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_what_moves_while_the_directories_are_read_is_not_lost(
    brokers: list[Broker], dirs: DataDirs, monkeypatch: pytest.MonkeyPatch, source: int, target: int
) -> None:
    brokers[source].segments("orders-0", 1)
    read = DataDir.names
    reads = []

    def names(root: DataDir) -> list[str]:
        found = read(root)
        reads.append(root)
        if len(reads) == 2:
            (brokers[source].root / "orders-0").rename(brokers[target].root / "orders-0")
        return found

    monkeypatch.setattr(DataDir, "names", names)
    (listing,) = scan(dirs, ScanMemory())
    assert (listing.directory, len(listing.rows), listing.problem) == ("orders-0", 2, "")


def test_a_partition_that_moves_between_two_looks_is_found(
    brokers: list[Broker], dirs: DataDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (brokers[2].root / "orders-0").mkdir()
    has = DataDir.has
    looks = []

    def look(root: DataDir, name: str) -> bool:
        found = has(root, name)
        looks.append(root)
        if len(looks) == 1:
            (brokers[2].root / name).rename(brokers[0].root / name)
        return found

    monkeypatch.setattr(DataDir, "has", look)
    assert dirs.root_of("orders-0") is dirs.roots[0]
    assert dirs.root_of("orders-1") is None


def test_a_directory_is_out_of_place_when_it_moved_or_stands_twice(brokers: list[Broker], dirs: DataDirs) -> None:
    one, other = (each.root / "orders-0" for each in brokers[:2])
    one.mkdir()
    with dirs.partition("orders-0") as partition:
        assert partition.is_in_place()
        other.mkdir()
        assert not partition.is_in_place()
        one.rename(one.with_name("orders-0.0123-delete"))
        assert not partition.is_in_place()
        other.rmdir()
        assert not partition.is_in_place()
        one.with_name("orders-0.0123-delete").rename(one)
        assert partition.is_in_place()


def room(monkeypatch: pytest.MonkeyPatch, dirs: DataDirs, *free: tuple[int, int]) -> None:
    """So many bytes free, on the file system of this number, for each directory."""
    for root, (device, left) in zip(dirs.roots, free, strict=True):
        monkeypatch.setattr(root, "device", device)
        monkeypatch.setattr(root, "free_bytes", lambda left=left: left)


def test_a_new_partition_goes_where_most_room_is_and_stays_there(
    brokers: list[Broker], dirs: DataDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, dirs, (1, 100), (2, 300), (3, 200))
    with dirs.partition("orders-0", create=True) as partition:
        assert partition.is_in_place()
    assert (brokers[1].root / "orders-0").is_dir()
    room(monkeypatch, dirs, (1, 100), (2, 0), (3, 200))
    with dirs.partition("orders-0", create=True):
        pass
    assert [each.root for each in brokers if (each.root / "orders-0").exists()] == [brokers[1].root]


def test_a_new_partition_goes_where_the_room_was_looked_for(
    brokers: list[Broker], dirs: DataDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, dirs, (1, 100), (2, 300), (3, 200))
    dirs.held[2] += 250
    assert dirs.root_for("orders-0") is dirs.roots[2]
    assert dirs.free_bytes("orders-0") == 200
    dirs.held[2] -= 250
    with dirs.partition("orders-0", create=True):
        pass
    assert (brokers[2].root / "orders-0").is_dir()


def test_free_bytes_count_a_file_system_once(
    brokers: list[Broker], dirs: DataDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dirs.free_bytes() == pytest.approx(dirs.roots[0].free_bytes(), rel=0.1)
    room(monkeypatch, dirs, (1, 100), (2, 300), (1, 100))
    assert dirs.free_bytes() == 400
    (brokers[2].root / "orders-0").mkdir()
    assert dirs.free_bytes("orders-0") == 100
    assert dirs.free_bytes("orders-1") == 300


def test_a_symlink_with_the_name_of_a_partition_is_opened_nowhere(brokers: list[Broker], dirs: DataDirs) -> None:
    (brokers[1].root / "orders-0").symlink_to(brokers[0].root)
    for create in (False, True):
        with pytest.raises(OSError), dirs.partition("orders-0", create=create):
            pass
    assert list(scan(dirs, ScanMemory())) == []


def test_a_directory_that_cannot_be_read_is_named(
    brokers: list[Broker], dirs: DataDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(dirs.roots[1].fd)
    dirs.roots[1].fd = os.open(brokers[1].root, os.O_PATH)
    with pytest.raises(OSError, match=str(brokers[1].root)):
        list(scan(dirs, ScanMemory()))


def test_one_that_is_not_there_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError) as told:
        DataDirs.open([tmp_path, tmp_path / "absent"])
    assert told.value.filename == str(tmp_path / "absent")
    assert len(os.listdir("/proc/self/fd")) == before


def test_all_directories_are_locked_or_none(brokers: list[Broker], tmp_path: Path) -> None:
    def opened(*numbers: int) -> DataDirs:
        return DataDirs.open([brokers[number].root for number in numbers])

    first, second, third = opened(0, 1), opened(2, 1), opened(2)
    holder = DataDirLock(first, tmp_path / "state-1")
    holder.acquire()
    refused = DataDirLock(second, tmp_path / "state-2")
    (tmp_path / "state-2").mkdir()
    (tmp_path / "state-2" / "lock").write_text('{"pid": 1, "host": "stale"}')
    with pytest.raises(HeldElsewhere, match=f"{brokers[1].root} is held by another daemon"):
        refused.acquire()
    # What the refused one took before is free again.
    other = DataDirLock(third, tmp_path / "state-3")
    other.acquire()
    other.release()
    holder.release()
    refused.acquire()
    refused.release()
    for each in (first, second, third):
        each.close()
