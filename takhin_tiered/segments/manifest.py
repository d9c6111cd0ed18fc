"""The manifest: the object that says a segment is archived, and what it consists of.

It is written after every other object of the segment, so that it is the commit point: where there is
no manifest, there is no archive. Its form is JSON, version 1, to be read without this program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from takhin_tiered.errors import InvalidSegmentPath, ObjectCorrupt
from takhin_tiered.segments.names import FileKind, SegmentId

VERSION = 1


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
    version: int = field(default=VERSION)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def log(self) -> ManifestFile:
        return self.files[FileKind.LOG]

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
        return json.dumps(document, indent=2).encode() + b"\n"

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
            if FileKind.LOG not in files:
                raise ObjectCorrupt("the manifest names no .log", key=key)
            manifest = cls(
                id=SegmentId.parse(document["segment"]),
                files=files,
                generation=int(document["generation"]),
                format=str(document["format"]),
                first_offset=document["first_offset"],
                last_offset=document["last_offset"],
                first_timestamp=document["first_timestamp"],
                last_timestamp=document["last_timestamp"],
                archived_at=datetime.fromisoformat(document["archived_at"]).timestamp(),
                problem=str(document.get("problem", "")),
                version=version,
            )
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSegmentPath) as error:
            raise ObjectCorrupt(
                f"this is not a manifest: {error!r}",
                key=key,
                hint="The objects beside it were not touched; restore the manifest from a backup or versioning",
            ) from error
        if manifest.id.manifest_key != key:
            raise ObjectCorrupt(f"the manifest speaks of another segment, {manifest.id.path}", key=key)
        return manifest
