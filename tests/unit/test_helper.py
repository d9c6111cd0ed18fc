"""The second process of a long scan: it sees what the first one would, and may fail at any time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered.disk.files import DataDir
from takhin_tiered.disk.helper import Helper, HelperFailed
from takhin_tiered.disk.scan import ScanMemory, scan
from takhin_tiered.segments.listing import PartitionListing
from tests.support import Broker

PARTITIONS = 12


@pytest.fixture
def data_dir(broker: Broker) -> Iterator[DataDir]:
    for number in range(PARTITIONS):
        broker.segments(f"orders-{number}", 2)
        directory = broker.root / f"orders-{number}"
        os.utime(directory, (time.time() - 60, time.time() - 60))
    opened = DataDir(broker.root)
    yield opened
    opened.close()


def by_name(listings: Iterator[PartitionListing]) -> list[PartitionListing]:
    return sorted(listings, key=lambda listing: listing.directory)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_scan_with_a_helper_sees_what_one_without_sees(broker: Broker, data_dir: DataDir) -> None:
    (broker.root / "orders-11" / "00000000000000000007.log.takhin-tmp").write_bytes(b"")
    alone, memory, before = by_name(scan(data_dir, ScanMemory())), ScanMemory(full_below=0), children()
    assert by_name(scan(data_dir, memory, helper_threshold=0)) == alone
    assert len(alone) == PARTITIONS
    assert alone[3].unfinished == ("00000000000000000007.log.takhin-tmp",)
    # Directories are known as they stood before the helper read them.
    partial = [listing.directory for listing in scan(data_dir, memory, helper_threshold=0) if listing.partial]
    assert len(partial) == PARTITIONS - 1
    assert children() == before


def test_the_helper_follows_no_symlink_and_knows_no_partition_that_is_gone(broker: Broker, data_dir: DataDir) -> None:
    (broker.root / "orders-99").symlink_to(broker.root / "orders-0")
    with Helper(data_dir) as helper:
        for name in ("orders-98", "orders-99", "no partition", "orders-1"):
            helper.ask(name)
        assert [helper.answer() for _ in range(3)] == [None, None, None]
        look = helper.answer()
        assert look is not None
        assert (look.listing.directory, len(look.listing.rows)) == ("orders-1", 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_scan_goes_on_when_its_helper_dies(data_dir: DataDir, number: signal.Signals) -> None:
    alone, before = by_name(scan(data_dir, ScanMemory())), children()
    found, listings = [], scan(data_dir, ScanMemory(), helper_threshold=0)
    for listing in listings:
        found.append(listing)
        for pid in children() - before:
            os.kill(pid, number)
    assert by_name(iter(found)) == alone


def test_a_scan_goes_on_where_no_helper_can_be_started(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = by_name(scan(data_dir, ScanMemory()))
    monkeypatch.setattr(sys, "executable", "/absent/python")
    assert by_name(scan(data_dir, ScanMemory(), helper_threshold=0)) == alone
    with Helper(data_dir) as helper, pytest.raises(HelperFailed):
        helper.ask("orders-0")


def test_a_scan_that_breaks_off_leaves_no_helper(data_dir: DataDir) -> None:
    before, listings = children(), scan(data_dir, ScanMemory(), helper_threshold=0)
    for _ in range(3):
        next(listings)
    assert len(children() - before) == 1
    listings.close()
    assert children() == before


def test_the_helper_ends_with_its_connection(data_dir: DataDir) -> None:
    before = children()
    helper = Helper(data_dir)
    helper.ask("orders-0")
    (pid,) = children() - before
    assert helper.answer() is not None
    helper._questions.close()
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == 0
    helper.give_up()
    assert children() == before
