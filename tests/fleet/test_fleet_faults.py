"""The fleet's table throttles, loses answers, is away: what is created is created once, and no cycle waits."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.aws.dynamodb import open_dynamodb
from takhin_tiered.errors import TableError
from takhin_tiered.fleet.entities import Segment
from takhin_tiered.fleet.repositories import AlreadyThere, Created, Repository, Table
from takhin_tiered.fleet.service import Fleet, open_fleet
from takhin_tiered.fleet.verification import verify
from tests.faults.proxy import Fault, Kind, Proxy, proxy
from tests.fleet.catalogs import everything, node_of
from tests.support import REGION, Broker, Bucket, daemon, store_settings, wait_until

NODE = "broker-1"
CYCLES = 100
# A table that hangs takes a while to be found out.
OUTAGES = [Kind.RESET, *([Kind.HANG, Kind.ERROR_500] if os.environ.get("TAKHIN_TEST_TORTURE") == "full" else [])]


@dataclass(eq=False)
class AtRandom(Fault):
    """Strikes a share of the requests; which ones depends on the seed alone."""

    share: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    def strikes(self, method: str, path: str, query: str) -> bool:
        return self.dice.random() < self.share and super().strikes(method, path, query)


@asynccontextmanager
async def through_a_proxy(table: Table, endpoint: str) -> AsyncIterator[tuple[Proxy, Table]]:
    async with proxy(endpoint) as between, open_dynamodb(REGION, between.endpoint, connections=100) as database:
        yield between, Table(database, table.name)


def segment(number: int, **more: Any) -> Segment:
    return Segment(
        node=NODE, topic="orders", partition=0, incarnation="~0", base_offset=number, shard=0, state="archived", **more
    )


@pytest.mark.long
async def test_a_hundred_creates_on_a_server_that_throttles(table: Table, s3_endpoint: str) -> None:
    """Half of the requests are throttled, and a tenth of the answers are lost once the write is done."""
    async with through_a_proxy(table, s3_endpoint) as (between, throttled):
        throttling = AtRandom(Kind.THROTTLED, key="PutItem", share=0.5)
        losing = AtRandom(Kind.CUT_RESPONSE, key="PutItem", share=0.1, dice=random.Random(8))
        between.faults = [throttling, losing]
        repository = Repository(throttled, Segment)
        wanted = [segment(number, size=number) for number in range(100)]
        done = await asyncio.gather(*map(repository.create, wanted), return_exceptions=True)
        assert (throttling.hits > 50, losing.hits > 5) == (True, True)
    reported = [each for each in done if isinstance(each, BaseException)]
    assert all(isinstance(each, TableError) for each in reported)
    assert [each for each in done if each not in reported and each != Created()] == []
    found = {item["o"]["N"]: item for item in (await everything(table)).values()}
    assert {str(each.base_offset) for each, result in zip(wanted, done, strict=True) if result == Created()} <= set(
        found
    )
    assert len(found) >= 100 - len(reported)
    assert all(item["z"]["N"] == number for number, item in found.items())


@pytest.mark.long
async def test_of_two_who_create_an_item_on_such_a_server_one_does(table: Table, s3_endpoint: str) -> None:
    async with through_a_proxy(table, s3_endpoint) as (between, throttled):
        losing = AtRandom(Kind.CUT_RESPONSE, key="PutItem", share=0.3)
        between.faults = [losing, AtRandom(Kind.THROTTLED, key="PutItem", share=0.2, dice=random.Random(9))]
        repository = Repository(throttled, Segment)
        wanted = [segment(number % 50, size=number) for number in range(100)]
        done = await asyncio.gather(*map(repository.create, wanted), return_exceptions=True)
        assert losing.hits > 10
    stands = {item["o"]["N"]: item["z"]["N"] for item in (await everything(table)).values()}
    created: Counter[str] = Counter()
    for each, result in zip(wanted, done, strict=True):
        number = str(each.base_offset)
        if result == Created():
            created[number] += 1
            # What it created is what stands there: an answer that was lost is recognised, and no other's.
            assert stands[number] == str(each.size)
        elif isinstance(result, AlreadyThere):
            assert str(result.existing.size) == stands[number]
        else:
            assert isinstance(result, TableError)
    assert max(created.values()) == 1
    assert sum(created.values()) >= 50 - sum(isinstance(each, BaseException) for each in done)


async def test_a_batch_is_written_whole_on_a_server_that_throttles(table: Table, s3_endpoint: str) -> None:
    async with through_a_proxy(table, s3_endpoint) as (between, throttled):
        between.faults = [
            AtRandom(Kind.THROTTLED, key="BatchWriteItem", share=0.4),
            AtRandom(Kind.CUT_RESPONSE, key="BatchWriteItem", share=0.2, dice=random.Random(3)),
        ]
        assert await Repository(throttled, Segment).put_all(map(segment, range(300))) == 300
    assert len(await everything(table)) == 300


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def agrees(fleet: Fleet, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while fleet.problem:
            await asyncio.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("kind", OUTAGES)
async def test_a_table_that_is_away_for_a_hundred_cycles(
    broker: Broker, bucket: Bucket, table: Table, kind: Kind
) -> None:
    broker.segments("orders-0", 2)
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(
            broker, bucket, fleet_table=table.name, fleet_endpoint=between.endpoint, fleet_node=NODE, fleet_mode="dual"
        )
        async with TieredStorage.open(settings) as storage, open_fleet(storage) as fleet:
            following = asyncio.create_task(fleet.run())
            await storage.run_cycle()
            assert await fleet.sync() is not None
            before = await everything(table)
            between.faults = [Fault(kind)]
            archived, memory = 0, 0
            for number in range(CYCLES):
                path = broker.segment(f"payments-{number % 5}")
                report = await asyncio.wait_for(storage.run_cycle(), 20)
                fleet.cycle_ended()
                assert not report.failed
                archived += report.archived
                if number % 10 == 0:
                    first = f"orders-0/{0:020d}.log"
                    await asyncio.wait_for(storage.restore_segment(first), 20)
                    assert broker.is_whole(first)
                if number == CYCLES // 3:
                    gc.collect()
                    memory = resident()
                assert path.startswith("payments")
            gc.collect()
            grown = resident() - memory
            # All but the active ones of the five partitions.
            assert archived == CYCLES - 5
            assert await everything(table) == before
            app = make_app(storage, lambda: {"store": storage.store_trouble()}, Tokens(storage.settings))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
                await _told(fleet, client)
                between.faults = []
                await storage.run_cycle()
                fleet.cycle_ended()
                await agrees(fleet)
                assert (await client.get("/readyz")).json()["checks"]["fleet"] == "ok"
            assert [each async for each in verify(table, storage, node_of(storage))] == []
            # 100 cycles of nothing but notes of what is to be written would be megabytes.
            assert grown < 12 << 20
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


async def _told(fleet: Fleet, client: httpx.AsyncClient) -> None:
    """Whoever asks is told, and the service is ready all the same."""
    async with asyncio.timeout(60):
        while not fleet.problem:
            await asyncio.sleep(0.05)
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert "since" in ready.json()["checks"]["fleet"]
    told = (await client.get("/api/v1/tiered/status")).json()["fleet"]
    assert (told["node"], told["mode"], bool(told["problem"])) == (NODE, "dual", True)
    metrics = (await client.get("/metrics")).text
    assert "tiered_storage_fleet_behind_since_timestamp_seconds 0.0" not in metrics


@pytest.mark.long
async def test_a_daemon_says_once_that_the_table_is_away(
    broker: Broker, bucket: Bucket, table: Table, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    async with proxy(bucket.endpoint) as between:
        between.faults = [Fault(Kind.RESET)]
        settings = store_settings(
            broker, bucket, fleet_table=table.name, fleet_endpoint=between.endpoint, fleet_node=NODE,
            fleet_mode="dual", archive_interval_minutes=0.005,
        )  # fmt: skip
        log = tmp_path / "log"
        with daemon(settings, log) as running:

            def cycles() -> int:
                return log.read_text().count("cycle ended")

            await asyncio.to_thread(running.wait_logged, "the fleet's table cannot be written", seconds=60)
            many = cycles() + 10
            await asyncio.to_thread(wait_until, lambda: cycles() >= many, seconds=60, what="ten more cycles")
            assert log.read_text().count("the fleet's table cannot be written") == 1
            assert await everything(table) == {}
            ready = await asyncio.to_thread(running.request, "GET", "/readyz")
            assert (ready.status_code, "does not answer" in ready.json()["checks"]["fleet"]) == (200, True)
            between.faults = []
            await asyncio.to_thread(running.wait_logged, "the fleet's table has all again", seconds=60)
            assert await asyncio.to_thread(running.stop) == 0
    items = (await everything(table)).values()
    states = Counter(item["s"]["S"] for item in items if item["e"] == {"S": "Segment"})
    assert states == {"archived": 2, "local": 1}
    (lease,) = [item for item in items if item["e"] == {"S": "Lease"}]
    # It stopped in order, and gave the lease back.
    assert "h" not in lease


@pytest.mark.long
async def test_a_table_that_has_not_answered_yet_is_not_ok(broker: Broker, bucket: Bucket, table: Table) -> None:
    async with proxy(bucket.endpoint) as between:
        hanging = Fault(Kind.HANG)
        between.faults = [hanging]
        settings = store_settings(
            broker, bucket, fleet_table=table.name, fleet_endpoint=between.endpoint, fleet_node=NODE, fleet_mode="dual"
        )
        async with TieredStorage.open(settings) as storage, open_fleet(storage) as fleet:
            app = make_app(storage, dict, Tokens(storage.settings))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:

                async def told() -> str:
                    answer = await client.get("/readyz")
                    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
                    return str(answer.json()["checks"]["fleet"])

                assert "nothing was written since the start" in await told()
                syncing = asyncio.create_task(fleet.sync())
                async with asyncio.timeout(20):
                    while not hanging.hits:
                        await asyncio.sleep(0.02)
                assert "nothing was written since the start" in await told()
                syncing.cancel()
                await asyncio.wait({syncing})
                between.faults = []
                assert await fleet.sync() is not None
                assert await told() == "ok"


@pytest.mark.long
async def test_a_daemon_that_begins_with_a_table_that_hangs_stops_at_once(
    broker: Broker, bucket: Bucket, table: Table, tmp_path: Path
) -> None:
    async with proxy(bucket.endpoint) as between:
        hanging = Fault(Kind.HANG)
        between.faults = [hanging]
        settings = store_settings(
            broker, bucket, fleet_table=table.name, fleet_endpoint=between.endpoint, fleet_node=NODE,
            fleet_mode="dynamodb",
        )  # fmt: skip
        with daemon(settings, tmp_path / "log") as running:
            async with asyncio.timeout(30):
                while not hanging.hits:
                    await asyncio.sleep(0.02)
            began = time.monotonic()
            assert await asyncio.to_thread(running.stop) == 0
            # An attempt alone takes ten seconds to fail.
            assert time.monotonic() - began < 8
