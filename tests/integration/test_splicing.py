"""A replica that rolled its segments at other offsets: the archive has its batches already, in others' segments."""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import itertools
import json
import shlex
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import NoKey, ObjectCorrupt, ObjectMissing, SegmentConflict, SegmentRefused, Settings, TieredStorage
from takhin_tiered.reader.query import RecordQuery
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.names import SegmentId
from tests.faults.truth import Folder, Store
from tests.rolled import TOPIC_ID, Replica, batches
from tests.support import Bucket, parts, pass_time

COUNT = 40
SHARED, OWN = [0, 10, 20, 30, 38], [0, 7, 15, 26, 31, 36, 39]
HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "zstd": {"compression_codec": "zstd"},
    "both": {"compression_codec": "zstd", "key": True},
}


class Pair:
    """Two replicas on one store: ``one`` archives first, ``other`` rolled its segments at other offsets."""

    def __init__(self, home: Path, store: Store, where: dict[str, Any], log: Sequence[bytes]) -> None:
        self.home, self.store, self._where, self.log = home, store, where, log
        self.one = Replica(home / "one", log, SHARED)
        self.other = Replica(home / "other", log, OWN)
        self.key_file = home / "keys"
        self.key_file.write_text(f"first {base64.b64encode(bytes(range(32))).decode()}\n")

    def settings(self, replica: Replica, how: str = "plain", **more: Any) -> Settings:
        encoding = dict(HOW[how])
        if encoding.pop("key", False):
            encoding["encryption_key_file"] = self.key_file
        values = {
            "archive_mode": "move",
            "data_dir": replica.root,
            "enabled": True,
            "fleet_replicas": "adopt",
            "chunk_size_mb": 1 / 64,
            "api_port": 0,
        }
        return Settings(**values | self._where | encoding | more)

    def own_keys(self, ending: str) -> list[str]:
        """Keys of logs that one replica alone has."""
        found = self.store.keys()
        return [key for key in found if key.startswith("orders-0/~") and key.endswith(ending)]

    def shared_keys(self) -> set[str]:
        found = self.store.keys()
        return {key for key in found if not key.startswith("orders-0/~")}

    def records_for_parts(self) -> list[str]:
        found = self.store.keys()
        return [key for key in found if key.endswith("-parts.json")]

    def own_manifests(self) -> list[dict[str, Any]]:
        return [json.loads(self.store.read(key)) for key in self.own_keys(".manifest.json")]

    @asynccontextmanager
    async def archived(self, how: str = "plain", **more: Any) -> AsyncIterator[TieredStorage]:
        """The other's storage, when it has archived what ``one`` had archived before."""
        self.one.write()
        self.other.write()
        async with TieredStorage.open(self.settings(self.one, how)) as storage:
            await cycle(storage)
        async with TieredStorage.open(self.settings(self.other, **more)) as storage:
            await cycle(storage)
            yield storage


async def cycle(storage: TieredStorage) -> int:
    """Returns how many segments wait."""
    report = await storage.run_cycle()
    assert not report.failures
    return report.postponed


def uploaded(storage: TieredStorage) -> float:
    value: float = parts(storage).metrics.uploaded._value.get()
    return value


async def problems(storage: TieredStorage) -> dict[str, str]:
    return {v.id.full_path: v.problem async for v in storage.verify(deep=True) if v.problem}


async def evict(storage: TieredStorage, *paths: str) -> None:
    owned = await storage.prepare()
    for path in paths:
        identity = parts(storage).catalog.current(("orders", 0), SegmentId.parse(path).base_offset)
        assert await parts(storage).evictor.evict(owned, identity)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    root = tmp_path / "store"
    root.mkdir()
    return Pair(tmp_path, Folder(root), {"directory_path": root}, batches(COUNT))


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.long)])
def anywhere(request: pytest.FixtureRequest, pair: Pair, tmp_path: Path) -> Pair:
    if request.param == "directory":
        return pair
    bucket: Bucket = request.getfixturevalue("bucket")
    return Pair(tmp_path, bucket, {"s3_bucket": bucket.name, "s3_endpoint": bucket.endpoint}, pair.log)


