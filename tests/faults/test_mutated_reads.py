"""Mutated objects, manifests, indexes and cached chunks: a read gives the right records, or an error that names them.

A few hundred in the everyday run; ``TAKHIN_TEST_TORTURE=full`` tries 10,000.
"""

from __future__ import annotations

import base64
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.errors import TakhinError
from takhin_tiered.reader.query import Isolation, RecordQuery
from tests.chunked import Objects
from tests.partitions import Partition, Truth, as_known, as_seen, make_partition
from tests.support import Broker, directory_settings, disk_cache

MUTATIONS = 10_000 if os.environ.get("TAKHIN_TEST_TORTURE") == "full" else 240
FORMS = ["plain", "zstd", "key", "both", "earlier release"]
TOPICS = ("AAAAAAAAAAAAAAAAAAAAAQ", "AAAAAAAAAAAAAAAAAAAAAg")

Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


def flipped(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _bit in range(chance.choice([1, 1, 1, 3])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncated(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return data[: chance.randrange(len(data))]


def longer(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return data + chance.randbytes(chance.randrange(1, 200))


def moved(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    size = chance.randrange(1, max(2, len(data) // 3))
    a, b = chance.randrange(len(data)), chance.randrange(len(data))
    changed = bytearray(data)
    changed[a : a + size], changed[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(changed)


def zeroed(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    at = chance.randrange(len(data))
    size = chance.randrange(1, 300)
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def swapped(chance: random.Random, _: bytes, others: list[bytes]) -> bytes:
    return chance.choice(others)


def mixed(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A part of another file of the same kind, at the same place."""
    other = chance.choice(others)
    at, size = chance.randrange(len(data)), chance.randrange(1, len(data) + 1)
    return data[:at] + other[at : at + size] + data[at + size :]


CHANGES: list[Mutation] = [flipped, flipped, truncated, longer, moved, zeroed, swapped, mixed]


class World:
    """Segments of two incarnations, archived, one of them on the disk too; and what is right to be read of them."""

    def __init__(self, broker: Broker, home: Path, form: str) -> None:
        self.broker, self.home, self.form = broker, home, form
        self.parts = [make_partition("orders-0", 60 + n, segments=3, batches=45) for n in range(2)]
        self.truths = [Truth(made.known(), made.end) for made in self.parts]
        key = home / "keys"
        key.write_text(f"first {base64.b64encode(bytes(32)).decode()}\n")
        more: dict[str, object] = {"chunk_size_mb": 1 / 64, "archive_mode": "move"}
        if form in {"zstd", "both"}:
            more["compression_codec"] = "zstd"
        if form in {"key", "both"}:
            more["encryption_key_file"] = key
        self.settings: Settings = directory_settings(broker, home / "store", **more)

    async def build(self) -> None:
        self.parts_written: list[list[str]] = []
        async with TieredStorage.open(self.settings) as storage:
            for topic, made in zip(TOPICS, self.parts, strict=True):
                shutil.rmtree(self.broker.root / "orders-0", ignore_errors=True)
                paths = made.write(self.broker.root)
                (self.broker.root / "orders-0/partition.metadata").write_text(f"version: 0\ntopic_id: {topic}\n")
                await storage.plan()
                for path in paths:
                    await storage.archive_segment(path)
                self.parts_written.append(paths)
            # The middle one is local, with indexes that nothing proves.
            made = self.parts[1]
            one = Partition("orders-0", [made.segments[1]], made.end)
            one.write(self.broker.root)
        if self.form == "earlier release":
            for manifest in (self.home / "store").rglob("*.manifest.json"):
                if "@" not in str(manifest) and manifest.parent.name == "orders-0":
                    path = f"orders-0/{manifest.name[:20]}.log"
                    Objects.of_directory(self.home / "store").without_chunks(path)

    def targets(self) -> list[Path]:
        found = [path for path in (self.home / "store").rglob("*") if path.is_file() and path.stat().st_size]
        found = [path for path in found if not path.name.startswith("takhin-tiered.")]
        local = (self.broker.root / "orders-0").iterdir()
        found += [path for path in local if path.suffix in {".index", ".timeindex"} and path.stat().st_size]
        found += [path for path in (self.settings.state_dir / "cache").rglob("*.[0-9]*") if path.is_file()]
        return sorted(found)


async def require_right_or_error(
    storage: TieredStorage, world: World, chance: random.Random, reads: int, seen: Counter[str]
) -> None:
    for _ in range(reads):
        which = chance.randrange(2)
        truth, topic = world.truths[which], TOPICS[which]
        isolation = chance.choice(list(Isolation))
        visible, end = truth.visible(committed=isolation is Isolation.READ_COMMITTED)
        if chance.random() < 0.3:
            times = [each.timestamp for each in truth.known]
            time = chance.choice(times) + chance.choice([-1, 0, 1])
            question = RecordQuery("orders", 0, timestamp=time, isolation=isolation, topic_id=topic)
            at = truth.at_time(time)
            wanted = end if at is None else at
        else:
            wanted = chance.randrange(truth.end)
            question = RecordQuery("orders", 0, wanted, isolation=isolation, topic_id=topic)
        most = chance.choice([1, 5, 1000])
        try:
            page = await storage.read_records(question, most)
        except TakhinError as error:
            seen[error.code if error.segment or "orders-0" in str(error) else f"unnamed: {error}"] += 1
            continue
        expected = [each for each in visible if each.offset >= wanted]
        assert as_seen(page.records) == as_known(expected[:most]), question
        if len(expected) < most:
            assert page.next_offset == (end if question.offset is None else max(end, wanted))
        seen["right"] += 1


@pytest.mark.long
@pytest.mark.timeout(max(120, MUTATIONS // 5))
@pytest.mark.parametrize("form", FORMS)
async def test_a_mutation_gives_an_error_or_the_right_records(broker: Broker, tmp_path: Path, form: str) -> None:
    world = World(broker, tmp_path, form)
    await world.build()
    chance, seen = random.Random(FORMS.index(form)), Counter[str]()
    # Fill the disk cache, and see that all can be read.
    async with TieredStorage.open(world.settings) as storage:
        await require_right_or_error(storage, world, chance, 30, seen)
        await disk_cache(storage).written()
    assert set(seen) == {"right"}
    state = tmp_path / "kept"
    shutil.copytree(world.settings.state_dir, state)
    for number in range(MUTATIONS // len(FORMS)):
        targets = world.targets()
        target = chance.choice(targets)
        content = target.read_bytes()
        others = [path.read_bytes() for path in targets if path.suffix == target.suffix and path != target] or [b"x"]
        change = chance.choice(CHANGES)
        changed = change(chance, content, others)
        times = target.stat()
        target.write_bytes(changed)
        if chance.random() < 0.5:
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        try:
            async with TieredStorage.open(world.settings, read_only=chance.random() < 0.5) as storage:
                await require_right_or_error(storage, world, chance, 4, seen)
        except AssertionError as error:
            raise AssertionError(f"mutation {number}, {change.__name__} of {target}: {error}") from error
        finally:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
            # What was learned of the damage, and the cache, as they were.
            shutil.rmtree(world.settings.state_dir)
            shutil.copytree(state, world.settings.state_dir)
    assert seen["right"] > 10
    assert seen["damaged"] > 0
    assert set(seen) <= {"right", "damaged", "changed", "hole", "wrong_key", "no_key", "object_corrupt"}, seen
