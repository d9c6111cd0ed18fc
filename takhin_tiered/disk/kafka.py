"""What Kafka itself keeps beside the segments: whose directory this is, how far it is settled, and the broker's lock.

By directory descriptor, and no symlink is followed. Everything here blocks, and reads only. Source: Apache Kafka,
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
    """What a broker tells of one of its log directories.

    ``high_watermarks``, ``log_starts``: offsets by partition, as they stood at the broker's last checkpoint. Kafka
    keeps a log start only where it is above the first segment's base. ``cleaned``: partitions that were compacted.
    ``has_high_watermarks``: the file is there, readable or not; without it no broker has told anything yet.
    ``problems``: a sentence for each file that cannot be read or understood; its map is empty then.
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
    """Whose log a partition directory holds: "" and no epochs where the file is absent, or a problem."""

    topic_id: str
    leader_epochs: LeaderEpochs
    problems: tuple[str, ...] = ()


def is_kafka(fd: int) -> bool:
    """Whether this is, or was, a Kafka broker's log directory: ``meta.properties`` stands there, readable or not."""
    return _exists(fd, META_PROPERTIES)


def read_log_directory(fd: int) -> LogDirectory | None:
    """None where there is no ``meta.properties``.

    Nothing is raised for a file: see ``problems``. `OSError` where the directory itself cannot be searched.
    """
    if not is_kafka(fd):
        return None
    problems: list[str] = []
    # The broker replaces each file as a whole, but not all at once: together they are of no one instant.
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
    """Of an open partition directory. Nothing is raised for a file: see ``problems``."""
    problems: list[str] = []
    topic_id = _parsed(fd, PARTITION_METADATA, parse_topic_id, problems) or ""
    epochs = _parsed(fd, LEADER_EPOCHS, parse_leader_epochs, problems) or ()
    return PartitionIdentity(topic_id, epochs, tuple(problems))


def read_topic_id(fd: int) -> str:
    """Of an open partition directory; "" where it is absent, or cannot be read or understood."""
    return _parsed(fd, PARTITION_METADATA, parse_topic_id, []) or ""


def is_broker_running(fd: int) -> bool:
    """Whether a process holds the write lock on this log directory's ``.lock``: it asks, and takes nothing.

    A broker that starts while somebody else holds the lock dies, so it is never taken here, not for an instant. A lock
    that this very process holds does not show. Without a ``.lock`` no broker runs: a clean stop removes it.
    `OSError` where the file stands but cannot be asked (EACCES, a symlink): the answer is unknown then, not no.
    """
    try:
        lock = os.open(LOCK, _READ, dir_fd=fd)
    except FileNotFoundError:
        return False
    try:
        _check_regular(lock, LOCK)
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        # The pid is that of another namespace where the broker is in another container; the type is right.
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
    """What a file tells; None where it is absent, or where what is wrong with it was added to ``problems``."""
    try:
        return parse(_read(fd, name).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{name} cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        problems.append(f"{name} cannot be understood: it is not UTF-8")
    except ValueError as error:
        problems.append(f"{name} cannot be understood: {error}")
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