@pytest.mark.parametrize("how", HOW)
async def test_a_replica_that_rolled_elsewhere_uploads_no_log_and_gets_its_own_files_back(
    anywhere: Pair, how: str
) -> None:
    pair = anywhere
    # Its own small objects are stored as they are, whatever the other one's logs are encoded with.
    async with pair.archived(how, encryption_key_file=pair.key_file if how == "both" else None) as storage:
        *gone, _ = pair.other.closed
        assert pair.own_keys(".log") == []
        waiting = pair.other.bases[-2]
        assert set(pair.other.on_disk()) == {name for name in pair.other.files if int(name[9:29]) >= waiting}
        small = sum(len(data) for name, data in pair.other.files.items() if not name.endswith(".log"))
        assert 0 < uploaded(storage) <= 2 * small
        manifests = pair.own_manifests()
        assert [len(each["files"]["log"]["parts"]) for each in manifests] == [1, 2, 2, 2, 1]
        assert {each["version"] for each in manifests} == {4}
        assert await problems(storage) == {}
        for path in reversed(gone):
            await storage.restore_segment(path)
        assert pair.other.on_disk() == pair.other.files
        # What was restored is the archived one: it leaves again without an upload.
        before = uploaded(storage)
        await evict(storage, *gone)
        assert (uploaded(storage), pair.own_keys(".log")) == (before, [])
        assert set(pair.other.on_disk()).isdisjoint(gone)


@pytest.mark.parametrize("how", ["plain", "both"])
async def test_records_and_ranges_are_read_through_the_parts(pair: Pair, how: str) -> None:
    expected = [int.from_bytes(batch[:8]) + n for batch in pair.log[:36] for n in range(20)]
    async with pair.archived(how, encryption_key_file=pair.key_file if how == "both" else None) as storage:
        found: list[int] = []
        while len(found) < len(expected):
            page = await storage.read_records(RecordQuery("orders", 0, offset=len(found)), 500)
            found += [record.offset for record in page.records]
        assert found[: len(expected)] == expected
        whole = b"".join([bytes(batch) async for batch in storage.read_batches(RecordQuery("orders", 0, offset=0))])
        assert whole.startswith(b"".join(pair.log[:36]))
        for path in pair.other.closed[:-1]:
            content = pair.other.files[path]
            for start, end in ((0, None), (1, 9_042), (len(content) - 10, len(content)), (27_000, 27_400)):
                async with storage.open_range(path, start, end) as opened:
                    assert await opened.read() == content[start:end]
                async with storage.open_range(path, start, end) as opened:
                    assert b"".join([piece async for piece in opened]) == content[start:end]
                    assert opened.proof == "chunk"
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        if how == "both":
            with pytest.raises(NoKey):
                await storage.restore_segment(pair.other.closed[0])
            # Without the key, the objects that the parts stand in can be compared all the same.
            assert await problems(storage) == {}


async def test_the_catalog_and_the_store_agree(pair: Pair) -> None:
    async with pair.archived() as storage:
        assert len([verdict async for verdict in storage.verify()]) == len(SHARED) - 1 + len(OWN) - 2
        for _ in range(2):
            result = await storage.rebuild()
            assert (result.lost, result.strays) == ([], 0)
        assert (await storage.reconcile()).lost == []
        listed = [info.segment_path for info in storage.segments() if info.is_current]
        assert listed[:-1] == pair.other.closed
        shared, own = await storage.partitions()
        assert (shared.current, shared.archived, shared.holes, shared.overlaps) == (False, [[0, 759]], [], [])
        assert (own.current, own.archived, own.local) == (True, [[0, 719]], [[720, 799]])
        assert (own.holes, own.overlaps) == ([], [])
        choice = await storage.choose_restore(Wanted(("orders-0",)))
        assert sorted(segment.id.path for segment in choice.segments) == pair.other.closed[:-1]
        assert choice.problems == choice.warnings == []
    # To the first one nothing has changed.
    async with TieredStorage.open(pair.settings(pair.one)) as storage:
        assert (await storage.rebuild()).lost == []
        [only] = await storage.partitions()
        assert (only.incarnation, only.archived, only.overlaps) == ("", [[0, 759]], [])
        assert len([verdict async for verdict in storage.verify()]) == len(SHARED) - 1
        for path in reversed(pair.one.closed):
            await storage.restore_segment(path)
        assert pair.one.on_disk() == pair.one.files


