"""The manifest: the object that lists an archived segment's files.

It is written after every other object of the segment, so it is the commit point: without a manifest a
segment is not archived. It is JSON, readable without this program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from crc32c import crc32c
from pydantic_core import to_json

from takhin_tiered.errors import InvalidSegmentPath, ObjectCorrupt
from takhin_tiered.segments.chunks import Chunks, Encoding, parse_chunks
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.model import NO_FILES, Archive, LocalFiles
from takhin_tiered.segments.names import FileKind, SegmentId, parse_object_key
from takhin_tiered.segments.splice import Part, parse_parts

PLAIN_VERSION, ENCODED_VERSION, VERSION = 2, 3, 4
"""2 added transaction indexes, producer snapshots and topic IDs; a reader of version 1 would miss them.

3 has files whose objects are compressed or encrypted; a reader of version 2 would place those bytes as they are. 4 has
a log that is made of parts of other logs; a reader of version 3 would look for an object of its own. So a manifest is
of version 2 unless it has such a file.
"""
_SHA256 = re.compile(r"[0-9a-f]{64}(-[1-9][0-9]*)?")
_CHECKSUM = re.compile(rb',\s*"crc32c": "([0-9a-f]{8})"\s*}\s*\Z')
MAX_PARTS = 10_000
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One archived file. ``sha256`` is hexadecimal, or ``<digest of digests>-<parts>`` with a part size.

    ``size``, ``sha256`` and ``part_size`` are those of the object. With an ``encoding`` the file's are other ones.
    ``chunks`` is None in manifests of earlier releases. A log with ``parts`` has no object of its own: they are its
    bytes, and no object stands under ``key``.
    """

    key: str
    size: int
    sha256: str
    part_size: int
    mtime_ns: int
    mode: int
    chunks: Chunks | None = None
    encoding: Encoding | None = None
    parts: tuple[Part, ...] = ()

    @property
    def stored_size(self) -> int:
        """Bytes of its own object."""
        return 0 if self.parts else self.size

    @property
    def plain_size(self) -> int:
        """Bytes of the file."""
        return self.size if self.encoding is None else self.encoding.size

    @property
    def plain_sha256(self) -> str:
        return self.sha256 if self.encoding is None else self.encoding.sha256

    @property
    def plain_part_size(self) -> int:
        return self.part_size if self.encoding is None else self.encoding.part_size

    def to_json(self) -> dict[str, Any]:
        document = {
            "key": self.key,
            "size": self.size,
            "sha256": self.sha256,
            "part_size": self.part_size,
            "mtime_ns": self.mtime_ns,
            "mode": f"{self.mode:04o}",
        }
        if self.encoding is not None:
            document |= self.encoding.to_json()
        if self.chunks is not None:
            document["chunks"] = self.chunks.to_json()
        if self.parts:
            document["parts"] = [part.to_json() for part in self.parts]
        return document

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ManifestFile:
        size = int(entry["size"])
        chunks, encoding = parse_chunks(entry, size)
        return cls(
            key=str(entry["key"]),
            size=size,
            sha256=str(entry["sha256"]),
            part_size=int(entry["part_size"]),
            mtime_ns=int(entry["mtime_ns"]),
            mode=int(entry["mode"], 8),
            chunks=chunks,
            encoding=encoding,
            parts=parse_parts(entry, size),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """An archived segment. A kind that is not in ``files`` was absent on disk, and is not restored.

    Offsets are those of records, timestamps are milliseconds since the epoch as the broker wrote them;
    None if the format is unknown. ``problem`` describes damage found in the log when it was archived,
    such as a batch with a wrong CRC.

    ``topic_id`` is Kafka's; a topic that is created again gets another one. Empty if there is none.
    ``leader_epochs`` are (epoch, first offset) of the batches in the log. ``kafka``: it was in a Kafka log directory.
    ``follows`` and ``from_offset`` are those of the segment's incarnation. ``open_transactions`` are (producer ID,
    first offset in this log) of transactions that do not end in this log; None if that is not known.
    """

    id: SegmentId
    files: Mapping[FileKind, ManifestFile]
    generation: int = 1
    format: str = "unknown"
    first_offset: int | None = None
    last_offset: int | None = None
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    archived_at: float = 0.0
    problem: str = ""
    topic_id: str = ""
    leader_epochs: tuple[tuple[int, int], ...] = ()
    kafka: bool = False
    follows: str | None = None
    from_offset: int = 0
    open_transactions: tuple[tuple[int, int], ...] | None = None
    written_by: int = field(default=0, compare=False)

    @property
    def version(self) -> int:
        """Of its form: as it was read, or as it has to be written."""
        return self.written_by or max((_version(file) for file in self.files.values()), default=PLAIN_VERSION)

    @property
    def size(self) -> int:
        """Bytes of its files: what a restore takes of the disk."""
        return sum(file.plain_size for file in self.files.values())

    @property
    def stored_size(self) -> int:
        """Bytes of its objects."""
        return sum(file.stored_size for file in self.files.values())

    @property
    def objects(self) -> list[str]:
        """The keys of its own objects."""
        return [file.key for file in self.files.values() if not file.parts]

    @property
    def log(self) -> ManifestFile:
        return self.files[FileKind.LOG]

    @property
    def end(self) -> int:
        """The offset of its last record; -1 if unknown."""
        return -1 if self.last_offset is None else self.last_offset

    def in_short(self, proven: LocalFiles = NO_FILES) -> Archive:
        """What the catalog keeps of it; ``proven`` are the local files that are known to be these."""
        return Archive(
            self.generation,
            self.size,
            self.log.mtime_ns,
            self.archived_at,
            proven,
            self.end,
            None if self.stored_size == self.size else self.stored_size,
            -1 if self.last_timestamp is None else max(-1, self.last_timestamp),
        )

    @property
    def incarnation(self) -> Incarnation:
        """The incarnation that the segment belongs to."""
        return Incarnation(self.id.label, self.topic_id, self.follows, self.from_offset, self.archived_at)

    @property
    def may_lack_files(self) -> bool:
        """Whether the release that wrote it did not archive Kafka's transaction indexes and producer snapshots."""
        return self.version < 2 and self.format == "kafka"

    def to_json(self) -> bytes:
        document = {
            "version": self.version,
            "segment": self.id.path,
            "topic": self.id.topic,
            "partition": self.id.partition,
            "base_offset": self.id.base_offset,
            "generation": self.generation,
            "format": self.format,
            "first_offset": self.first_offset,
            "last_offset": self.last_offset,
            "first_timestamp": self.first_timestamp,
            "last_timestamp": self.last_timestamp,
            "problem": self.problem,
            "topic_id": self.topic_id,
            "leader_epochs": [list(entry) for entry in self.leader_epochs],
            "incarnation": {"label": self.id.label, "follows": self.follows, "from_offset": self.from_offset},
            "kafka": self.kafka,
            "archived_at": datetime.fromtimestamp(self.archived_at, UTC).isoformat(),
            "files": {str(kind): file.to_json() for kind, file in self.files.items()},
        }
        if self.open_transactions is not None:
            document["open_transactions"] = [list(entry) for entry in self.open_transactions]
        return _with_checksum(to_json(document, indent=2) + b"\n")

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> Manifest:
        """Parse a manifest; `ObjectCorrupt` if it is malformed, or of a later version than supported."""
        _require_checksum(data, key)
        try:
            document: dict[str, Any] = json.loads(data)
            version = int(document["version"])
            if version > VERSION:
                raise ObjectCorrupt(
                    f"the manifest has version {version}; this release supports versions up to {VERSION}",
                    key=key,
                    hint="Use the release that wrote it, or a later one",
                )
            files = {FileKind(kind): ManifestFile.from_json(file) for kind, file in document["files"].items()}
            of_log: dict[str, Any] = document.get("incarnation", {})
            identity = replace(SegmentId.parse(document["segment"]), label=str(of_log.get("label", "")))
            if FileKind.LOG not in files:
                raise ObjectCorrupt("the manifest names no .log", key=key)
            for kind, file in files.items():
                _require_sense(identity, kind, file)
            if not 1 <= int(document["generation"]) < 2**32:
                raise ValueError(f"generation {document['generation']} is out of range")
            open_ones = document.get("open_transactions")
            manifest = cls(
                id=identity,
                files=files,
                generation=int(document["generation"]),
                format=str(document["format"]),
                first_offset=_whole_number(document["first_offset"]),
                last_offset=_whole_number(document["last_offset"]),
                first_timestamp=_whole_number(document["first_timestamp"]),
                last_timestamp=_whole_number(document["last_timestamp"]),
                archived_at=datetime.fromisoformat(document["archived_at"]).timestamp(),
                problem=str(document.get("problem", "")),
                topic_id=str(document.get("topic_id", "")),
                leader_epochs=_pairs(document.get("leader_epochs", [])),
                kafka=bool(document.get("kafka", False)),
                follows=None if of_log.get("follows") is None else str(of_log["follows"]),
                from_offset=_whole_number(of_log.get("from_offset", 0)) or 0,
                open_transactions=None if open_ones is None else _pairs(open_ones),
                written_by=version,
            )
        except (
            ArithmeticError,
            AttributeError,
            InvalidSegmentPath,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise ObjectCorrupt(
                f"this object is not a valid manifest: {type(error).__name__}: {error}",
                key=key,
                hint="The segment's objects were not changed. Restore the manifest from a backup or an earlier version",
            ) from error
        if manifest.id.manifest_key != key:
            raise ObjectCorrupt(f"the manifest belongs to another segment, {manifest.id.full_path}", key=key)
        return manifest


def _version(file: ManifestFile) -> int:
    if file.parts:
        return VERSION
    return PLAIN_VERSION if file.encoding is None else ENCODED_VERSION


def _whole_number(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{value!r} is not a whole number")


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    entries = tuple((first, second) for first, second in value)
    if not all(type(number) is int for entry in entries for number in entry):
        raise ValueError(f"{value!r} are not pairs of numbers")
    return entries


def _with_checksum(document: bytes) -> bytes:
    """Add the CRC-32C of all that stands before it as the last field."""
    body = document.removesuffix(b"\n}\n")
    return body + b',\n  "crc32c": "%08x"\n}\n' % crc32c(body)


def _require_checksum(data: bytes, key: str) -> None:
    """`ObjectCorrupt` if the last field is a checksum, and not the right one. Earlier releases wrote none."""
    match = _CHECKSUM.search(data)
    if match is not None and crc32c(data[: match.start()]) != int(match[1], 16):
        raise ObjectCorrupt(
            "the manifest is damaged: its CRC-32C is another one",
            key=key,
            hint="The segment's objects were not changed. Restore the manifest from a backup or an earlier version. "
            "If it was changed by hand, remove its last field, crc32c",
        )


def _require_sense(identity: SegmentId, kind: FileKind, file: ManifestFile) -> None:
    """Only keys of this segment and valid values: the manifest decides what is written to disk. `ValueError`."""
    if parse_object_key(file.key) != (identity, kind):
        raise ValueError(f"{file.key!r} is not a key of {identity.path}")
    if file.parts and kind is not FileKind.LOG:
        raise ValueError(f"the {kind} is made of parts")
    if any(part.id == identity or (part.id.place.partition != identity.place.partition) for part in file.parts):
        raise ValueError("a part is of this segment itself, or of another partition")
    if not _SHA256.fullmatch(file.sha256) or ("-" in file.sha256) != bool(file.part_size):
        raise ValueError(f"{file.sha256!r} is not a SHA-256")
    if not 0 <= file.mode <= 0o7777:
        raise ValueError(f"{file.mode:o} is not a file mode")
    if not (0 <= file.size <= _MOST and 0 <= file.part_size <= _MOST and abs(file.mtime_ns) <= _MOST):
        raise ValueError(f"size, part size or time of the {kind} is out of range")
    count = max(1, -(-file.size // file.part_size)) if file.part_size else 0
    if count > MAX_PARTS or (count and not file.sha256.endswith(f"-{count}")):
        raise ValueError(f"{file.sha256!r} does not fit {file.size} bytes in parts of {file.part_size}")
