"""Kafka's own files in a log directory: identity, checkpoints, and the broker's lock.

By directory descriptor; no symlink is followed. Everything here blocks, and only reads. Source: Apache Kafka,
``MetaProperties``, ``LogManager``, ``ReplicaManager`` and ``FileLock`` (a write lock of fcntl on ``.lock``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from takhin_tiered.formats.checkpoints import (
    LeaderEpochs,
    parse_leader_epochs,
    parse_offset_checkpoint,
    parse_properties,
    parse_topic_id,
)
from takhin_tiered.segments.names import Partition

META_PROPERTIES = "meta.properties"
HIGH_WATERMARKS = "replication-offset-checkpoint"
LOG_STARTS = "log-start-offset-checkpoint"
CLEANED = "cleaner-offset-checkpoint"
LOCK = ".lock"
PARTITION_METADATA = "partition.metadata"
LEADER_EPOCHS = "leader-epoch-checkpoint"

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MOST = 64 << 20
"""Bytes; a checkpoint of a hundred thousand partitions has some 5 MB."""
_FLOCK = struct.Struct("hhqqi0q")
"""``struct flock`` of Linux: type, whence, start, length, pid."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """The metadata files of a log directory.

    ``high_watermarks``, ``log_starts``: offsets by partition, as of the broker's last checkpoint. Kafka records a log
    start only if it is above the first segment's base. ``cleaned``: partitions that were compacted.
    ``has_high_watermarks``: the file exists, readable or not; without it no broker has written a checkpoint yet.
    ``problems``: one sentence for each file that cannot be read or parsed; its map is empty then.
    """

    node_id: int | None
    cluster_id: str
    directory_id: str
    high_watermarks: dict[Partition, int]
    log_starts: dict[Partition, int]
    cleaned: frozenset[Partition]
    has_high_watermarks: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionIdentity:
    """Topic ID and leader epochs of a partition directory: empty if the file is absent or has a problem."""

    topic_id: str
    leader_epochs: LeaderEpochs
    problems: tuple[str, ...] = ()


def is_kafka(fd: int) -> bool:
    """Whether this is a Kafka log directory: ``meta.properties`` exists, readable or not."""
    return _exists(fd, META_PROPERTIES)


def read_log_directory(fd: int) -> LogDirectory | None:
    """None if there is no ``meta.properties``.

    Problems with a file are returned, see ``problems``. `OSError` if the directory itself cannot be searched.
    """
    if not is_kafka(fd):
        return None
    problems: list[str] = []
    # The broker replaces each file atomically, but not all of them together.
    identity = _parsed(fd, META_PROPERTIES, _parse_identity, problems) or (None, "", "")
    has_high_watermarks = _exists(fd, HIGH_WATERMARKS)
    high_watermarks = _parsed(fd, HIGH_WATERMARKS, parse_offset_checkpoint, problems)
    log_starts = _parsed(fd, LOG_STARTS, parse_offset_checkpoint, problems) or {}
    cleaned = frozenset(_parsed(fd, CLEANED, parse_offset_checkpoint, problems) or ())
    return LogDirectory(
        *identity,
        high_watermarks or {},
        log_starts,
        cleaned,
        has_high_watermarks or high_watermarks is not None,
        tuple(problems),
    )


def read_partition(fd: int) -> PartitionIdentity:
    """Of an open partition directory. Problems with a file are returned, see ``problems``."""
    problems: list[str] = []
    topic_id = _parsed(fd, PARTITION_METADATA, parse_topic_id, problems) or ""
    epochs = _parsed(fd, LEADER_EPOCHS, parse_leader_epochs, problems) or ()
    return PartitionIdentity(topic_id, epochs, tuple(problems))


def read_topic_id(fd: int) -> str:
    """Of an open partition directory; "" if it is absent, or cannot be read or parsed."""
    return _parsed(fd, PARTITION_METADATA, parse_topic_id, []) or ""


def is_broker_running(fd: int) -> bool:
    """Whether a process holds the write lock on this log directory's ``.lock``, by F_GETLK.

    The lock is never taken here, not even briefly: a broker that starts meanwhile would fail. A lock of this process
    does not show. Without a ``.lock`` no broker runs: a clean stop removes it. `OSError` if the file exists but cannot
    be queried (EACCES, a symlink): then it is unknown whether a broker runs.
    """
    try:
        lock = os.open(LOCK, _READ, dir_fd=fd)
    except FileNotFoundError:
        return False
    try:
        _check_regular(lock, LOCK)
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        # If the broker is in another container, the PID belongs to another namespace; the lock type is still right.
        held = _FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))[0]
    finally:
        os.close(lock)
    return bool(held != fcntl.F_UNLCK)


def _parse_identity(text: str) -> tuple[int | None, str, str]:
    """Node, cluster and directory. ``broker.id`` is the older name of ``node.id``, from before KRaft."""
    found = parse_properties(text)
    node = found.get("node.id", found.get("broker.id", "")).strip()
    if node and not (node.isascii() and node.isdigit() and len(node) <= 10):
        raise ValueError(f"the broker's ID {node[:60]!r} is not a number")
    return int(node) if node else None, found.get("cluster.id", ""), found.get("directory.id", "")


def _parsed(fd: int, name: str, parse: Callable[[str], Value], problems: list[str]) -> Value | None:
    """The parsed file; None if it is absent, or if its problem was added to ``problems``."""
    try:
        return parse(_read(fd, name).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{name} cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        problems.append(f"{name} cannot be parsed: it is not UTF-8")
    except ValueError as error:
        problems.append(f"{name} cannot be parsed: {error}")
    return None


def _read(fd: int, name: str) -> bytes:
    file = os.open(name, _READ, dir_fd=fd)
    with open(file, "rb") as reader:
        _check_regular(file, name)
        found = reader.read(_MOST + 1)
    if len(found) > _MOST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return found


def _check_regular(file: int, name: str) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", name)


def _exists(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