async def test_without_its_state_directory_the_shared_segments_have_its_records(pair: Pair, tmp_path: Path) -> None:
    async with pair.archived():
        pass
    async with TieredStorage.open(pair.settings(pair.other, state_path=tmp_path / "new")) as storage:
        assert await cycle(storage) == 1
        _, own = await storage.partitions()
        assert (own.current, own.archived, own.local) == (True, [[0, 719]], [[720, 799]])
        assert (own.holes, own.overlaps) == ([], [])
        batches = b"".join([bytes(b) async for b in storage.read_batches(RecordQuery("orders", 0, offset=0))])
        assert batches.startswith(b"".join(pair.log[:36]))
        choice = await storage.choose_restore(Wanted(("orders-0",)))
        # The last one goes on beyond the first that stands on the disk.
        assert [segment.id.path for segment in choice.segments] == pair.one.closed[:3][::-1]
        assert len(choice.warnings) == 1
        assert "00000000000000000600.log@~0 is not restored: it overlaps" in choice.warnings[0]
        for path in reversed(pair.one.closed[:3]):
            await storage.restore_segment(path)
        with pytest.raises(SegmentConflict, match="overlaps"):
            await storage.restore_segment(pair.one.closed[3])


@pytest.mark.parametrize("at", [0, 9, 12])
async def test_a_log_with_other_bytes_is_archived_by_itself(pair: Pair, at: int) -> None:
    log = [*pair.log[:at], *batches(1, seed=9, first=at * 20), *pair.log[at + 1 :]]
    pair.other.batches = log
    async with pair.archived() as storage:
        # Only the segment with the batch that differs.
        [key] = pair.own_keys(".log")
        start = max(start for start in OWN if start <= at)
        assert int(Path(key).stem) == start * 20
        for path in reversed(pair.other.closed[:-1]):
            await storage.restore_segment(path)
        assert pair.other.on_disk() == pair.other.files
    async with TieredStorage.open(pair.settings(pair.one)) as storage:
        await storage.rebuild()
        # The other one's log is known, as its records are nowhere else, and is not taken for this one's.
        shown = {each.incarnation: each for each in await storage.partitions()}
        [other] = set(shown) - {""}
        assert (shown[""].current, shown[""].archived) == (True, [[0, 759]])
        assert (shown[other].current, len(shown[other].archived)) == (False, 1)
        assert await cycle(storage) == 0
        assert await problems(storage) == {}


async def test_what_others_have_in_part_is_waited_for_and_then_stored(pair: Pair) -> None:
    passed = 0.0
    async with pair.archived() as storage:
        pass_time(storage, lambda: passed)
        assert await cycle(storage) == 1
        passed = 24 * 3600.0 + 1
        assert await cycle(storage) == 0
        assert [int(Path(key).stem) for key in pair.own_keys(".log")] == [720]


async def test_by_hand_nothing_is_waited_for(pair: Pair) -> None:
    async with pair.archived() as storage:
        await storage.archive_segment(pair.other.closed[-1])
        assert [int(Path(key).stem) for key in pair.own_keys(".log")] == [720]


async def test_what_others_archive_meanwhile_is_seen(pair: Pair) -> None:
    async with pair.archived() as storage:
        assert await cycle(storage) == 1
    # Its log goes on, and so what was active is archived.
    pair.one.batches = [*pair.log, *batches(3, first=COUNT * 20)]
    pair.one.starts = [*SHARED, COUNT]
    pair.one.write()
    async with TieredStorage.open(pair.settings(pair.one)) as storage:
        await cycle(storage)
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        assert await cycle(storage) == 0
        assert pair.own_keys(".log") == []
        assert pair.other.on_disk().keys() == {n for n in pair.other.files if int(n[9:29]) >= pair.other.bases[-1]}


