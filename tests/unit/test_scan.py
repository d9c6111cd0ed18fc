"""The scan, on real files: what counts as a segment, and what is left alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered.disk.files import DataDir, as_file_stat
from takhin_tiered.disk.partition_scan import scan_partition
from takhin_tiered.disk.scan import ScanMemory, scan
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.segments.model import FileStat, LocalFiles
from takhin_tiered.segments.names import TEMP_SUFFIX
from tests.support import Broker

ZERO = "00000000000000000000"


@pytest.fixture
def data_dir(broker: Broker) -> Iterator[DataDir]:
    opened = DataDir(broker.root)
    yield opened
    opened.close()


def stat_of(path: Path) -> FileStat:
    return as_file_stat(path.stat())


def write(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def one(data_dir: DataDir) -> PartitionListing:
    (listing,) = scan(data_dir, ScanMemory())
    return listing


def files_in(listing: PartitionListing) -> dict[int, LocalFiles]:
    return {offset: listing.files(offset) for offset in listing.rows}


def test_a_triple_is_seen_as_it_stands(broker: Broker, data_dir: DataDir) -> None:
    first, second = (broker.root / broker.segment("my.dashed-topic-12") for _ in range(2))
    listing = one(data_dir)
    assert (listing.topic, listing.partition, listing.directory) == ("my.dashed-topic", 12, "my.dashed-topic-12")
    offsets = [int(path.stem) for path in (first, second)]
    assert files_in(listing) == {
        offset: LocalFiles(*(stat_of(path.with_suffix(f".{kind}")) for kind in ("log", "index", "timeindex")))
        for offset, path in zip(offsets, (first, second), strict=True)
    }
    assert listing.active == offsets[1]
    assert listing.unfinished == ()


def test_an_empty_data_directory_has_nothing(data_dir: DataDir) -> None:
    assert list(scan(data_dir, ScanMemory())) == []


def test_partitions_come_by_name_and_empty_ones_too(broker: Broker, data_dir: DataDir) -> None:
    for name in ("orders-10", "orders-2", "audit-0"):
        (broker.root / name).mkdir()
    assert [listing.directory for listing in scan(data_dir, ScanMemory())] == ["audit-0", "orders-10", "orders-2"]
    assert all(files_in(listing) == {} and listing.active is None for listing in scan(data_dir, ScanMemory()))


@pytest.mark.parametrize(
    "directory",
    [
        "audit",
        "orders-0.0123456789abcdef0123456789abcdef-delete",
        "orders-0.0123456789abcdef0123456789abcdef-stray",
        "orders-0.0123456789abcdef0123456789abcdef-future",
        "orders-00",
        "orders-x",
        ".takhin-tiered",
        "lost+found",
        "bestellungen für alle-0",
        "nested/orders-0",
        "orders-99999999999",
        os.fsdecode(b"\xff\xfe-0"),
    ],
)
def test_directories_that_are_no_live_partition_are_left_alone(
    broker: Broker, data_dir: DataDir, directory: str
) -> None:
    write(broker.root / directory / f"{ZERO}.log")
    assert list(scan(data_dir, ScanMemory())) == []
    assert scan_partition(data_dir, directory) is None


def test_files_that_are_no_part_of_a_triple_are_left_alone(broker: Broker, data_dir: DataDir) -> None:
    partition = broker.root / "orders-0"
    for name in (
        "audit.log",
        "0.log",
        f"{ZERO}.log.deleted",
        f"{ZERO}.log.cleaned",
        f"{ZERO}.log.swap",
        f"{ZERO}.index.deleted",
        f"{ZERO}.snapshot.deleted",
        f"{ZERO}.LOG",
        f"{ZERO}0.log",
        "99999999999999999999.log",
        "leader-epoch-checkpoint",
        "partition.metadata",
        ".lock",
        os.fsdecode(b"\xff.log"),
    ):
        write(partition / name)
    write(broker.root / "recovery-point-offset-checkpoint")
    write(broker.root / "meta.properties")
    write(broker.root / f"{ZERO}.log")
    write(broker.root / "orders-1")  # a file with the name of a partition
    assert one(data_dir) == PartitionListing("orders", 0, {}, None)
    assert scan_partition(data_dir, "orders-1") is None


def test_what_stands_deeper_is_no_segment(broker: Broker, data_dir: DataDir) -> None:
    write(broker.root / "orders-0" / "orders-1" / f"{ZERO}.log")
    assert files_in(one(data_dir)) == {}


def test_a_symlink_is_followed_nowhere(broker: Broker, data_dir: DataDir, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside-0" / f"{ZERO}.log")
    (broker.root / "linked-0").symlink_to(outside.parent, target_is_directory=True)
    (broker.root / "orders-0").mkdir()
    (broker.root / "orders-0" / f"{ZERO}.log").symlink_to(outside)
    (broker.root / "orders-0" / f"{5:020d}.log").symlink_to(tmp_path / "nothing")
    assert [(listing.directory, files_in(listing)) for listing in scan(data_dir, ScanMemory())] == [("orders-0", {})]
    assert scan_partition(data_dir, "linked-0") is None


def test_the_data_directory_itself_may_be_a_link(broker: Broker, tmp_path: Path) -> None:
    broker.segment()
    (tmp_path / "link").symlink_to(broker.root)
    linked = DataDir(tmp_path / "link")
    assert list(files_in(one(linked))) == [0]
    linked.close()


def test_what_is_no_regular_file_is_no_segment_but_may_be_the_active_one(broker: Broker, data_dir: DataDir) -> None:
    """When in doubt a segment counts as active, so that the one before it is not mistaken for it."""
    broker.segment()
    os.mkfifo(broker.root / "orders-0" / f"{500:020d}.log")
    (broker.root / "orders-0" / f"{600:020d}.log").mkdir()
    (broker.root / "orders-0" / f"{700:020d}.index").mkdir()
    listing = one(data_dir)
    assert list(files_in(listing)) == [0]
    assert listing.active == 600


def test_missing_indexes_are_seen_as_missing(broker: Broker, data_dir: DataDir) -> None:
    path = broker.root / broker.segment()
    path.with_suffix(".index").unlink()
    assert one(data_dir).files(0) == LocalFiles(stat_of(path), None, stat_of(path.with_suffix(".timeindex")))


def test_an_index_alone_makes_nothing_active(broker: Broker, data_dir: DataDir) -> None:
    path = broker.root / broker.segment()
    index = write(path.with_name(f"{99:020d}.index"))
    listing = one(data_dir)
    assert listing.files(99) == LocalFiles(offset_index=stat_of(index))
    assert listing.active == 0
    path.unlink()
    assert one(data_dir).active is None


def test_unfinished_files_are_told_by_name_and_are_no_segment(broker: Broker, data_dir: DataDir) -> None:
    names = {f"{ZERO}.log{TEMP_SUFFIX}", f"{ZERO}.index{TEMP_SUFFIX}"}
    for name in names:
        write(broker.root / "orders-0" / name)
    listing = one(data_dir)
    assert set(listing.unfinished) == names
    assert (files_in(listing), listing.active) == ({}, None)


def test_a_directory_is_no_unfinished_file(broker: Broker, data_dir: DataDir) -> None:
    """It could not be unlinked, and would end every cycle."""
    (broker.root / "orders-0" / f"{ZERO}.log{TEMP_SUFFIX}").mkdir(parents=True)
    assert one(data_dir).unfinished == ()


def test_an_empty_file_is_a_file(broker: Broker, data_dir: DataDir) -> None:
    path = write(broker.root / "orders-0" / f"{ZERO}.log", b"")
    assert files_in(one(data_dir)) == {0: LocalFiles(stat_of(path))}


def test_each_scan_sees_what_stands_now(broker: Broker, data_dir: DataDir) -> None:
    first = broker.segment()
    before = one(data_dir)
    broker.append(first)
    second = broker.segment()
    after = one(data_dir)
    assert before.active == 0
    assert after.active == int(Path(second).stem)
    assert (
        before.files(0)
        != after.files(0)
        == LocalFiles(
            *(stat_of((broker.root / first).with_suffix(f".{kind}")) for kind in ("log", "index", "timeindex"))
        )
    )


def test_a_partition_that_vanishes_in_the_middle_was_never_there(broker: Broker, data_dir: DataDir) -> None:
    first, second = broker.segment("a-0"), broker.segment("b-0")
    listings = scan(data_dir, ScanMemory())
    assert next(listings).directory == "a-0"
    for name in broker.triple(second):
        (broker.root / name).unlink()
    (broker.root / "b-0").rmdir()
    assert list(listings) == []
    assert (broker.root / first).exists()


def test_a_data_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DataDir(tmp_path / "absent")
    write(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        DataDir(tmp_path / "file")


def aged(directory: Path, seconds: float = 60.0) -> None:
    then = time.time() - seconds
    os.utime(directory, (then, then))


def test_a_directory_that_is_as_it_was_is_not_read_again(broker: Broker, data_dir: DataDir) -> None:
    broker.segments("orders-0", 2)
    aged(broker.root / "orders-0")
    memory = ScanMemory(full_below=0)
    (first,) = scan(data_dir, memory)
    assert (first.partial, len(files_in(first))) == (False, 3)
    (second,) = scan(data_dir, memory, lambda topic, partition: [0] if (topic, partition) == ("orders", 0) else [])
    assert (second.partial, files_in(second)) == (True, {0: first.files(0)})
    # A new name in it, and it is read; while it is younger than a coarse clock tells, it is read again.
    (broker.root / "orders-0/00000000000000009999.log").write_bytes(b"rolled")
    for _ in range(2):
        (third,) = scan(data_dir, memory)
        assert (third.partial, third.active) == (False, 9999)


def test_what_changed_in_place_is_seen_where_it_is_asked_for(broker: Broker, data_dir: DataDir) -> None:
    broker.segments("orders-0", 1)
    aged(broker.root / "orders-0")
    memory = ScanMemory(full_below=0)
    (first,) = scan(data_dir, memory)
    assert first.active is not None
    active = f"orders-0/{first.active:020d}.log"
    broker.append(active)
    (second,) = scan(data_dir, memory, lambda *_: [first.active or 0])
    assert second.partial
    log = second.files(first.active).log
    assert log is not None
    assert log.size == len(broker.files[active])


def test_another_directory_of_the_same_name_and_time_is_read(broker: Broker, data_dir: DataDir, tmp_path: Path) -> None:
    broker.segments("orders-0", 1)
    place = broker.root / "orders-0"
    aged(place)
    memory = ScanMemory(full_below=0)
    list(scan(data_dir, memory))
    then = place.stat().st_mtime_ns
    place.rename(tmp_path / "aside")
    place.mkdir()
    os.utime(place, ns=(then, then))
    (found,) = scan(data_dir, memory)
    assert (found.partial, files_in(found)) == (False, {})


def test_a_clock_that_was_set_back_is_not_believed(
    broker: Broker, data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.segments("orders-0", 1)
    aged(broker.root / "orders-0", -3600)
    memory = ScanMemory(full_below=0)
    for _ in range(3):
        (found,) = scan(data_dir, memory)
        assert not found.partial


def test_once_in_a_while_everything_is_read(broker: Broker, data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.segments("orders-0", 1)
    aged(broker.root / "orders-0")
    memory = ScanMemory(full_below=0)
    begun = time.monotonic()
    for hours, partial in ((0, False), (1, True), (7, False), (8, True)):
        monkeypatch.setattr("takhin_tiered.disk.scan.time.monotonic", lambda hours=hours: begun + hours * 3600)
        (found,) = scan(data_dir, memory)
        assert found.partial is partial


def test_few_segments_are_all_looked_at_each_time(broker: Broker, data_dir: DataDir) -> None:
    broker.segments("orders-0", 1)
    aged(broker.root / "orders-0")
    memory = ScanMemory()
    for _ in range(2):
        (found,) = scan(data_dir, memory, known=2)
        assert not found.partial
    list(scan(data_dir, memory, known=5000))
    (found,) = scan(data_dir, memory, known=5000)
    assert found.partial


def test_a_log_that_was_modified_after_the_one_above_it_is_told(broker: Broker, data_dir: DataDir) -> None:
    """A segment of an earlier life of the topic, placed above the one that the broker writes to."""
    old, written = broker.segment(age_hours=300), broker.segment(age_hours=1)
    above = broker.segment(age_hours=300)
    listing = one(data_dir)
    assert listing.written_later == base_of(written)
    assert listing.active == base_of(above) > base_of(written) > base_of(old)
    os.utime(broker.root / above)
    assert one(data_dir).written_later is None


def base_of(path: str) -> int:
    return int(path.rpartition("/")[2].removesuffix(".log"))
