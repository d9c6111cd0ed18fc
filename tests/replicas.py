"""Several daemons that share a prefix, each with a copy of the same partitions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from takhin_tiered import Settings
from tests.decoding import plain_of
from tests.faults.truth import Folder
from tests.support import KINDS, Broker, Bucket, sha256, store_settings


def replicas_of(broker: Broker, count: int) -> list[Broker]:
    """Brokers with the same files, beside the first one, which is among them."""
    found = [broker]
    for number in range(1, count):
        root = broker.root.with_name(f"{broker.root.name}-{number}")
        shutil.copytree(broker.root, root)
        found.append(Broker(root, broker.transactional, dict(broker.files), dict(broker.next_offset)))
    return found


def settings_of(broker: Broker, store: Path, **changes: Any) -> Settings:
    """Of a daemon on a broker's directory that shares a directory store."""
    store.mkdir(exist_ok=True)
    return Settings(
        **{
            "data_dir": broker.root,
            "enabled": True,
            "directory_path": store,
            "api_port": 0,
            "fleet_replicas": "adopt",
            **changes,
        }
    )


class Shared:
    """What stands in a store that replicas share, found without the program: a directory, unless a bucket is given."""

    def __init__(self, root: Path, bucket: Bucket | None = None) -> None:
        self.root, self.view = root, bucket or Folder(root)

    @property
    def is_s3(self) -> bool:
        return isinstance(self.view, Bucket)

    def keys(self) -> list[str]:
        """All but what belongs to the prefix itself."""
        return self.view.keys()

    def settings_of(self, broker: Broker, **changes: Any) -> Settings:
        """Of a daemon that shares it."""
        if isinstance(self.view, Bucket):
            return store_settings(broker, self.view, **{"fleet_replicas": "adopt", **changes})
        return settings_of(broker, self.root, **changes)

    def adopters(self, path: str) -> set[str]:
        """The replicas with an adoption record beside a segment."""
        stem = path.removesuffix("log")
        return {key.split(".")[-2] for key in self.keys() if key.startswith(f"{stem}adopted.")}

    def marks(self) -> list[str]:
        return [key for key in self.keys() if ".deleting." in key]

    def manifests(self) -> list[str]:
        """Of all generations."""
        return [key for key in self.keys() if key.endswith(".manifest.json")]

    def objects(self) -> set[str]:
        """Keys of segments' files and manifests, of all generations."""
        return {key for key in self.keys() if ".adopted." not in key and ".deleting." not in key}

    def named(self) -> set[str]:
        """What manifests name, and they themselves."""
        found = set[str]()
        for key in self.manifests():
            found |= {key, *(file["key"] for file in json.loads(self.view.read(key))["files"].values())}
        return found

    def has(
        self, broker: Broker, path: str, kinds: tuple[str, ...] = KINDS, keys: dict[str, bytes] | None = None
    ) -> bool:
        """Whether a manifest stands there, and these files of a segment, byte for byte as a broker wrote them."""
        there, manifest = set(self.keys()), path.replace(".log", ".manifest.json")
        if manifest not in there:
            return False
        document = json.loads(self.view.read(manifest))
        for name in broker.triple(path):
            kind = name.rpartition(".")[2]
            if kind not in kinds:
                continue
            entry = document["files"].get(kind)
            if entry is None or entry["key"] not in there:
                return False
            plain = plain_of(document, kind, self.view.read(entry["key"]), keys or {})
            if sha256(plain) != sha256(broker.files[name]):
                return False
        return True

    def lost(self, brokers: list[Broker], keys: dict[str, bytes] | None = None) -> list[str]:
        """Segments that a broker has neither whole on its disk nor in the store."""
        return [
            f"{broker.root.name}/{path}"
            for broker in brokers
            for path in broker.files
            if path.endswith(".log") and not broker.is_whole(path) and not self.has(broker, path, keys=keys)
        ]
