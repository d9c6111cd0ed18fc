"""What every scenario is given: where to work, whom to race, how often."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import BUCKET, REGION, Server

CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Bench:
    work: Path
    server: Server
    peers: Path
    rounds: int
    quick: bool
    limit: int
    only_peers: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.work / "output.log"

    def races(self, peer: str) -> bool:
        return not self.only_peers or peer in self.only_peers

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """A directory that is there for the length of a scenario."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)

    def say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    def settings(self, data: Path, state: Path, *, prefix: str = "", **more: str) -> dict[str, str]:
        """Our configuration, as variables. With a prefix the store is the server, else there is none."""
        # An installed program has its byte code: ours is to be kept, wherever it is started from.
        dropped = ("TAKHIN_", "PYTHONDONTWRITEBYTECODE")
        env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        env |= {
            "TAKHIN_STORAGE_DATA_DIR": str(data),
            "TAKHIN_STORAGE_TIERED_STATE_DIR": str(state),
            "TAKHIN_STORAGE_TIERED_ENABLED": "true" if prefix else "false",
            "TAKHIN_STORAGE_TIERED_ARCHIVE_CONCURRENCY": str(CONCURRENCY),
        }
        if prefix:
            env |= {
                "TAKHIN_STORAGE_TIERED_S3_BUCKET": BUCKET,
                "TAKHIN_STORAGE_TIERED_S3_ENDPOINT": self.server.endpoint,
                "TAKHIN_STORAGE_TIERED_S3_REGION": REGION,
                "TAKHIN_STORAGE_TIERED_S3_PREFIX": prefix,
            }
        return env | more


def ours(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "takhin_tiered", *arguments]
