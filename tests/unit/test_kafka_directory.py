"""A broker's log directory: what stands beside the segments, and whether a broker holds it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered.disk.kafka import (
    LogDirectory,
    PartitionIdentity,
    is_broker_running,
    is_kafka,
    read_log_directory,
    read_partition,
)

META = "#\ncluster.id=Some-22-characters_AAAA\ndirectory.id=4q1p3hXrQ8Sg7Pq1bT5N2w\nnode.id=7\nversion=1\n"
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
TRY = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def read(fd: int) -> LogDirectory:
    found = read_log_directory(fd)
    assert found is not None
    return found


def test_a_directory_without_meta_properties_is_not_kafkas(tmp_path: Path, fd: int) -> None:
    (tmp_path / "replication-offset-checkpoint").write_text("0\n0\n")
    assert not is_kafka(fd)
    assert read_log_directory(fd) is None


def test_a_log_directory_is_read(tmp_path: Path, fd: int) -> None:
    (tmp_path / "meta.properties").write_text(META)
    (tmp_path / "replication-offset-checkpoint").write_text("0\n2\norders 0 50\norders 1 7\n")
    (tmp_path / "log-start-offset-checkpoint").write_text("0\n1\norders 0 10\n")
    (tmp_path / "cleaner-offset-checkpoint").write_text("0\n1\nchanges 3 99\n")
    assert is_kafka(fd)
    assert read_log_directory(fd) == LogDirectory(
        node_id=7,
        cluster_id="Some-22-characters_AAAA",
        directory_id="4q1p3hXrQ8Sg7Pq1bT5N2w",
        high_watermarks={("orders", 0): 50, ("orders", 1): 7},
        log_starts={("orders", 0): 10},
        cleaned=frozenset({("changes", 3)}),
        has_high_watermarks=True,
        problems=(),
    )


def test_absent_files_are_no_problem(tmp_path: Path, fd: int) -> None:
    (tmp_path / "meta.properties").write_text("version=0\nbroker.id=3\n")
    assert read(fd) == LogDirectory(3, "", "", {}, {}, frozenset(), has_high_watermarks=False)
    (tmp_path / "replication-offset-checkpoint").write_text("0\n0\n")
    assert read(fd).has_high_watermarks


def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, fd: int) -> None:
    (tmp_path / "meta.properties").write_text("node.id=one\n")
    (tmp_path / "replication-offset-checkpoint").write_text("0\n2\norders 0 50\n")
    (tmp_path / "log-start-offset-checkpoint").mkdir()
    (tmp_path / "cleaner-offset-checkpoint").write_bytes(b"0\n1\n\xff 0 1\n")
    found = read(fd)
    assert found == LogDirectory(None, "", "", {}, {}, frozenset(), True, found.problems)
    assert [problem.split(":")[0] for problem in found.problems] == [
        "meta.properties cannot be parsed",
        "replication-offset-checkpoint cannot be parsed",
        "log-start-offset-checkpoint cannot be read",
        "cleaner-offset-checkpoint cannot be parsed",
    ]


def test_no_symlink_is_followed(tmp_path: Path, fd: int) -> None:
    outside = tmp_path / "elsewhere"
    outside.write_text("0\n1\norders 0 50\n")
    (tmp_path / "meta.properties").write_text(META)
    (tmp_path / "replication-offset-checkpoint").symlink_to(outside)
    (tmp_path / ".lock").symlink_to(outside)
    found = read(fd)
    assert (found.high_watermarks, found.has_high_watermarks, len(found.problems)) == ({}, True, 1)
    with pytest.raises(OSError, match=r"\.lock|symbolic"):
        is_broker_running(fd)


def test_a_pipe_in_the_place_of_a_file_blocks_nothing(tmp_path: Path, fd: int) -> None:
    os.mkfifo(tmp_path / "meta.properties")
    os.mkfifo(tmp_path / ".lock")
    assert read(fd).problems == ("meta.properties cannot be read: it is not a regular file",)
    with pytest.raises(OSError, match="not a regular file"):
        is_broker_running(fd)


def test_a_partition_is_read(tmp_path: Path, fd: int) -> None:
    assert read_partition(fd) == PartitionIdentity("", ())
    (tmp_path / "partition.metadata").write_text("version: 0\ntopic_id: 6cE8FTEmRbSYQ9bBpyX0kg")
    (tmp_path / "leader-epoch-checkpoint").write_text("0\n2\n0 0\n1 3500\n")
    assert read_partition(fd) == PartitionIdentity("6cE8FTEmRbSYQ9bBpyX0kg", ((0, 0), (1, 3500)))
    (tmp_path / "leader-epoch-checkpoint").write_text("0\n")
    found = read_partition(fd)
    assert (found.topic_id, found.leader_epochs) == ("6cE8FTEmRbSYQ9bBpyX0kg", ())
    assert found.problems == (
        "leader-epoch-checkpoint cannot be parsed: the checkpoint is cut off before its first entry",
    )


def try_to_lock(path: Path) -> bool:
    return subprocess.run([sys.executable, "-c", TRY, path], check=False, stderr=subprocess.DEVNULL).returncode == 0


def test_a_lock_that_a_process_holds_is_seen_and_left_alone(tmp_path: Path, fd: int) -> None:
    lock = tmp_path / ".lock"
    assert not is_broker_running(fd)
    lock.touch()
    assert not is_broker_running(fd)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_broker_running(fd)
        assert not try_to_lock(lock), "asking has released the lock"
        assert is_broker_running(fd)
        holder.communicate("")
    # As after a kill: the file stays, and nobody holds it.
    assert not is_broker_running(fd)
    assert try_to_lock(lock), "asking has taken the lock"


def test_the_other_kind_of_lock_is_none(tmp_path: Path, fd: int) -> None:
    with (tmp_path / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not is_broker_running(fd)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
def test_a_lock_that_may_not_be_asked_raises(tmp_path: Path, fd: int) -> None:
    (tmp_path / ".lock").touch(mode=0o000)
    with pytest.raises(PermissionError):
        is_broker_running(fd)
