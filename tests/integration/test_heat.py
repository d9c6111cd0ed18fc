"""Reads of segments, and what they make of the tiers: with the real parts, and with the daemon."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from takhin_tiered import RecordQuery, Settings, TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.config_limits import TopicOverride
from takhin_tiered.errors import SegmentNotFound
from takhin_tiered.kafka.client import Client
from takhin_tiered.metrics import value_of
from takhin_tiered.segments.model import Tier
from tests.integration.test_kafka_fetch import asked, bytes_of, handler, parts_of
from tests.integration.test_records import served
from tests.partitions import make_partition
from tests.support import Broker, Daemon, daemon, directory_settings, free_port, parts, pass_time, to_point, wait_until

HOUR = 3600.0
DAY = 24 * HOUR


class Time:
    """Seconds by which a storage's clocks differ from the machine's."""

    def __init__(self, passed: float) -> None:
        self.passed = passed

    def __call__(self) -> float:
        return self.passed


@asynccontextmanager
async def aged(settings: Settings, passed: float = 0.0) -> AsyncIterator[tuple[TieredStorage, Time]]:
    async with TieredStorage.open(settings) as storage:
        time = Time(passed)
        pass_time(storage, time)
        yield storage, time


async def archive_before(settings: Settings, *paths: str) -> None:
    """They left the disk two days ago."""
    async with aged(settings, -2 * DAY) as (storage, _):
        for path in paths:
            await storage.archive_segment(path)


def read(storage: TieredStorage, path: str, times: int) -> None:
    for _ in range(times):
        storage.report_read(path, 100)


@asynccontextmanager
async def over_http(storage: TieredStorage) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(storage, dict, Tokens(storage.settings)), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1") as client:
        yield client


async def test_every_way_to_read_counts(broker: Broker) -> None:
    made = make_partition("orders-0", 19, segments=3, transactions=False, gaps=False)
    async with served(broker, made, place="mixed") as (storage, paths), over_http(storage) as http:
        seen = dict.fromkeys(paths, (0, 0))

        def counted(path: str) -> int:
            """More reads since the last call. Each reads something."""
            found = storage.access(path)
            now = (0, 0) if found is None else (found.access_count, found.read_bytes)
            (before, size), seen[path] = seen[path], now
            assert (now[1] > size) == (now[0] > before)
            return now[0] - before

        assert [counted(path) for path in paths] == [0, 0, 0]
        for path, base in zip(paths, (segment.base for segment in made.segments), strict=True):
            await storage.read_records(RecordQuery("orders", 0, base), 1)
            assert counted(path) == 1
            assert (await http.get(f"/tiered/records?topic=orders&partition=0&offset={base}&max_records=1")).is_success
            assert counted(path) == 1
            assert (await http.get(f"/tiered/segments/{path}/data", headers={"Range": "bytes=0-9"})).status_code == 206
            assert counted(path) == 1
            assert (await http.head(f"/tiered/segments/{path}/data")).is_success
            assert counted(path) == 0
            assert (
                await http.post("/tiers/access", json={"segment_path": path, "read_bytes": 5})
            ).json() == {"status": "success", "message": "read recorded"}  # fmt: skip
            assert counted(path) == 1
            fetch, client = handler(storage), Client("here")
            (data,) = parts_of(await fetch(asked((0, base), most=1), client))
            assert bytes_of(data)
            client.answered()
            await client.sessions.aclose()
            await wait_for(partial(is_one, counted, path))
        # A pass through the log is one read of each segment, however many pieces it has.
        [counted(path) for path in paths]
        async with aclosing(storage.read_batches(RecordQuery("orders", 0, 0))) as batches:
            assert sum([1 async for _ in batches]) >= 3
        assert [counted(path) for path in paths] == [1, 1, 1]
        # To look up an offset reads no records for anybody.
        await storage.logs.newest("orders", 0, RecordQuery("orders", 0, 0).isolation)
        assert [counted(path) for path in paths] == [0, 0, 0]
        storage.update_access_time(paths[0])
        found = storage.access(paths[0])
        assert found is not None
        assert found.access_count == seen[paths[0]][0] + 1
        assert found.rate_per_hour > 0
        assert storage.heat_of(paths)[paths[0]] == pytest.approx(found.rate_per_hour, rel=0.01)


def is_one(counted: Callable[[str], int], path: str) -> bool:
    return counted(path) == 1


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_cold_segment_that_is_read_stays(broker: Broker, tmp_path: Path) -> None:
    often, long, never = broker.segments("orders-0", 3)
    settings = directory_settings(broker, tmp_path / "store", hot_min_access_count=40)
    async with aged(settings) as (storage, time):
        assert storage.stats().cold_segments == 3
        read(storage, often, 15)
        read(storage, long, 10)
        assert {each.id.path: each.verb for each in (await storage.plan()).work} == {long: "archive", never: "archive"}
        read(storage, long, 30)
        steps = {each.id.path: each for each in (await storage.plan()).steps}
        assert (steps[often].verb, steps[often].reason_code, steps[often].tier) == ("keep", "hot", Tier.HOT)
        assert re.fullmatch(r"hot: read 27.\d times an hour, 40 times in the last weeks", steps[long].reason)
        assert storage.segment_policy(often) is Tier.HOT
        assert (storage.segment(often).policy, storage.segment(often).reason_code) == ("hot", "hot")
        assert [each.segment_path for each in storage.segments(tier=Tier.COLD)] == [never]
        assert (storage.stats().hot_segments, storage.stats().cold_segments) == (3, 1)
        assert storage.status().cold_segments == 1
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
        time.passed = DAY
        assert (await storage.run_cycle()).archived == 1
        assert not (broker.root / often).exists()
        time.passed = 9 * DAY
        assert (await storage.run_cycle()).archived == 1
        assert not (broker.root / long).exists()


async def test_an_archived_segment_is_promoted_demoted_and_left_alone_for_a_day(broker: Broker, tmp_path: Path) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    await archive_before(settings, path)
    async with aged(settings) as (storage, time):
        assert (await storage.evaluate_tiers()).promoted == []
        read(storage, path, 15)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.waiting, done.failures) == ([path], 0, [])
        assert done.promoted_bytes >= 20_000
        assert broker.is_whole(path)
        assert storage.segment(path).lease_by == "heat"
        assert (await storage.evaluate_tiers()).promoted == []
        time.passed = 5 * HOUR
        assert (await storage.run_cycle()).evicted == 0
        time.passed = 6.5 * HOUR
        assert (await storage.run_cycle()).evicted == 1
        read(storage, path, 50)
        assert (await storage.evaluate_tiers()).promoted == []
    async with aged(settings, 30 * HOUR) as (storage, time):
        read(storage, path, 50)
        assert (await storage.evaluate_tiers()).promoted == []
        time.passed = 31 * HOUR
        assert (await storage.evaluate_tiers()).promoted == [path]
        assert broker.is_whole(path)
        assert value_of(storage.metrics.promotions) == 1


async def test_the_hottest_come_first_within_the_budget_over_restarts(broker: Broker, tmp_path: Path) -> None:
    cool, hottest, hot = broker.segments("orders-0", 3, size=200_000)
    # So much that one of them fits into an hour.
    settings = directory_settings(broker, tmp_path / "store", hot_promote_mb_hourly=0.3)
    await archive_before(settings, cool, hottest, hot)
    async with aged(settings) as (storage, _):
        for path, times in ((cool, 20), (hottest, 60), (hot, 40)):
            read(storage, path, times)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.waiting) == ([hottest], 2)
        assert "budget" in done.reason
    async with aged(settings, 0.5 * HOUR) as (storage, time):
        assert storage.segment_policy(hot) is Tier.HOT
        assert (await storage.evaluate_tiers()).promoted == []
        time.passed = 1.1 * HOUR
        assert (await storage.evaluate_tiers()).promoted == [hot]


async def test_the_least_read_makes_room(broker: Broker, tmp_path: Path) -> None:
    paths = broker.segments("orders-0", 4, size=200_000)
    settings = directory_settings(broker, tmp_path / "store", local_cache_size_mb=0.55, restore_lease_hours=0)
    await archive_before(settings, *paths)
    async with aged(settings) as (storage, time):
        for path, times in zip(paths, (20, 40, 24, 500), strict=True):
            read(storage, path, times)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.demoted, done.waiting) == ([paths[3], paths[1]], [], 2)
        assert "cache" in done.reason
        assert (await storage.run_cycle()).evicted == 0
        read(storage, paths[2], 30)
        # Not clearly more than what is there.
        assert (await storage.evaluate_tiers()).promoted == []
        read(storage, paths[2], 30)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.demoted) == ([paths[2]], [paths[1]])
        assert [broker.is_whole(path) for path in paths] == [False, False, True, True]
        # Above the cache's size the least read leaves, not the one that was read least recently.
        read(storage, paths[2], 1)
        time.passed = 0.01
        await storage.restore_segment(paths[0], lease=0)
        time.passed = 1.0
        read(storage, paths[0], 1)
        assert (await storage.run_cycle()).evicted == 1
        assert [broker.is_whole(path) for path in paths] == [False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"archive_mode": "copy"}, "never deletes a local file"),
        ({"hot_promote_mb_hourly": 0}, "is 0"),
        ({"enabled": False}, "not enabled"),
        ({"local_cache_size_mb": 0}, "cache is full"),
    ],
)
async def test_nothing_is_promoted_where_it_could_not_stay(
    broker: Broker, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    await archive_before(settings, path)
    async with aged(settings.model_copy(update=changes)) as (storage, _):
        read(storage, path, 20)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.waiting) == ([], 1)
        assert why in done.reason
        assert broker.on_disk(path) == []


async def test_a_topic_is_promoted_by_the_mode_that_it_has_of_its_own(broker: Broker, tmp_path: Path) -> None:
    (stays,), (moves,) = broker.segments("logs-0", 1), broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    await archive_before(settings, stays, moves)
    overrides = {"logs": TopicOverride(archive_mode="copy"), "orders": TopicOverride(archive_mode="move")}
    for general, glob in (("move", "logs"), ("copy", "orders")):
        changes: dict[str, Any] = {"archive_mode": general, "topics_overrides": {glob: overrides[glob]}}
        async with aged(settings.model_copy(update=changes)) as (storage, _):
            read(storage, stays, 20)
            read(storage, moves, 20)
            done = await storage.evaluate_tiers()
            assert (done.promoted, done.waiting) == ([moves], 1)
            assert "never deletes a local file" in done.reason
            # What comes back there could not leave again.
            assert broker.on_disk(stays) == []
        for path in broker.on_disk(moves):
            (broker.root / path).unlink()


async def test_a_promotion_leaves_the_reserve_of_the_disk(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    await archive_before(settings, path)
    system = os.statvfs(broker.root)
    # More than this machine has free.
    percent = min(99.9, 100 * system.f_bavail / system.f_blocks + 0.1)
    async with aged(settings.model_copy(update={"local_reserve_percent": percent})) as (storage, _):
        read(storage, path, 20)
        done = await storage.evaluate_tiers()
        assert done.promoted == []
        assert [failed for failed, _ in done.failures] == [path]
        assert broker.on_disk(path) == []


async def test_what_a_promotion_may_not_pay_for_costs_nothing_and_drives_nothing_off(
    broker: Broker, tmp_path: Path
) -> None:
    # Two of 20 kB have room in the cache.
    paths = broker.segments("orders-0", 2, size=20_000)
    settings = directory_settings(
        broker, tmp_path / "store", local_cache_size_mb=0.04, prices_retrieval={"STANDARD": 1.0}, prices_get=0,
        budget_restore_monthly=1e-9,
    )  # fmt: skip
    await archive_before(settings, *paths)
    async with aged(settings) as (storage, time):
        await storage.restore_segment(paths[0], lease=HOUR, over_budget=True)
        time.passed += 2 * HOUR
        read(storage, paths[1], 40)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.demoted, done.failures, done.waiting) == ([], [], [], 1)
        assert broker.is_whole(paths[0])
        assert storage._heating.budget.spent == []


async def test_what_fails_is_told_and_costs_nothing(broker: Broker, tmp_path: Path) -> None:
    bad, good = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store")
    await archive_before(settings, bad, good)
    (tmp_path / "store" / bad).write_bytes(b"other bytes")
    async with aged(settings) as (storage, _), over_http(storage) as http:
        read(storage, bad, 40)
        read(storage, good, 20)
        answer = await http.post("/tiers/evaluate")
        assert (answer.status_code, answer.json()["code"]) == (500, "evaluation_failed")
        assert bad in answer.json()["error"]
        assert broker.is_whole(good)
        assert broker.on_disk(bad) == []


async def test_the_endpoints(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store")
    await archive_before(settings, path)
    async with aged(settings) as (storage, _), over_http(storage) as http:
        unread = (await http.get(f"/tiers/access/{path}")).json()
        assert (unread["segment_path"], unread["access_count"], unread["last_access_at"]) == (path, 0, None)
        for _ in range(20):
            body = {"segment_path": path, "read_bytes": 1000}
            assert (await http.post("/tiers/access", json=body)).status_code == 200
        found = (await http.get(f"/tiers/access/{path.replace('/', '%2F')}")).json()
        assert set(found) == {
            "segment_path", "access_count", "last_access_at", "first_access_at", "read_bytes", "average_read_hz",
            "rate_per_hour",
        }  # fmt: skip
        assert (found["access_count"], found["read_bytes"], found["average_read_hz"]) == (20, 20_000, 20.0)
        assert (await http.get("/tiers/stats")).json()["tracked_segments"] == 1
        gone = "orders-0/00000000000099999999.log"
        for answer in (
            await http.get(f"/tiers/access/{gone}"),
            await http.post("/tiers/access", json={"segment_path": gone}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        wrong: list[dict[str, Any]] = [{"segment_path": "nonsense"}, {"segment_path": path, "read_bytes": -1}, {}]
        for each in wrong:
            assert (await http.post("/tiers/access", json=each)).status_code == 400
        assert (await http.get("/tiers/access/nonsense")).status_code == 400
        done = (await http.post("/tiers/evaluate")).json()
        assert done["message"] == "tier evaluation completed successfully"
        assert (done["promoted"], done["hot_segments"], done["cold_segments"]) == ([path], 2, 1)
        assert (await http.get("/tiers/stats")).json()["promotion_count"] == 1
        storage.update_metrics()
        assert b"tiered_storage_tracked_segments 1.0" in storage.metrics.render()
        with pytest.raises(SegmentNotFound):
            storage.access(gone)


async def test_reads_of_segments_that_are_gone_are_forgotten(broker: Broker, tmp_path: Path) -> None:
    kept, gone = broker.segments("orders-0", 2, age_hours=1)
    settings = directory_settings(broker, tmp_path / "store")
    async with aged(settings) as (storage, _):
        read(storage, kept, 3)
        read(storage, gone, 3)
        assert storage.tracked_segments == 2
        for name in broker.triple(gone):
            (broker.root / name).unlink()
        await storage.run_cycle()
        await storage.evaluate_tiers()
        assert storage.tracked_segments == 1
    async with TieredStorage.open(settings, read_only=True) as storage:
        found = storage.access(kept)
        assert (storage.tracked_segments, found is not None and found.access_count) == (1, 3)


async def test_a_database_without_reads_is_read_as_it_is(broker: Broker, tmp_path: Path) -> None:
    (path,) = broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    async with TieredStorage.open(settings) as storage:
        journal = parts(storage).heating.journal
        assert journal is not None
        await journal._database.executescript("DROP TABLE heat")
    async with TieredStorage.open(settings, read_only=True) as storage:
        assert storage.access(path) is None
        storage.report_read(path)
        assert storage.access(path) is not None


@pytest.mark.long
@pytest.mark.parametrize("point", ["evict.begin", "evict.log.unlinked", "evict.unlinked"])
async def test_a_kill_does_not_make_a_segment_move_more_often(broker: Broker, tmp_path: Path, point: str) -> None:
    path, _ = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store")
    ended = to_point(settings, "run", "--once", point=point)
    assert ended.returncode == -9, ended.stderr
    async with aged(settings) as (storage, time):
        await storage.run_cycle()
        read(storage, path, 50)
        time.passed = 23 * HOUR
        read(storage, path, 50)
        assert (await storage.evaluate_tiers()).promoted == []
        time.passed = 24.1 * HOUR
        assert (await storage.evaluate_tiers()).promoted == [path]


@pytest.mark.long
async def test_the_daemon(broker: Broker, tmp_path: Path) -> None:
    """Each face raises the rate; what is read stays or comes back; a restart keeps what is known."""
    made = make_partition("orders-0", 7, segments=3, transactions=False, gaps=False)
    store, port = tmp_path / "store", free_port()
    first, *_ = made.write(broker.root)
    base = directory_settings(broker, store, auto_archive_enabled=False)
    await archive_before(base, first)
    changes: dict[str, Any] = {
        "kafka_port": port, "tier_check_interval_minutes": 0.02, "archive_interval_minutes": 0.02,
        "restore_lease_hours": 0.0003, "hot_promote_mb_hourly": 0,
    }  # fmt: skip
    with daemon(directory_settings(broker, store, **changes, hot_min_access_hz=2.0), tmp_path / "log") as running:

        def access(path: str) -> dict[str, Any]:
            return dict(running.request("GET", f"/api/v1/tiers/access/{path}").json())

        running.wait_logged("cycle ended")
        assert running.request("GET", "/api/v1/tiered/records?topic=orders&partition=0&offset=0").is_success
        assert running.request("GET", f"/api/v1/tiered/segments/{first}/data").is_success
        assert running.request("POST", "/api/v1/tiers/access", json={"segment_path": first}).is_success
        assert access(first)["access_count"] == 3
        await consume(port)
        assert access(first)["access_count"] == 4
        rate = access(first)["rate_per_hour"]
        assert running.stop() == 0
    with daemon(directory_settings(broker, store, **changes), tmp_path / "log") as running:
        assert access(first)["access_count"] == 4
        assert 0.9 * rate < access(first)["rate_per_hour"] <= rate
        assert running.stop() == 0
    changes["hot_promote_mb_hourly"] = 1000
    with daemon(directory_settings(broker, store, **changes, hot_min_access_hz=2.0), tmp_path / "log") as running:
        wait_until(lambda: (broker.root / first).exists(), what="the promotion")
        assert value(running, "tiered_storage_promotions_total") == 1
        assert running.stop() == 0
    # It is not hot any more by this: it leaves. Then it is read again, and stays away.
    with daemon(directory_settings(broker, store, **changes, hot_min_access_hz=500), tmp_path / "log") as running:
        wait_until(lambda: not (broker.root / first).exists(), what="the demotion")
        assert running.stop() == 0
    with daemon(directory_settings(broker, store, **changes, hot_min_access_hz=2.0), tmp_path / "log") as running:
        for _ in range(30):
            running.request("POST", "/api/v1/tiers/access", json={"segment_path": first})
        done = running.request("POST", "/api/v1/tiers/evaluate").json()
        assert (done["promoted"], done["waiting_segments"]) == ([], 0)
        assert running.request("GET", f"/api/v1/tiered/segments/{first}").json()["policy"] == "hot"
        assert not (broker.root / first).exists()
        assert running.stop() == 0


def value(running: Daemon, name: str) -> float:
    lines = running.request("GET", "/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


async def consume(port: int) -> None:
    client = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{port}", enable_auto_commit=False)
    await client.start()
    try:
        partition = TopicPartition("orders", 0)
        client.assign([partition])
        client.seek(partition, 0)
        async with asyncio.timeout(30):
            while not await client.getmany(timeout_ms=500, max_records=1):
                pass
    finally:
        await client.stop()
