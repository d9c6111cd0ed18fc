"""A machine as the pages assume it: a broker's data directory, an S3 server with a bucket, and the daemon as a service.

The programs that the pages name are real ones. Only `systemctl` and `journalctl` are stand-ins, which start, stop and
signal the real daemon; and `curl` fails where the server answers with an error, which it does not do by itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from takhin_tiered.formats.sample import make_segment
from tests.docs.commands import ROOT
from tests.support import HOUR, REGION, Bucket, free_port, wait_until

PEERS = Path(__file__).resolve().parents[2] / ".make/peers/bin"
BUCKET = "my-segments"
BUCKETS = (BUCKET, "my-segments-2")
PREFIX = "takhin-segments"
TOPIC_ID = "1HPDq9KPTmqeRsGSyBUSuA"
BYTES_EACH = 300_000
"""Of a segment: about 600 records."""


@dataclass
class World:
    root: Path
    endpoint: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Keys that a page assumes besides. ``{endpoint}`` is that of the server."""
    api_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        for name in ("etc", "bin", "work"):
            (self.root / name).mkdir()
        (self.root / "data").mkdir()
        self.data = self.root / "data"
        self.bucket = Bucket(self.endpoint, BUCKET, PREFIX)
        self.config = self.root / "etc" / "takhin.yaml"
        self.log = self.root / "log"
        self.write_config({})
        (self.root / "work" / "takhin.yaml").symlink_to(self.config)
        for name in ("configs", "docker-compose.yml"):
            (self.root / "work" / name).symlink_to(ROOT / name)
        self._write_programs()

    def write_config(self, changes: dict[str, Any]) -> None:
        """As a file with one line for each key, which a `sed` may change too."""
        settings = {
            "storage.data.dir": str(self.data),
            "storage.tiered.state.dir": str(self.root / "state"),
            "storage.tiered.enabled": True,
            "storage.tiered.s3.bucket": BUCKET,
            "storage.tiered.s3.endpoint": self.endpoint,
            "storage.tiered.api.port": self.api_port,
            **{key: value.format(endpoint=self.endpoint) for key, value in self.settings.items()},
            **changes,
        }
        self.config.write_text(yaml.safe_dump(settings))

    def _write_programs(self) -> None:
        aws = shutil.which("aws", path=f"{PEERS}{os.pathsep}{os.environ['PATH']}")
        programs = {
            "takhin-tiered": f'exec {sys.executable} -m takhin_tiered "$@"',
            "systemctl": f'exec {sys.executable} -m tests.docs.service {self.root} "$@"',
            "journalctl": f"exec tail -n 100 {self.log}",
            "curl": 'case " $* " in *" -f "*|*" -w "*) exec /usr/bin/curl "$@" ;; esac\n'
            'exec /usr/bin/curl --fail-with-body "$@"',
        }
        if aws is not None:
            programs["aws"] = f'exec {aws} --endpoint-url {self.endpoint} "$@"'
        for name, script in programs.items():
            path = self.root / "bin" / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
        return {
            **kept,
            "PATH": f"{self.root / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.root),
            "TAKHIN_CONFIG": str(self.config),
            "TAKHIN_STORAGE_TIERED_API_TOKEN": "",
            "AWS_DEFAULT_REGION": REGION,
            "WORLD_API": self.api,
            "PAGER": "cat",
        }

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def fill(self, sizes: Sequence[int] = (BYTES_EACH,) * 4) -> None:
        """Segments of three partitions, eight days old and older, with keys and times; the last of each is active."""
        for partition in ("orders-0", "orders-1", "customers-0"):
            directory = self.data / partition
            directory.mkdir()
            (directory / "partition.metadata").write_text(f"version: 0\ntopic_id: {TOPIC_ID}\n")
            base = 0
            for age, size in zip(range(7 + len(sizes), 7, -1), sizes, strict=True):
                modified = time.time() - age * 24 * HOUR
                made = make_segment(base, size, first_timestamp=int(modified * 1000))
                for kind, content in (("log", made.log), ("index", made.index), ("timeindex", made.timeindex)):
                    file = directory / f"{base:020d}.{kind}"
                    file.write_bytes(content)
                    os.utime(file, (modified, modified))
                base = made.next_offset

    def systemctl(self, *arguments: str) -> None:
        ended = self.run(shlex.join(["systemctl", *arguments, "takhin-tiered"]))
        assert ended.returncode == 0, ended.stderr

    def wait_cycle(self, count: int = 1) -> None:
        wait_until(lambda: self.log.read_text().count("cycle ended") >= count, what=f"the end of cycle {count}")

    def run(self, text: str, *, seconds: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-ec", f"{text}\n:"],  # with more to come, bash stays the command's parent
            cwd=self.root / "work", env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=seconds,
        )  # fmt: skip

    def localise(self, text: str) -> str:
        """With the places of this world instead of those that the pages name."""
        places = {
            "127.0.0.1:8080": f"127.0.0.1:{self.api_port}",
            "/var/lib/takhin/data": str(self.data),
            "/var/lib/takhin-tiered": str(self.root / "state"),
            "/etc/takhin": str(self.root / "etc"),
            "/tmp/takhin.txt": str(self.root / "takhin.txt"),
            "s3://BUCKET/PREFIX": f"s3://{BUCKET}/{PREFIX}",
            "<id>": "0123456789abcdef",
        }
        for theirs, ours in places.items():
            text = text.replace(theirs, ours)
        return text

    def has(self, name: str) -> bool:
        return shutil.which(name, path=self.environment["PATH"]) is not None

    def create_buckets(self) -> None:
        for name in BUCKETS:
            self.bucket.client.create_bucket(Bucket=name)
            self.bucket.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def remove_buckets(self) -> None:
        """With all versions: the next test begins with empty ones."""
        client = self.bucket.client
        for name in BUCKETS:
            for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
                for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    client.delete_object(Bucket=name, Key=entry["Key"], VersionId=entry["VersionId"])
            client.delete_bucket(Bucket=name)
        self.bucket.close()
