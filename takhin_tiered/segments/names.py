"""Names: the paths of segments on disk, and the keys of their objects in the store.

A partition is a directory ``<topic>-<partition>``; a segment is a group of files in it, named by
the 20-digit offset of its first record. Source: Apache Kafka, ``LogFileUtils`` and
``UnifiedLog.parseTopicPartitionName``; a topic name has at most 249 of ``[a-zA-Z0-9._-]``.

A topic that was deleted and created again has the same names and other records: another incarnation. The
incarnation that was archived first has the plain keys; a later one has a label in its keys, its topic ID, or
``~N`` where there is none, or where the log was truncated under the same ID. Where replicas share the archive, the
label of a log that only one of them has begins with what names that replica: ``~ID.N``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from takhin_tiered.errors import InvalidSegmentPath

MAX_OFFSET = 2**63 - 1
MAX_PARTITION = 2**31 - 1

_PARTITION_DIR = re.compile(r"([a-zA-Z0-9._-]{1,249})-(0|[1-9][0-9]{0,9})")
_REPLICA = r"~[0-9a-f]{32}\.[1-9][0-9]*"
_ANY_LABEL = rf"[A-Za-z0-9_-]{{22}}|~[1-9][0-9]*|{_REPLICA}"
PLAIN = "~0"
"""The name, for people, of the incarnation without a label, if it has no topic ID either."""
_LABEL = rf"(?:({_ANY_LABEL})/)?"
_LABEL_ALONE = re.compile(_ANY_LABEL)
_REPLICA_LABEL = re.compile(_REPLICA)
_OBJECT_KEY = re.compile(
    rf"([^/]+)/{_LABEL}([0-9]{{20}})(?:\.g([1-9][0-9]*))?\.(log|index|timeindex|txnindex|snapshot)"
)
_MANIFEST_KEY = re.compile(rf"([^/]+)/{_LABEL}([0-9]{{20}})(?:\.g([1-9][0-9]*))?\.manifest\.json")
_REPLICA = r"[A-Za-z0-9_-]{1,64}"
_ADOPTION_KEY = re.compile(rf"([^/]+)/{_LABEL}([0-9]{{20}})\.adopted\.({_REPLICA})\.json")
_MARK_KEY = re.compile(rf"([^/]+)/{_LABEL}([0-9]{{20}})\.deleting\.({_REPLICA})\.({_REPLICA})\.json")

TEMP_SUFFIX = ".takhin-tmp"
"""Suffix of unfinished files of this program; brokers ignore it."""


class FileKind(StrEnum):
    """The files of a segment, in the order in which they are archived and evicted.

    A transaction index lists the aborted transactions, a producer snapshot is the producers' state at the
    segment's first offset. Source: Apache Kafka, ``LogFileUtils``.
    """

    LOG = "log"
    INDEX = "index"
    TIMEINDEX = "timeindex"
    TXNINDEX = "txnindex"
    SNAPSHOT = "snapshot"


OFFSET_DIGITS = 20
_KINDS = {f".{kind}": kind for kind in FileKind}


Partition = tuple[str, int]
"""A topic and the number of a partition of it."""


class Place(NamedTuple):
    """A partition's incarnation: its topic and number, and the incarnation's label, empty for the plain keys."""

    topic: str
    number: int
    label: str = ""

    def segment(self, base_offset: int) -> SegmentId:
        return SegmentId(self.topic, self.number, base_offset, self.label)

    @property
    def partition(self) -> Partition:
        return self.topic, self.number


@dataclass(frozen=True, slots=True, order=True)
class SegmentId:
    """Identifies a segment: topic, partition, the offset of its first record, and its incarnation's label."""

    topic: str
    partition: int
    base_offset: int
    label: str = ""

    @property
    def place(self) -> Place:
        """The partition's incarnation that it belongs to."""
        return Place(self.topic, self.partition, self.label)

    @property
    def directory(self) -> str:
        return f"{self.topic}-{self.partition}"

    @property
    def path(self) -> str:
        """As people write it: ``orders-0/00000000000000000042.log``."""
        return f"{self.directory}/{self.file(FileKind.LOG)}"

    def file(self, kind: FileKind) -> str:
        """The name of one of its files, within the partition's directory."""
        return f"{self.base_offset:020d}.{kind}"

    def key(self, kind: FileKind, generation: int = 1) -> str:
        """The key of an object, without the store's prefix.

        The first generation is found under the file's own path. A segment that was rewritten after
        it was archived gets the next generation, beside the first: objects are never overwritten.
        """
        infix = "" if generation == 1 else f".g{generation}"
        return f"{self._folder}/{self.base_offset:020d}{infix}.{kind}"

    @property
    def manifest_key(self) -> str:
        return f"{self._folder}/{self.base_offset:020d}.manifest.json"

    def superseded_key(self, generation: int) -> str:
        """The key of a superseded generation's manifest."""
        return f"{self._folder}/{self.base_offset:020d}.g{generation}.manifest.json"

    @property
    def superseded_prefix(self) -> str:
        """What the keys of the manifests of all superseded generations begin with."""
        return f"{self.stem}g"

    @property
    def stem(self) -> str:
        """What every key of the segment begins with, and no key of another one."""
        return f"{self._folder}/{self.base_offset:020d}."

    def adoption_key(self, replica: str) -> str:
        """The key of a replica's adoption record."""
        return f"{self.stem}adopted.{replica}.json"

    def mark_key(self, replica: str, nonce: str) -> str:
        """The key of a replica's deletion mark, by the nonce of its process."""
        return f"{self.stem}deleting.{replica}.{nonce}.json"

    @property
    def full_path(self) -> str:
        """Its path, with the incarnation's label if it has one: ``orders-0/….log@~1``."""
        return f"{self.path}@{self.label}" if self.label else self.path

    @property
    def exact_path(self) -> str:
        """The same, with ``@~0`` for the plain keys, so that it never means another incarnation."""
        return f"{self.path}@{self.label or PLAIN}"

    @property
    def _folder(self) -> str:
        return f"{self.directory}/{self.label}" if self.label else self.directory

    @classmethod
    def parse(cls, path: str) -> SegmentId:
        """Parse ``topic-partition/offset.log``, with or without ``@label``. `InvalidSegmentPath` for anything else."""
        directory, slash, name = path.partition("/")
        partition = parse_partition(directory)
        name, at, label = name.partition("@")
        file = parse_file(name)
        is_label = not at or label == PLAIN or _LABEL_ALONE.fullmatch(label)
        if not slash or partition is None or file is None or file[1] is not FileKind.LOG or not is_label:
            shown = path if len(path) <= 80 else path[:77] + "..."
            raise InvalidSegmentPath(
                f"{shown!r} is not the path of a segment",
                hint="A path looks like orders-0/00000000000000000000.log, below the data directory",
            )
        return cls(partition[0], partition[1], file[0], "" if label == PLAIN else label)


