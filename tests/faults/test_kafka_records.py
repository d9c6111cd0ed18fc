"""Mutated requests to read, at the whole endpoint: no record is given that is not the log's, nor another one's."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from typing import Any

import pytest

from takhin_tiered.kafka.apis import APIS, FETCH
from takhin_tiered.kafka.codec import Malformed, decode, decode_first
from takhin_tiered.kafka.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from takhin_tiered.kafka.messages.headers import ResponseHeader
from takhin_tiered.kafka.messages.metadata import MetadataRequest, MetadataRequestTopic
from takhin_tiered.kafka.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from takhin_tiered.kafka.messages.versions import ApiVersionsRequest
from takhin_tiered.kafka.service import open_endpoint
from tests.faults.test_kafka_frames import AT_ONCE, FULL, MARK, MUTATIONS, resident
from tests.integration.test_records import served
from tests.kafka_wire import connected, on_uvloop, request_frame
from tests.messages import joined
from tests.partitions import make_partition
from tests.support import Broker

pytestmark = pytest.mark.long
COUNT = 100_000 if FULL else 1_000


def frames(chance: random.Random, end: int) -> list[bytes]:
    """As clients send them, in each version."""
    found = []
    for version in range(APIS[FETCH].first, APIS[FETCH].last + 1):
        for _ in range(6):
            partitions = [FetchPartition(0, -1, chance.randrange(end), -1, chance.choice([1, 3_000, 1 << 20]))]
            request = FetchRequest(
                max_wait_ms=0,
                min_bytes=1,
                isolation_level=chance.randrange(2),
                topics=[FetchTopic("orders", partitions)],
            )
            found.append(request_frame(request, version))
    for version in (1, 2, 5):
        wanted = [ListOffsetsPartition(0, -1, chance.choice([-1, -2, 1_700_000_000_000]))]
        found.append(request_frame(ListOffsetsRequest(topics=[ListOffsetsTopic("orders", wanted)]), version))
        found.append(request_frame(MetadataRequest(topics=[MetadataRequestTopic("orders")]), version))
    return found


def records_in(frame: bytes, answer: memoryview) -> list[bytes]:
    """The records of each partition, if it is an answer to a fetch."""
    key, version = (int.from_bytes(frame[at : at + 2], "big") for at in (4, 6))
    if key != FETCH or not APIS[FETCH].understands(version):
        return []
    _, body = decode_first(ResponseHeader, answer, 0, False)
    with suppress(Malformed):
        found = decode(FetchResponse, body, version, False)
        return [joined(each.records) for topic in found.responses for each in topic.partitions]
    pytest.fail(f"an answer that is none after {frame.hex()}")


@pytest.mark.timeout(3600)
@on_uvloop
async def test_no_mutated_request_gets_a_wrong_record(broker: Broker) -> None:
    chance = random.Random(COUNT)
    made = make_partition("orders-0", 31, segments=4)
    log = b"".join(segment.files["log"] for segment in made.segments)
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    given = 0
    async with served(broker, made, place="mixed", how="both") as (storage, _):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            async with open_endpoint(storage, listener):
                corpus = frames(chance, made.end)
                mutated = (chance.choice(MUTATIONS)(chance, chance.choice(corpus), corpus) for _ in range(COUNT))

                async def send() -> None:
                    nonlocal given
                    for frame in mutated:
                        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                            async with asyncio.timeout(2), connected(port) as client:
                                client.writer.write(frame + request_frame(ApiVersionsRequest(), 0, number=MARK))
                                answer = memoryview(await client.frame())
                                header, _ = decode_first(ResponseHeader, answer, 0, False)
                                if header.correlation_id != MARK:
                                    for records in records_in(frame, answer):
                                        assert records in log
                                        given += len(records)

                before = resident()
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(send())
                assert resident() - before < 256 << 20
                assert given > COUNT * 10
    assert failures == []
