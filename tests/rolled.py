"""Replicas of one partition: the same batches, in segments that each of them rolled at offsets of its own."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from takhin_tiered.formats.batch import parse_any
from takhin_tiered.formats.sample import make_segment
from tests.support import HOUR

TOPIC_ID = "1HPDq9KPTmqeRsGSyBUSuA"
_INTERVAL = 4096


def batches(count: int, *, seed: int = 0, first: int = 0) -> list[bytes]:
    """Record batches of 20 records each, from an offset on, as a leader wrote them."""
    found: list[bytes] = []
    at, log = 0, make_segment(first, count * 9_000, seed=seed).log
    while len(found) < count:
        header = parse_any(log[at : at + 61], at)
        assert header is not None
        found.append(log[at : header.end])
        at = header.end
    return found


def base_of(batch: bytes) -> int:
    return int.from_bytes(batch[:8])


def end_of(batch: bytes) -> int:
    """One more than its last offset."""
    return base_of(batch) + int.from_bytes(batch[23:27]) + 1


def time_of(batch: bytes) -> int:
    """Its largest timestamp."""
    return int.from_bytes(batch[35:43])


def segment_files(part: Sequence[bytes]) -> dict[str, bytes]:
    """The log of some batches, and its indexes as Kafka builds them."""
    base, log, index, times, since = base_of(part[0]), bytearray(), bytearray(), bytearray(), 0
    for batch in part:
        if since > _INTERVAL:
            index += struct.pack(">ii", end_of(batch) - 1 - base, len(log))
            times += struct.pack(">qi", time_of(batch), end_of(batch) - 1 - base)
            since = 0
        log += batch
        since += len(batch)
    last = part[-1]
    times += struct.pack(">qi", time_of(last), end_of(last) - 1 - base)
    return {"log": bytes(log), "index": bytes(index), "timeindex": bytes(times)}


def rolled(count: int, *, seed: int, most: int = 8) -> list[int]:
    """The numbers of the batches with which segments begin, at random."""
    dice = random.Random(seed)
    found = [0]
    while (at := found[-1] + dice.randint(1, most)) < count:
        found.append(at)
    return found


@dataclass
class Replica:
    """A data directory with the batches, in segments that begin with these; the last one is active."""

    root: Path
    batches: Sequence[bytes]
    starts: Sequence[int]
    partition: str = "orders-0"
    topic_id: str = ""
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, *, age_hours: float = 200.0, only: Callable[[str], bool] = lambda _: True) -> Replica:
        """All segments, or the files ``only`` that are wanted."""
        directory = self.root / self.partition
        directory.mkdir(parents=True, exist_ok=True)
        if self.topic_id:
            (directory / "partition.metadata").write_text(f"version: 0\ntopic_id: {self.topic_id}")
        for number, start in enumerate(self.starts):
            end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.batches)
            modified = time.time() - age_hours * HOUR - 3600 * (len(self.starts) - number)
            for kind, content in segment_files(self.batches[start:end]).items():
                name = f"{self.partition}/{base_of(self.batches[start]):020d}.{kind}"
                if not only(name):
                    continue
                (self.root / name).write_bytes(content)
                os.utime(self.root / name, (modified, modified))
                self.files[name] = content
        return self

    def names(self) -> list[str]:
        """Of the files of all its segments."""
        return [f"{self.partition}/{base:020d}.{kind}" for base in self.bases for kind in ("log", "index", "timeindex")]

    @property
    def bases(self) -> list[int]:
        return [base_of(self.batches[start]) for start in self.starts]

    @property
    def closed(self) -> list[str]:
        """The paths of all segments but the active one."""
        return [f"{self.partition}/{base:020d}.log" for base in self.bases[:-1]]

    def on_disk(self) -> dict[str, bytes]:
        """Every file of its segments, as it stands there now."""
        found = sorted((self.root / self.partition).glob("*[0-9].*"))
        return {f"{self.partition}/{path.name}": path.read_bytes() for path in found}

    def remove(self) -> None:
        for path in (self.root / self.partition).glob("*[0-9].*"):
            path.unlink()