def parse_partition(directory: str) -> tuple[str, int] | None:
    """``orders-0`` → ``("orders", 0)``; None for any name that no broker gives a live partition."""
    match = _PARTITION_DIR.fullmatch(directory)
    if match is None or match[1] in {".", ".."} or int(match[2]) > MAX_PARTITION:
        return None
    return match[1], int(match[2])


def parse_offset(digits: str) -> int | None:
    """The 20 digits before a file's ending; None for anything else."""
    # A scan calls this for every file: a regular expression would be too slow.
    if len(digits) != OFFSET_DIGITS or not (digits.isdigit() and digits.isascii()):
        return None
    return offset if (offset := int(digits)) <= MAX_OFFSET else None


def parse_file(name: str) -> tuple[int, FileKind] | None:
    """``00000000000000000042.index`` → ``(42, FileKind.INDEX)``; None for anything else."""
    kind, offset = _KINDS.get(name[OFFSET_DIGITS:]), parse_offset(name[:OFFSET_DIGITS])
    return None if kind is None or offset is None else (offset, kind)


def parse_manifest_key(key: str) -> SegmentId | None:
    """The segment whose manifest this key holds, or None; None as well for a superseded generation's."""
    match = _MANIFEST_KEY.fullmatch(key)
    return None if match and match[4] else _segment_of(match)


def parse_superseded_key(key: str) -> tuple[SegmentId, int] | None:
    """The segment and the generation whose superseded manifest this key holds, or None."""
    match = _MANIFEST_KEY.fullmatch(key)
    identity = _segment_of(match)
    return (identity, int(match[4])) if match and match[4] and identity else None


def parse_object_key(key: str) -> tuple[SegmentId, FileKind] | None:
    """The segment, and the kind of file, of any generation, that this key holds, or None."""
    match = _OBJECT_KEY.fullmatch(key)
    identity = _segment_of(match)
    return (identity, FileKind(match[5])) if match and identity else None


def parse_adoption_key(key: str) -> tuple[SegmentId, str] | None:
    """The segment and the replica whose adoption record this key holds, or None."""
    match = _ADOPTION_KEY.fullmatch(key)
    identity = _segment_of(match)
    return (identity, match[4]) if match and identity else None


def parse_mark_key(key: str) -> tuple[SegmentId, str, str] | None:
    """The segment, the replica and the nonce of its process, whose deletion mark this key holds, or None."""
    match = _MARK_KEY.fullmatch(key)
    identity = _segment_of(match)
    return (identity, match[4], match[5]) if match and identity else None


def parts_record(replica: str) -> str:
    """The name in the adoption records of segments that logs of this replica have parts of."""
    return f"{replica}-parts"


def is_replica_name(name: str) -> bool:
    """Whether it may stand in the keys of records."""
    return re.fullmatch(_REPLICA, name) is not None


def segment_of(key: str) -> SegmentId | None:
    """The segment that an object or a manifest of any generation belongs to; None for all other keys."""
    found = parse_object_key(key)
    return found[0] if found else _segment_of(_MANIFEST_KEY.fullmatch(key))


def generation_of(key: str) -> int:
    """The generation in an object's key; 1 where the key names none."""
    match = _OBJECT_KEY.fullmatch(key)
    return int(match[4]) if match and match[4] else 1


def replica_label(replica: str, number: int) -> str:
    """The label of the ``number``-th log that only this replica has."""
    return f"~{replica}.{number}"


def replica_of(label: str) -> str:
    """The identifier of the replica whose own log has this label; empty for the labels that all replicas share."""
    return label[1:33] if _REPLICA_LABEL.fullmatch(label) else ""


def is_ours(key: str) -> bool:
    """Whether this program writes objects with such a key. A bucket may hold objects of others too."""
    return segment_of(key) is not None or parse_adoption_key(key) is not None or parse_mark_key(key) is not None


def _segment_of(match: re.Match[str] | None) -> SegmentId | None:
    partition = parse_partition(match[1]) if match else None
    if match is None or partition is None or int(match[3]) > MAX_OFFSET:
        return None
    return SegmentId(partition[0], partition[1], int(match[3]), match[2] or "")
