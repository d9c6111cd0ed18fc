"""The manifest: the object that says a segment is archived, and what it consists of.

It is written after every other object of the segment, so that it is the commit point: where there is
no manifest, there is no archive. Its form is JSON, to be read without this program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from takhin_tiered.errors import InvalidSegmentPath, ObjectCorrupt
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.names import FileKind, SegmentId, parse_object_key

VERSION = 2
"""2 since transaction indexes, producer snapshots and topic IDs stand in it: who knows only 1 would miss them."""
_SHA256 = re.compile(r"[0-9a-f]{64}(-[1-9][0-9]*)?")
MAX_PARTS = 10_000
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One archived file. ``sha256`` is hexadecimal, or ``<digest of digests>-<parts>`` with a part size."""

    key: str
    size: int
    sha256: str
    part_size: int
    mtime_ns: int
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was archived. A kind that is not in ``files`` was missing on disk, and is restored as missing.

    Offsets are those of records, timestamps are milliseconds since the epoch as the broker wrote them;
    None where the format is not one that is understood. ``problem`` says what was wrong with the log when
    it was archived as it is, such as a batch that fails its CRC.

    ``topic_id`` is the topic's in Kafka, which a topic made anew does not share; empty where there is none.
    ``leader_epochs`` are (epoch, first offset) of the batches in the log. ``kafka``: it stood in Kafka's directory.
    ``follows`` and ``from_offset`` are those of the segment's incarnation.
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
    version: int = field(default=VERSION)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def log(self) -> ManifestFile:
        return self.files[FileKind.LOG]

    @property
    def end(self) -> int:
        """The offset of its last record; -1 where that is not known."""
        return -1 if self.last_offset is None else self.last_offset

    @property
    def incarnation(self) -> Incarnation:
        """What it tells of the log that the segment belongs to."""
        return Incarnation(self.id.label, self.topic_id, self.follows, self.from_offset, self.archived_at)

    @property
    def may_lack_files(self) -> bool:
        """Whether the release that wrote it archived no transaction index and no producer snapshot of Kafka's."""
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
            "files": {
                str(kind): {
                    "key": file.key,
                    "size": file.size,
                    "sha256": file.sha256,
                    "part_size": file.part_size,
                    "mtime_ns": file.mtime_ns,
                    "mode": f"{file.mode:04o}",
                }
                for kind, file in self.files.items()
            },
        }
        return to_json(document, indent=2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> Manifest:
        """Read a manifest; `ObjectCorrupt` where it is none, or one of a later version than is known."""
        try:
            document: dict[str, Any] = json.loads(data)
            version = int(document["version"])
            if version > VERSION:
                raise ObjectCorrupt(
                    f"the manifest has version {version}, and this program knows up to {VERSION}",
                    key=key,
                    hint="Use the release that wrote it, or a later one",
                )
            files = {
                FileKind(kind): ManifestFile(
                    key=str(file["key"]),
                    size=int(file["size"]),
                    sha256=str(file["sha256"]),
                    part_size=int(file["part_size"]),
                    mtime_ns=int(file["mtime_ns"]),
                    mode=int(file["mode"], 8),
                )
                for kind, file in document["files"].items()
            }
            of_log: dict[str, Any] = document.get("incarnation", {})
            identity = replace(SegmentId.parse(document["segment"]), label=str(of_log.get("label", "")))
            if FileKind.LOG not in files:
                raise ObjectCorrupt("the manifest names no .log", key=key)
            for kind, file in files.items():
                _require_sense(identity, kind, file)
            if not 1 <= int(document["generation"]) < 2**32:
                raise ValueError(f"generation {document['generation']} makes no sense")
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
                leader_epochs=_epochs(document.get("leader_epochs", [])),
                kafka=bool(document.get("kafka", False)),
                follows=None if of_log.get("follows") is None else str(of_log["follows"]),
                from_offset=_whole_number(of_log.get("from_offset", 0)) or 0,
                version=version,
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
                f"this is not a manifest: {error!r}",
                key=key,
                hint="The objects beside it were not touched; restore the manifest from a backup or versioning",
            ) from error
        if manifest.id.manifest_key != key:
            raise ObjectCorrupt(f"the manifest speaks of another segment, {manifest.id.full_path}", key=key)
        return manifest


def _whole_number(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{value!r} is no whole number")


def _epochs(value: Any) -> tuple[tuple[int, int], ...]:
    entries = tuple((epoch, start) for epoch, start in value)
    if not all(type(number) is int for entry in entries for number in entry):
        raise ValueError(f"{value!r} are no leader epochs")
    return entries


def _require_sense(identity: SegmentId, kind: FileKind, file: ManifestFile) -> None:
    """A manifest is acted on, so it may name only its own segment's objects, and only possible values. `ValueError`."""
    if parse_object_key(file.key) != (identity, kind):
        raise ValueError(f"{file.key!r} is not a key of {identity.path}")
    if not _SHA256.fullmatch(file.sha256) or ("-" in file.sha256) != bool(file.part_size):
        raise ValueError(f"{file.sha256!r} is no SHA-256")
    if not 0 <= file.mode <= 0o7777:
        raise ValueError(f"{file.mode:o} is no file mode")
    if not (0 <= file.size <= _MOST and 0 <= file.part_size <= _MOST and abs(file.mtime_ns) <= _MOST):
        raise ValueError(f"the numbers of the {kind} make no sense")
    count = max(1, -(-file.size // file.part_size)) if file.part_size else 0
    if count > MAX_PARTS or (count and not file.sha256.endswith(f"-{count}")):
        raise ValueError(f"{file.sha256!r} is not that of {file.size} bytes in parts of {file.part_size}")
