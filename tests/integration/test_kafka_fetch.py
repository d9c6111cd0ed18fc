"""Fetch and ListOffsets as a client asks, without the network."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.fetching import Fetching
from takhin_tiered.kafka.list_offsets import ListOffsets
from takhin_tiered.kafka.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from takhin_tiered.kafka.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from takhin_tiered.kafka.open_streams import OpenStreams
from takhin_tiered.kafka.refusals import Holes, Refusals
from tests.integration.test_records import served
from tests.messages import joined
from tests.partitions import Partition, decoded, make_partition
from tests.support import Broker

LATEST, EARLIEST, NEWEST = -1, -2, -3


def handler(storage: TieredStorage, *, skips_holes: bool = False, most: int = 48) -> Fetching:
    refusals = Refusals(storage.metrics)
    return Fetching(storage.logs, OpenStreams(storage.logs, most), refusals, Holes(skips_holes))


def asked(
    *wanted: tuple[int, int], most: int = 1 << 20, total: int = 50 << 20, wait: float = 0.0, least: int = 1
) -> FetchRequest:
    """Partitions of orders, each with an offset."""
    partitions = [FetchPartition(number, -1, offset, -1, most) for number, offset in wanted]
    return FetchRequest(
        max_wait_ms=int(wait * 1000), min_bytes=least, max_bytes=total, topics=[FetchTopic("orders", partitions)]
    )


def parts_of(response: FetchResponse) -> list[PartitionData]:
    return [each for topic in response.responses for each in topic.partitions]


def bytes_of(data: PartitionData) -> bytes:
    return joined(data.records)


async def read_all(fetch: Fetching, client: Client, offset: int, *, most: int, end: int) -> bytes:
    found = b""
    while offset < end:
        # As a connection does, until the answer has been sent.
        (data,) = parts_of(await fetch(asked((0, offset), most=most), client))
        assert data.error_code == ErrorCode.NONE
        piece = bytes_of(data)
        client.answered()
        found += piece
        offset = decoded(piece)[-1].offset + 1 if piece else offset
        await asyncio.sleep(0)
    return found


def log_of(made: Partition) -> bytes:
    return b"".join(segment.files["log"] for segment in made.segments)


@pytest.mark.parametrize("place", ["archived", "local", "mixed"])
async def test_a_log_in_pieces_of_any_size(broker: Broker, place: str) -> None:
    made = make_partition("orders-0", 21, gaps=False, transactions=False)
    async with served(broker, made, place=place) as (storage, _):
        fetch, chance = handler(storage), random.Random(4)
        for most in (1, 700, 20_000, 1 << 20):
            client = Client("here")
            assert await read_all(fetch, client, 0, most=most, end=made.end) == log_of(made)
            await client.sessions.aclose()
        # Many clients, with fewer streams than clients.
        fetch = handler(storage, most=2)
        clients = [Client(str(number)) for number in range(6)]
        offsets = [chance.randrange(made.end) for _ in clients]
        found = await asyncio.gather(
            *(
                read_all(fetch, client, offset, most=3_000, end=made.end)
                for client, offset in zip(clients, offsets, strict=True)
            )
        )
        for offset, data in zip(offsets, found, strict=True):
            assert log_of(made).endswith(data)
            assert decoded(data)[0].offset <= offset
        for client in clients:
            await client.sessions.aclose()
        assert list(fetch.streams.places()) == []


async def test_limits_of_an_answer(broker: Broker) -> None:
    first, second = (make_partition(f"orders-{number}", number, segments=2) for number in (0, 1))
    second.write(broker.root)
    async with served(broker, first, place="local") as (storage, _), AsyncExitStack() as stack:
        fetch, client = handler(storage), Client("here")
        stack.push_async_callback(client.sessions.aclose)
        # The first one that has something gives one batch at least, the others nothing that is too large.
        one, other = parts_of(await fetch(asked((0, 0), (1, 0), most=1), client))
        assert len(one.records) == 1
        assert list(other.records) == []
        one, other = parts_of(await fetch(asked((0, 0), (1, 0), total=3_000), client))
        assert 0 < len(bytes_of(one) + bytes_of(other)) <= 3_000
        one, other = parts_of(await fetch(asked((0, first.end), (1, 0)), client))
        assert list(one.records) == []
        assert one.error_code == ErrorCode.NONE
        assert bytes_of(other)
        # Nothing there: the answer comes when the client has waited.
        began = time.monotonic()
        (nothing,) = parts_of(await fetch(asked((0, first.end), wait=0.3), client))
        assert list(nothing.records) == []
        assert time.monotonic() - began >= 0.3
        # As much as the client wants at least is not there either.
        began = time.monotonic()
        (some,) = parts_of(await fetch(asked((0, first.end - 1), wait=0.3, least=1 << 20), client))
        assert bytes_of(some)
        assert time.monotonic() - began >= 0.3


async def test_offsets_outside(broker: Broker) -> None:
    made = make_partition("orders-0", 5)
    async with served(broker, made) as (storage, _):
        fetch, client = handler(storage), Client("here")
        for offset in (-1, made.end + 1, 1 << 40):
            began = time.monotonic()
            # Also where the client would take an answer with nothing in it.
            (data,) = parts_of(await fetch(asked((0, offset), wait=0.2, least=0), client))
            assert data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
            assert (data.log_start_offset, data.high_watermark) == (made.known()[0].offset, made.end)
            assert time.monotonic() - began >= 0.2
        (data,) = parts_of(await fetch(asked((7, 0)), client))
        assert data.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        await client.sessions.aclose()


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("place", ["archived", "local"])
async def test_a_hole(broker: Broker, place: str, skips: bool) -> None:
    made = make_partition("orders-0", 4, segments=4, gaps=False, transactions=False)
    hole, following = made.segments[2].base, made.segments[3].base
    async with served(broker, made, place="local") as (storage, paths):
        os.unlink(broker.root / paths[2])
        for path in paths[:2] + paths[3:] if place == "archived" else []:
            await storage.archive_segment(path)
        fetch, client = handler(storage, skips_holes=skips), Client("here")
        before = await read_all(fetch, client, 0, most=5_000, end=hole)
        assert before == log_of(made)[: len(before)]
        for offset in (hole, hole + 1):
            (data,) = parts_of(await fetch(asked((0, offset)), client))
            if skips:
                assert data.error_code == ErrorCode.NONE
                assert decoded(bytes_of(data))[0].offset == following
            else:
                assert data.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
                assert list(data.records) == []
        assert b"tiered_storage_kafka_holes_total{" in storage.metrics.render()
        await client.sessions.aclose()


async def test_offsets_by_time(broker: Broker) -> None:
    made = make_partition("orders-0", 8)
    known = made.known()
    async with served(broker, made, place="mixed") as (storage, _):
        ask = ListOffsets(storage.logs, Refusals(storage.metrics), Holes())

        async def look(timestamp: int, isolation: int = 0) -> tuple[int, int]:
            partitions = [ListOffsetsPartition(0, -1, timestamp)]
            answer = await ask(ListOffsetsRequest(-1, isolation, [ListOffsetsTopic("orders", partitions)]), Client(""))
            (found,) = answer.topics[0].partitions
            assert found.error_code == ErrorCode.NONE
            return found.offset, found.timestamp

        assert await look(EARLIEST) == (known[0].offset, -1)
        assert await look(LATEST) == (made.end, -1)
        newest = max(known, key=lambda each: each.timestamp)
        assert await look(NEWEST) == (newest.offset, newest.timestamp)
        for timestamp in (0, known[5].timestamp, newest.timestamp):
            first = next(each for each in known if each.timestamp >= timestamp)
            assert await look(timestamp) == (first.offset, first.timestamp)
        assert await look(newest.timestamp + 1) == (-1, -1)


async def test_what_is_not_known_yet_is_not_said_to_be_missing(broker: Broker, tmp_path: Path) -> None:
    """The catalog is lost, and the store is away: a consumer must not be sent elsewhere."""
    made = make_partition("orders-0", 8)
    async with served(broker, made) as (storage, _):
        settings = storage.settings
    for file in settings.state_dir.glob("catalog*"):
        file.unlink()
    store = broker.root.parent / "store"
    store.rename(tmp_path / "away")
    async with TieredStorage.open(settings) as storage:
        fetch, client = handler(storage), Client("here")
        (data,) = parts_of(await fetch(asked((0, 0)), client))
        assert data.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        (tmp_path / "away").rename(store)
        (data,) = parts_of(await fetch(asked((0, 0)), client))
        assert data.error_code == ErrorCode.NONE
        assert bytes_of(data)
        await client.sessions.aclose()


async def test_a_store_that_hangs_holds_up_nothing_else(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it gives in the end is not asked for again."""
    others = [make_partition(f"orders-{number}", number, segments=1) for number in (1, 2, 3)]
    here = make_partition("orders-0", 4, segments=1)
    here.write(broker.root)
    paths = [path for each in others[1:] for path in each.write(broker.root)]
    async with served(broker, others[0]) as (storage, _):
        for path in paths:
            await storage.archive_segment(path)
        fetch, client, goes_on, asked_for = handler(storage), Client("here"), asyncio.Event(), []
        store: Any = storage._reader.fetcher.store
        real = store.fetch_into

        async def hang(key: str, *arguments: Any, **more: Any) -> Any:
            asked_for.append((key, more.get("start")))
            await goes_on.wait()
            return await real(key, *arguments, **more)

        monkeypatch.setattr(store, "fetch_into", hang)
        wanted = asked((1, 0), (2, 0), (3, 0), (0, 0), wait=5.0)
        began = time.monotonic()
        found = parts_of(await fetch(wanted, client))
        assert time.monotonic() - began < 4
        assert bytes_of(found[3]) == log_of(here)
        assert [list(each.records) for each in found[:3]] == [[], [], []]
        assert not any(each.error_code for each in found)
        client.answered()
        (nothing, *_) = parts_of(await fetch(asked((1, 0), (2, 0), (3, 0), wait=0.2), client))
        assert list(nothing.records) == []
        goes_on.set()
        got: dict[int, bytes] = {}
        while len(got) < 3:
            for each in parts_of(await fetch(asked((1, 0), (2, 0), (3, 0), wait=5.0), client)):
                if each.records:
                    got[each.partition_index] = bytes_of(each)
            client.answered()
        assert [got[number] for number in (1, 2, 3)] == [log_of(each) for each in others]
        assert len(asked_for) == len(set(asked_for)) >= 3
        await client.sessions.aclose()
