"""What is true of the disk and the store, found without the program: plain files, the plain SDK, SHA-256.

Manifests are read as the JSON that they are, by their documented form.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from backports.zstd import ZstdError
from cryptography.exceptions import InvalidTag

from tests.decoding import plain_of
from tests.support import Broker, Bucket

TEMP_ENDING = ".takhin-tmp"
OF_THE_PREFIX = "takhin-tiered."


@dataclass
class Tally:
    """How many bytes were looked for in this process so far, and how many of them were found nowhere."""

    looked_for: int = 0
    lost: int = 0

    def note(self, size: int, *, lost: bool) -> None:
        self.looked_for += size
        self.lost += size if lost else 0


TALLY = Tally()


class Store(Protocol):
    """What is asked of a store from outside."""

    def keys(self) -> list[str]: ...

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, data: bytes) -> None: ...

    def delete(self, key: str) -> None: ...

    def uploads(self) -> list[str]: ...


@dataclass(frozen=True)
class Folder:
    """A directory store, looked at with plain file operations."""

    root: Path

    def keys(self) -> list[str]:
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in found if not key.startswith((OF_THE_PREFIX, ".takhin-tmp/")))

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()

    def uploads(self) -> list[str]:
        return [path.name for path in (self.root / ".takhin-tmp").glob("*")]


@dataclass
class Truth:
    """A broker's segments as they were when they were closed, against disk and store as they are.

    ``keys`` are those that encrypted objects need.
    """

    broker: Broker
    store: Store
    mtimes: dict[str, int] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)

    def remember(self) -> None:
        """Note the modification times of what stands on disk."""
        for name in self.broker.files:
            path = self.broker.root / name
            if path.exists():
                self.mtimes[name] = path.stat().st_mtime_ns

    def whole_on_disk(self, path: str) -> bool:
        return self.broker.is_whole(path) and all(
            (self.broker.root / name).stat().st_mtime_ns == self.mtimes[name] for name in self.broker.triple(path)
        )

    def whole_in_store(self, path: str) -> bool:
        """Whether a manifest stands there, and each file that it names, byte for byte, with its time."""
        keys = set(self.store.keys())
        key = path.removesuffix(".log") + ".manifest.json"
        if key not in keys:
            return False
        document: dict[str, Any] = json.loads(self.store.read(key))
        if document["segment"] != path:
            return False
        for name in self.broker.triple(path):
            entry = document["files"].get(name.rpartition(".")[2])
            if entry is None or entry["key"] not in keys or entry["mtime_ns"] != self.mtimes[name]:
                return False
            try:
                plain = plain_of(document, name.rpartition(".")[2], self.store.read(entry["key"]), self.keys)
            except (AssertionError, InvalidTag, ZstdError):
                return False
            if hashlib.sha256(plain).digest() != hashlib.sha256(self.broker.files[name]).digest():
                return False
        return True

    def lost(self, paths: Iterable[str]) -> dict[str, int]:
        """The bytes of each segment that is whole nowhere."""
        lost = {}
        for path in paths:
            size = sum(len(self.broker.files[name]) for name in self.broker.triple(path))
            is_lost = not (self.whole_on_disk(path) or self.whole_in_store(path))
            TALLY.note(size, lost=is_lost)
            if is_lost:
                lost[path] = size
        return lost

    def misreported(self, reported: Iterable[tuple[str, str]], paths: Iterable[str]) -> list[str]:
        """Segments of which the program says a state that is not so; ``reported`` are paths and states."""
        states = dict(reported)
        wrong = []
        for path in paths:
            state = states.get(path, "unknown")
            on_disk, log = self.whole_on_disk(path), (self.broker.root / path).exists()
            so = {
                "local": on_disk,
                "copied": on_disk and self.whole_in_store(path),
                "archived": not log and self.whole_in_store(path),
            }
            if not so.get(state, False):
                files = [name.rpartition(".")[2] for name in self.broker.on_disk(path)]
                wrong.append(f"{path}: reported as {state}; on disk {files}, in the store {self.whole_in_store(path)}")
        return wrong

    def temporary_files(self) -> list[str]:
        return [
            os.path.join(folder, name)
            for folder, _, names in os.walk(self.broker.root)
            for name in names
            if name.endswith(TEMP_ENDING)
        ]

    def orphans(self) -> list[str]:
        """Keys that are no manifest, and that no manifest names."""
        keys = self.store.keys()
        manifests = [key for key in keys if key.endswith(".manifest.json")]
        named = {entry["key"] for key in manifests for entry in json.loads(self.store.read(key))["files"].values()}
        return [key for key in keys if key not in named and key not in manifests]


def truth_in(broker: Broker, bucket: Bucket) -> Truth:
    """The truth of a bucket, with the times of the files that stand on disk now."""
    found = Truth(broker, bucket)
    found.remember()
    return found