async def test_with_topic_ids_beside_kafka(pair: Pair) -> None:
    for replica in (pair.one, pair.other):
        replica.topic_id = TOPIC_ID
        replica.root.mkdir()
        (replica.root / "meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
    async with pair.archived() as storage:
        assert {each["topic_id"] for each in pair.own_manifests()} == {TOPIC_ID}
        assert pair.own_keys(".log") == []
        pair.other.remove()
        (pair.other.root / "orders-0" / "partition.metadata").unlink()
        for path in reversed(pair.other.closed[:-1]):
            await storage.restore_segment(path)
        found = pair.other.on_disk()
        assert found == {name: data for name, data in pair.other.files.items() if name in found}
        assert len(found) == 3 * 5
        assert TOPIC_ID in (pair.other.root / "orders-0" / "partition.metadata").read_text()


def _flip(data: bytes) -> bytes:
    return data[:30_000] + bytes([data[30_000] ^ 1]) + data[30_001:]


@pytest.mark.parametrize("spoil", ["log", "missing log", "missing manifest"])
async def test_what_happens_to_the_logs_of_others_shows(pair: Pair, spoil: str) -> None:
    async with pair.archived() as storage:
        victim = pair.one.closed[1]
        if spoil == "log":
            pair.store.write(victim, _flip(pair.store.read(victim)))
        else:
            key = victim if spoil == "missing log" else victim.replace(".log", ".manifest.json")
            (pair.home / "store" / key).unlink()
        found = await problems(storage)
        touched = {path.partition("@")[0] for path in found if "@" in path}
        # Of a damaged log, only what has the damage in its part of it.
        assert touched == {*pair.other.closed[1 : 2 if spoil == "log" else 3]}
        with pytest.raises((ObjectCorrupt, ObjectMissing)):
            await storage.restore_segment(pair.other.closed[1])
        await storage.restore_segment(pair.other.closed[0])
        on_disk = pair.other.on_disk()
        assert pair.other.closed[1] not in on_disk
        assert not list(pair.other.root.rglob("*.takhin-tmp"))


async def test_nothing_is_evicted_that_others_have_lost(pair: Pair) -> None:
    async with pair.archived(archive_mode="copy"):
        pass
    victim = pair.one.closed[1]
    pair.store.write(victim, _flip(pair.store.read(victim)))
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        failed = pair.other.closed[1:3]
        # What the archive has lost is stored from here, in the next cycle. The second one waits for the first.
        for expected in ([failed[0]], [failed[1]]):
            report = await storage.run_cycle()
            assert [path for path, _ in report.failures] == expected
            assert pair.other.on_disk().keys() >= {failed[1], *expected}
        report = await storage.run_cycle()
        assert report.failures == []
        assert [int(Path(key).stem.split(".")[0]) for key in pair.own_keys(".log")] == [140, 300]
        assert set(failed).isdisjoint(pair.other.on_disk())
        for path in reversed(pair.other.closed[:-1]):
            await storage.restore_segment(path)
        assert pair.other.on_disk() == pair.other.files


async def test_scrub_heals_from_the_disk(pair: Pair) -> None:
    async with pair.archived() as storage:
        path = pair.other.closed[1]
        await storage.restore_segment(path)
        victim = pair.one.closed[0]
        pair.store.write(victim, _flip(pair.store.read(victim))[:-1])
        verdict = await storage.scrub_segment(path)
        assert (bool(verdict.problem), verdict.healed) == (True, True)
        [key] = pair.own_keys(".log")
        assert key.endswith(f"{Path(path).stem}.g2.log")
        await evict(storage, path)
        await storage.restore_segment(path)
        assert pair.other.on_disk()[path] == pair.other.files[path]


def records(pair: Pair) -> dict[str, set[str]]:
    """The names in the adoption records of each segment that is not of one replica alone, by its base offset."""
    found: dict[str, set[str]] = {}
    for key in pair.shared_keys():
        _, _, name = key.partition(".adopted.")
        if name:
            found.setdefault(str(int(Path(key).name[:20])), set()).add(name.removesuffix(".json"))
    return found


async def expire(storage: TieredStorage, *paths: str) -> None:
    owned = await storage.prepare()
    for path in paths:
        identity = parts(storage).catalog.current(("orders", 0), SegmentId.parse(path).base_offset)
        await parts(storage).expirer.expire(owned, identity)


async def test_it_relies_on_what_its_parts_are_of_until_they_expire(pair: Pair) -> None:
    async with pair.archived() as storage:
        mine = f"{parts(storage).catalog.replica}-parts"
        before, objects = records(pair), {key for key in pair.shared_keys() if ".adopted." not in key}
        assert {base: len(names) for base, names in before.items()} == {"0": 2, "200": 2, "400": 2, "600": 2}
        assert all(mine in names for names in before.values())
        await expire(storage, *pair.other.closed[:2])
        # Its first two segments go up to offset 299.
        assert {base for base, names in records(pair).items() if mine in names} == {"200", "400", "600"}
        await expire(storage, pair.other.closed[2])
        assert {base for base, names in records(pair).items() if mine in names} == {"400", "600"}
        assert {key for key in pair.shared_keys() if ".adopted." not in key} == objects
        assert [int(Path(key).name[:20]) for key in pair.own_keys(".manifest.json")] == pair.other.bases[3:-2]
        assert len(pair.own_keys("index")) == 2 * 2
        assert parts(storage).catalog.intents() == []
        assert await problems(storage) == {}


async def test_what_others_expire_stays_until_no_part_is_left(pair: Pair) -> None:
    async with pair.archived():
        pass
    async with TieredStorage.open(pair.settings(pair.one, retention_hours=100.0)) as storage:
        assert (await storage.run_cycle()).expired == 4
        assert [info.segment_path for info in storage.segments() if info.is_current][:-1] == []
    assert set(map(len, records(pair).values())) == {1}
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        assert await problems(storage) == {}
        assert (await storage.reconcile()).lost == []
        for path in reversed(pair.other.closed[:-1]):
            await storage.restore_segment(path)
        assert pair.other.on_disk() == pair.other.files
        await evict(storage, *pair.other.closed[:-1])
    async with TieredStorage.open(pair.settings(pair.other, retention_hours=100.0)) as storage:
        report = await storage.run_cycle()
        assert (report.failures, report.expired) == ([], 5)
        assert parts(storage).catalog.intents() == []
    assert pair.store.keys() == []


async def test_a_broker_that_is_taken_out_of_service_takes_no_log_that_others_rely_on(pair: Pair) -> None:
    """By the commands of the page, done here to the directory."""
    pair.one.starts = [0, 10]
    third = Replica(pair.home / "third", pair.log, [0, 5, 22, 33, 39])
    for replica in (pair.one, pair.other, third):
        replica.write()
    async with TieredStorage.open(pair.settings(pair.one)) as storage:
        await cycle(storage)
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        await cycle(storage)
        gone = parts(storage).catalog.replica
        # What one has not archived: the bytes are in a log of this replica alone.
        for path in pair.other.closed:
            await storage.archive_segment(path)
    look, remove_log, *removals = out_of_service(gone)
    assert matching(pair, remove_log) != []
    assert looked(pair, look) == []
    async with TieredStorage.open(pair.settings(third)) as storage:
        await cycle(storage)
        mine = parts(storage).catalog.replica
        relied_on = looked(pair, look)
        assert relied_on != []
        assert all(f".adopted.{mine}-parts.json" in line for line in relied_on)
        # So the log stays, and the rest goes.
        for removal in removals:
            for key in matching(pair, removal):
                (pair.home / "store" / key).unlink()
        assert await problems(storage) == {}
        before = third.on_disk()
        for path in reversed(third.closed):
            await storage.restore_segment(path)
        assert third.on_disk() == third.files
        assert before.keys() < third.files.keys()
        # When nobody relies on it any more, it may go too.
        await evict(storage, *third.closed)
        await expire(storage, *third.closed)
        assert looked(pair, look) == []


def out_of_service(replica: str) -> list[str]:
    """What the page says to be run: the look at what others rely on, the removal of the log, then the others."""
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    section = page.partition("### Take a broker out of service for good")[2].partition("\n### ")[0]
    lines = section.replace("\\\n", "").replace("<id>", replica).splitlines()
    (look,) = [line for line in lines if line.startswith("aws s3 ls") and "--recursive" in line]
    removals = [line for line in lines if line.startswith("aws s3 rm")]
    (log,) = [line for line in removals if f"/~{replica}" in line]
    return [look, log, *(line for line in removals if line != log)]


def looked(pair: Pair, command: str) -> list[str]:
    """What a listing that goes through a pipe prints."""
    keys = pair.store.keys()
    listing = "".join(f"2026-11-29 06:41:27       1289 takhin/{key}\n" for key in keys)
    piped = command.partition(" | ")[2]
    done = subprocess.run(["sh", "-c", piped], input=listing, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def matching(pair: Pair, removal: str) -> list[str]:
    """The keys that a removal includes."""
    words = shlex.split(removal)
    patterns = [word for before, word in itertools.pairwise(words) if before == "--include"]
    keys = pair.store.keys()
    return [key for key in keys if any(fnmatch.fnmatch(key, pattern) for pattern in patterns)]


async def test_records_for_parts_that_were_lost_are_written_again(pair: Pair) -> None:
    async with pair.archived():
        records = pair.records_for_parts()
    for key in records:
        (pair.home / "store" / key).unlink()
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        await storage.rebuild()
        await cycle(storage)
    assert pair.records_for_parts() == records
    assert records
    # So what is over for the others stays.
    async with TieredStorage.open(pair.settings(pair.one, retention_hours=1.0)) as storage:
        assert await cycle(storage) == 0
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        assert await problems(storage) == {}


async def test_records_that_a_kill_left_are_found(pair: Pair) -> None:
    async with pair.archived() as storage:
        owned = await storage.prepare()
        mine = f"{parts(storage).catalog.replica}-parts"
        await expire(storage, *pair.other.closed[:2])
        # As if it had been killed before it gave this one up, or when it had found no log after all.
        await owned.hold_parts(SegmentId("orders", 0, 0))
        await storage.reconcile()
        await cycle(storage)
        assert {base for base, names in records(pair).items() if mine in names} == {"200", "400", "600"}


@pytest.mark.parametrize("starts", [OWN, [0, 9, 19, 29, 37], [0, 1, 2, 3, 38], [5, 13, 22, 33, 39]])
@pytest.mark.parametrize(("at_once", "most"), [(True, 2.0), (False, 1.4)])
async def test_three_that_start_together_share_what_they_have_in_common(
    pair: Pair, starts: list[int], at_once: bool, most: float
) -> None:
    """At once they cannot know of each other yet: then each way to roll the log may be stored once."""
    pair.other.starts = starts
    twin = Replica(pair.home / "twin", pair.log, SHARED)
    replicas = [replica.write() for replica in (pair.one, twin, pair.other)]
    async with AsyncExitStack() as stack:
        storages = [
            await stack.enter_async_context(TieredStorage.open(pair.settings(replica, restore_lease_hours=100)))
            for replica in replicas
        ]
        for storage in storages:
            await storage.prepare()
        if not at_once:
            await cycle(storages[0])
        for _ in range(3):
            await asyncio.gather(*map(cycle, storages))
        keys = pair.store.keys()
        logs = {key: len(pair.store.read(key)) for key in keys if key.endswith(".log")}
        assert sum(logs.values()) < most * sum(map(len, pair.log)), logs
        for replica, storage in zip(replicas, storages, strict=True):
            assert await problems(storage) == {}
            here = replica.on_disk()
            choice = await storage.choose_restore(Wanted(("orders-0",)))
            assert choice.problems == []
            assert len({segment.id.base_offset for segment in choice.segments}) == len(choice.segments)
            for segment in choice.segments:
                await storage.restore_segment(segment.id.path)
            found = replica.on_disk()
            assert found == replica.files
            assert await problems(storage) == {}
            assert len(here) < len(found)


async def test_what_was_archived_out_of_order_stays_until_the_log_below_is_known(pair: Pair) -> None:
    """One in the middle, by hand. Then what is below it turns out to be other segments than those in the archive."""
    pair.one.write()
    pair.other.write()
    middle = pair.other.closed[2]
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        assert (await storage.archive_segment(middle)).state == "copied"
        owned = await storage.prepare()
        with pytest.raises(SegmentRefused, match="as a lower one is not archived yet"):
            await parts(storage).evictor.evict(owned, SegmentId.parse(middle))
    async with TieredStorage.open(pair.settings(pair.one)) as storage:
        await cycle(storage)
    async with TieredStorage.open(pair.settings(pair.other)) as storage:
        await cycle(storage)
        await cycle(storage)
        gone = [path for path in pair.other.closed if path not in pair.other.on_disk()]
        assert gone[: gone.index(middle) + 1] == pair.other.closed[:3]
        chosen = await storage.choose_restore(Wanted(("orders-0",)))
        assert chosen.problems == []
        assert sorted(segment.id.path for segment in chosen.segments) == gone
        for segment in chosen.segments:
            await storage.restore_segment(segment.id.exact_path)
    assert pair.other.on_disk() == pair.other.files
