"""Fetches of many clients and partitions, with fewer streams than they would have open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.fetching import Fetching
from tests.integration.test_kafka_fetch import asked, bytes_of, handler, log_of, parts_of
from tests.integration.test_records import served
from tests.partitions import Partition, decoded, make_partition
from tests.support import Broker

COUNT = 6


@asynccontextmanager
async def several(
    broker: Broker, *, most: int, place: str = "local"
) -> AsyncIterator[tuple[Fetching, list[Partition]]]:
    """So many partitions, and not more than ``most`` streams for them."""
    made = [make_partition(f"orders-{number}", 30 + number, segments=2) for number in range(COUNT)]
    for each in made[1:]:
        each.write(broker.root)
    async with served(broker, made[0], place=place) as (storage, _):
        yield handler(storage, most=most), made


async def read_to_the_end(fetch: Fetching, client: Client, made: list[Partition]) -> list[bytes]:
    """All partitions in each request, as clients ask; no more requests than are needed by far."""
    found, offsets = [b""] * len(made), [0] * len(made)
    for _ in range(200):
        behind = [number for number, each in enumerate(made) if offsets[number] < each.end]
        if not behind:
            break
        answer = parts_of(await fetch(asked(*enumerate(offsets), most=3_000), client))
        for data in answer:
            assert data.error_code == ErrorCode.NONE
            if piece := bytes_of(data):
                found[data.partition_index] += piece
                offsets[data.partition_index] = decoded(piece)[-1].offset + 1
        client.answered()
    return found


async def test_a_client_gets_more_partitions_than_there_are_streams(broker: Broker) -> None:
    async with several(broker, most=2) as (fetch, made):
        client = Client("here")
        async with asyncio.timeout(20):
            found = await read_to_the_end(fetch, client, made)
        assert found == [log_of(each) for each in made]
        await client.sessions.aclose()


async def test_who_waits_for_new_records_keeps_nobody_from_reading(broker: Broker) -> None:
    async with several(broker, most=2) as (fetch, made), AsyncExitStack() as stack:
        first, second = Client("first"), Client("second")
        stack.push_async_callback(first.sessions.aclose)
        stack.push_async_callback(second.sessions.aclose)
        assert await read_to_the_end(fetch, first, made) == [log_of(each) for each in made]
        ends = asked(*((number, each.end) for number, each in enumerate(made)), wait=30)
        waiting = asyncio.create_task(fetch(ends, first))
        stack.callback(waiting.cancel)
        async with asyncio.timeout(20):
            assert await read_to_the_end(fetch, second, made) == [log_of(each) for each in made]
        assert not waiting.done()


async def test_what_is_on_its_way_stays_open_and_others_wait_for_it(broker: Broker) -> None:
    async with several(broker, most=1) as (fetch, made), AsyncExitStack() as stack:
        first, second = Client("first"), Client("second")
        stack.push_async_callback(first.sessions.aclose)
        stack.push_async_callback(second.sessions.aclose)
        (one,) = parts_of(await fetch(asked((0, 0)), first))
        # Not yet sent: the second one gets nothing, and then it is told so.
        (none,) = parts_of(await fetch(asked((1, 0)), second))
        assert (none.error_code, list(none.records)) == (ErrorCode.NONE, [])
        assert log_of(made[0]).startswith(bytes_of(one))
        waiting = asyncio.create_task(fetch(asked((1, 0), wait=20), second))
        await asyncio.sleep(0)
        first.answered()
        (some,) = parts_of(await waiting)
        assert bytes_of(some)
        assert log_of(made[1]).startswith(bytes_of(some))


async def test_one_who_takes_its_answer_slowly_leaves_streams_to_others(broker: Broker) -> None:
    async with several(broker, most=2) as (fetch, made), AsyncExitStack() as stack:
        slow, quick = Client("slow"), Client("quick")
        stack.push_async_callback(slow.sessions.aclose)
        stack.push_async_callback(quick.sessions.aclose)
        answer = parts_of(await fetch(asked(*((number, 0) for number in range(COUNT))), slow))
        assert [bool(data.records) for data in answer].count(True) == 1
        slow.answered()
        answer = parts_of(await fetch(asked(*((number, 0) for number in range(COUNT))), slow))
        assert [bool(data.records) for data in answer].count(True) == 1
        # It is not sent.
        async with asyncio.timeout(20):
            assert await read_to_the_end(fetch, quick, made) == [log_of(each) for each in made]


async def test_a_partition_twice_in_a_request_is_answered_once(broker: Broker) -> None:
    """The second place must not close the file from which the first one is sent."""
    async with several(broker, most=8) as (fetch, made):
        client = Client("here")
        middle = made[0].segments[1].base
        one, again = parts_of(await fetch(asked((0, 0), (0, middle), wait=10.0), client))
        assert bytes_of(one)
        assert log_of(made[0]).startswith(bytes_of(one))
        assert (again.error_code, list(again.records)) == (ErrorCode.INVALID_REQUEST, [])
        await client.sessions.aclose()
