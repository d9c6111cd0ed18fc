"""The endpoint as the daemon opens it."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from takhin_tiered import TieredStorage
from takhin_tiered.kafka import groups
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from takhin_tiered.kafka.messages.metadata import MetadataRequest
from takhin_tiered.kafka.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from takhin_tiered.kafka.offsets_database import FILE_NAME
from takhin_tiered.kafka.service import open_endpoint
from tests.integration.test_records import served
from tests.kafka_wire import connected, on_uvloop, request_frame
from tests.partitions import Partition, make_partition
from tests.support import Broker


@asynccontextmanager
async def endpoint(broker: Broker, made: Partition, place: str = "local") -> AsyncIterator[tuple[TieredStorage, int]]:
    """Its port."""
    async with served(broker, made, place=place) as (storage, _):
        listener = socket.create_server(("127.0.0.1", 0))
        async with open_endpoint(storage, listener):
            yield storage, listener.getsockname()[1]


def groups_in(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as database:
        return {name for (name,) in database.execute("SELECT name FROM groups")}


@on_uvloop
async def test_groups_that_nobody_uses_are_forgotten(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the commits of consumers with names of the moment would fill what there is for all."""
    made = make_partition("orders-0", 3, segments=2)
    async with endpoint(broker, made) as (storage, _):
        file = storage.settings.state_dir / FILE_NAME
    with closing(sqlite3.connect(file)) as database:
        database.executemany("INSERT INTO groups VALUES (?, ?)", [("old", -1e9), ("new", 1e12)])
        database.commit()
    monkeypatch.setattr(groups, "_EXPIRE_EVERY", 0.01)
    async with endpoint(broker, made):
        async with asyncio.timeout(20):
            while groups_in(file) != {"new"}:
                await asyncio.sleep(0.02)


def asked(*topics: str) -> FetchRequest:
    wanted = [FetchTopic(topic, [FetchPartition(0, -1, 0, -1, 1000)]) for topic in topics]
    return FetchRequest(min_bytes=1, topics=wanted)


@on_uvloop
async def test_names_that_clients_make_up_are_unknown_and_leave_nothing_behind(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["orders@", "orders@x", "@", "@@", "..", "../orders", "a/b", "a\0b", "", "\n", "x" * 30_000]
    made = make_partition("orders-0", 3, segments=2)
    async with endpoint(broker, made) as (storage, port), connected(port) as client:
        capsys.readouterr()
        before = generate_latest(storage.metrics.registry).count(b"\n")
        fetched = await client.ask(asked(*names, *(f"orders@{number}" for number in range(50))), 11)
        found = {topic.topic: topic.partitions[0].error_code for topic in fetched.responses}
        assert set(found.values()) == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert len(found) == len(names) + 50
        wanted = [ListOffsetsTopic(name, [ListOffsetsPartition(0, -1, when)]) for name in names for when in (-1, -3, 0)]
        listed = await client.ask(ListOffsetsRequest(topics=wanted), 7)
        codes = {topic.partitions[0].error_code for topic in listed.topics}
        assert codes == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        # No line of the log, and no metric, for each of them.
        assert capsys.readouterr().out == ""
        assert generate_latest(storage.metrics.registry).count(b"\n") < before + 60


@on_uvloop
async def test_consumers_wait_while_the_daemon_finishes_its_work(broker: Broker) -> None:
    """Who is answered at once asks again at once, until the last step of a cycle is done."""
    made = make_partition("orders-0", 3, segments=2)
    async with endpoint(broker, made) as (storage, port), connected(port) as client:
        storage.stopping.set()
        wanted = [FetchTopic("orders", [FetchPartition(0, -1, made.end, -1, 1000)])]
        began = time.monotonic()
        await client.ask(FetchRequest(max_wait_ms=600, min_bytes=1, topics=wanted), 11)
        assert time.monotonic() - began >= 0.6


@on_uvloop
async def test_the_end_of_the_endpoint_waits_for_no_consumer(broker: Broker) -> None:
    made = make_partition("orders-0", 3, segments=2)
    async with AsyncExitStack() as stack:
        async with endpoint(broker, made) as (storage, port):
            for _ in range(50):
                client = await stack.enter_async_context(connected(port))
                wanted = [FetchTopic("orders", [FetchPartition(0, -1, made.end, -1, 1000)])]
                frame = request_frame(FetchRequest(max_wait_ms=30_000, min_bytes=1, topics=wanted), 11)
                client.writer.write(frame)
            async with asyncio.timeout(20):
                while storage.metrics.registry.get_sample_value("tiered_storage_kafka_connections") != 50:
                    await asyncio.sleep(0.01)
            began = time.monotonic()
        assert time.monotonic() - began < 10


@on_uvloop
async def test_a_directory_with_a_huge_number_is_one_partition(broker: Broker) -> None:
    """Metadata lists all partitions below the highest: of two billion that would be all the memory there is."""
    made, stray = make_partition("orders-1", 3, segments=2), make_partition("orders-2000000000", 3, segments=2)
    stray.write(broker.root)
    async with endpoint(broker, made) as (_, port), connected(port) as client:
        async with asyncio.timeout(30):
            answer = await client.ask(MetadataRequest(None), 8)
        (topic,) = answer.topics
        assert [each.partition_index for each in topic.partitions] == [1, 2_000_000_000]
