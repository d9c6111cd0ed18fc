"""The Kafka endpoint's server, on real sockets: frames, order, bounds, TLS, SASL, the pace."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered.bulk import FileRange
from takhin_tiered.errors import ConfigError
from takhin_tiered.kafka import apis
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.codec import Records
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.limits import Limits
from takhin_tiered.kafka.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)
from takhin_tiered.kafka.messages.groups import HeartbeatRequest, HeartbeatResponse, ListGroupsRequest
from takhin_tiered.kafka.messages.metadata import MetadataRequest, MetadataResponse
from takhin_tiered.kafka.messages.refused import (
    CreatableTopic,
    CreateTopicsRequest,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    InitProducerIdRequest,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from takhin_tiered.kafka.messages.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
)
from takhin_tiered.kafka.messages.versions import ApiVersionsRequest
from takhin_tiered.tls import tls_context
from tests.kafka_wire import Passwords, Served, WireClient, connected, framed, on_uvloop, request_frame, served
from tests.messages import joined

MIB = 1 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    cert, key = (tmp_path_factory.mktemp("tls") / name for name in ("cert.pem", "key.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def metadata(request: MetadataRequest, client: Client) -> MetadataResponse:
    return MetadataResponse(cluster_id=f"{client.address} {client.id} {client.version}")


def fetching(records: Callable[[], Records]) -> dict[int, Any]:
    async def fetch(request: FetchRequest, client: Client) -> FetchResponse:
        return FetchResponse(responses=[FetchableTopicResponse("t", [PartitionData(records=records())])])

    return {apis.FETCH: fetch}


def records_of(response: FetchResponse) -> bytes:
    return joined(response.responses[0].partitions[0].records)


@on_uvloop
async def test_only_what_has_a_handler_is_advertised() -> None:
    async with served({apis.METADATA: metadata}) as here, connected(here.port) as client:
        for version in range(4):
            response = await client.ask(ApiVersionsRequest("library", "1.0"), version)
            assert response.error_code == ErrorCode.NONE
            advertised = {each.api_key: (each.min_version, each.max_version) for each in response.api_keys}
            assert advertised[apis.METADATA] == (0, 8)
            assert advertised[apis.PRODUCE][0] == 3
            assert not advertised.keys() & {apis.FETCH, apis.SASL_HANDSHAKE, apis.SASL_AUTHENTICATE}
        (known,) = here.server.clients
        assert known.software == "library 1.0"


@on_uvloop
async def test_a_client_that_is_newer_is_told_the_versions() -> None:
    async with served({}) as here, connected(here.port) as client:
        client.writer.write(
            framed(b"\0\x12\0\x63" + (9).to_bytes(4, "big") + b"\0\x01c" + b"\0 what is in it, nobody knows")
        )
        response = await client.answer(apis.APIS[apis.API_VERSIONS], 0, 9)
        assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert apis.API_VERSIONS in {each.api_key for each in response.api_keys}
        assert (await client.ask(ApiVersionsRequest("c", "1"), 3)).error_code == ErrorCode.NONE


@on_uvloop
async def test_requests_sent_ahead_are_answered_in_order_one_at_a_time() -> None:
    at_once: list[int] = []
    running = 0

    async def slow(request: MetadataRequest, client: Client) -> MetadataResponse:
        nonlocal running
        running += 1
        at_once.append(running)
        await asyncio.sleep(0.005)
        running -= 1
        assert request.topics is None
        return MetadataResponse()

    async with served({apis.METADATA: slow}) as here, connected(here.port) as client:
        ahead = b"".join(request_frame(MetadataRequest(), 1, number=number) for number in range(40))
        client.writer.write(ahead[:100])
        await client.writer.drain()
        client.writer.write(ahead[100:])
        for number in range(40):
            await client.answer(apis.APIS[apis.METADATA], 1, number)
    assert at_once == [1] * 40


@on_uvloop
async def test_a_handler_knows_who_asks() -> None:
    async with served({apis.METADATA: metadata}) as here, connected(here.port) as client:
        assert (await client.ask(MetadataRequest(), 4)).cluster_id == "127.0.0.1 test 4"
        assert here.sample("tiered_storage_kafka_requests_total", api="Metadata", error="NONE") == 1
        assert here.sample("tiered_storage_kafka_request_duration_seconds_count", api="Metadata") == 1
        assert here.sample("tiered_storage_kafka_sent_bytes_total") > 30


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"\xff\xff\xff\xff", id="a negative length"),
        pytest.param(b"\0\0\0\0", id="an empty frame"),
        pytest.param(framed(b"\0\x03\0\x01\0\0\0"), id="a frame shorter than a header"),
        pytest.param(framed(b"\0\x03\0\x01\0\0\0\0"), id="a header that is cut"),
        pytest.param(b"\x7f\xff\xff\xff", id="two thousand million bytes"),
        pytest.param((5 * MIB).to_bytes(4, "big") + b"\0\x03" + bytes(20000), id="large, and not to be written"),
        pytest.param(framed(bytes.fromhex("03e7 0001 00000000 ffff")), id="an API that nobody knows"),
        pytest.param(framed(bytes.fromhex("0001 0004 00000000 ffff")), id="an API without a handler"),
        pytest.param(framed(bytes.fromhex("0003 0009 00000000 ffff 00")), id="a version that is too new"),
        pytest.param(framed(bytes.fromhex("0003 ffff 00000000 ffff 00")), id="a version that is negative"),
        pytest.param(framed(bytes.fromhex("0003 0001 00000000 ffff 7fffffff")), id="an array without its elements"),
        pytest.param(framed(bytes.fromhex("0003 0001 00000000 ffff ffffffff 00")), id="a byte too many"),
    ],
)
@on_uvloop
async def test_what_is_no_request_ends_the_connection_and_no_other(data: bytes) -> None:
    async with served({apis.METADATA: metadata}) as here, connected(here.port) as other:
        async with connected(here.port) as client:
            client.writer.write(data)
            async with asyncio.timeout(10):
                assert await client.is_closed()
        await here.until_connected(1)
        dropped = [
            here.sample("tiered_storage_kafka_dropped_connections_total", reason=reason)
            for reason in ("malformed", "unsupported")
        ]
        assert sum(dropped) == 1
        assert (await other.ask(MetadataRequest(), 1)).topics == []


@on_uvloop
async def test_a_handler_that_fails_is_answered_where_there_is_a_place_for_it() -> None:
    async def fail(request: Any, client: Client) -> Any:
        raise RuntimeError("unexpected")

    handlers = {apis.LIST_GROUPS: fail, apis.METADATA: fail, apis.HEARTBEAT: fail}
    async with served(handlers) as here:
        async with connected(here.port) as client:
            for version in range(3):
                response = await client.ask(ListGroupsRequest(), version)
                assert response.error_code == ErrorCode.UNKNOWN_SERVER_ERROR
            client.writer.write(request_frame(MetadataRequest(), 1))
            assert await client.is_closed()
        await here.until_connected(0)
        assert here.sample("tiered_storage_kafka_requests_total", api="ListGroups", error="UNKNOWN_SERVER_ERROR") == 3
        assert here.sample("tiered_storage_kafka_requests_total", api="Metadata", error="UNKNOWN_SERVER_ERROR") == 1


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "segment"
    path.write_bytes(os.urandom(9 * MIB + 12345))
    return path


@pytest.mark.parametrize("encrypted", [False, True])
@on_uvloop
async def test_pieces_of_files_and_of_memory_arrive_in_order(
    segment: Path, encrypted: bool, certificate: tuple[Path, Path]
) -> None:
    data = segment.read_bytes()
    pieces = [(0, 100), (100, 40_000), (40_100, 8 * MIB), (40_100 + 8 * MIB, 7), (40_107 + 8 * MIB, 300_000)]
    context = ssl.create_default_context(cafile=certificate[0])
    with segment.open("rb") as file:
        records = [
            part
            for start, size in pieces
            for part in (
                b"between",
                FileRange(file.fileno(), start, size),
                memoryview(data)[start : start + size],
            )
        ]
        expected = b"".join(b"between" + data[start : start + size] * 2 for start, size in pieces)
        tls = tls_context(*certificate, "storage.tiered.kafka.tls") if encrypted else None
        async with (
            served(fetching(lambda: records), tls=tls) as here,
            connected(here.port, context if encrypted else None) as client,
        ):
            for version in (4, 11, 4):
                received = records_of(await client.ask(FetchRequest(), version))
                assert hashlib.sha256(received).digest() == hashlib.sha256(expected).digest()
            sent = here.sample("tiered_storage_kafka_sent_bytes_total")
            assert 3 * len(expected) < sent < 3 * len(expected) + 1000


@pytest.mark.parametrize("size", [1000, 3 * MIB])
@on_uvloop
async def test_a_file_that_became_shorter_ends_the_connection(segment: Path, size: int) -> None:
    with segment.open("rb") as file:
        past_its_end = FileRange(file.fileno(), 9 * MIB + 12345 - 500, size)
        async with served(fetching(lambda: [past_its_end])) as here, connected(here.port) as client:
            client.writer.write(request_frame(FetchRequest(), 4))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.frame()
            await here.until_connected(0)
            assert here.sample("tiered_storage_kafka_dropped_connections_total", reason="failure") == 1


@pytest.mark.parametrize("of_file", [False, True])
@on_uvloop
async def test_a_client_that_takes_nothing_is_dropped_and_holds_no_thread(segment: Path, of_file: bool) -> None:
    data = segment.read_bytes()
    with segment.open("rb") as file:
        records = [FileRange(file.fileno(), 0, len(data)) if of_file else memoryview(data)]
        handlers = {**fetching(lambda: records), apis.METADATA: metadata}
        async with served(handlers, limits=Limits(patience_seconds=0.7)) as here:
            # More of them than there are threads for transfers.
            slow = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(100)]
            for each in slow:
                each.sendall(request_frame(FetchRequest(), 4))
            async with connected(here.port) as client:
                assert len(records_of(await client.ask(FetchRequest(), 4))) == len(data)
                await here.until_connected(1)
                assert here.sample("tiered_storage_kafka_dropped_connections_total", reason="slow") == 100
            for each in slow:
                each.close()


@on_uvloop
async def test_a_client_that_takes_slowly_gets_all(segment: Path) -> None:
    data = segment.read_bytes()
    with segment.open("rb") as file:
        records: Records = [FileRange(file.fileno(), 0, len(data)), data]
        async with served(fetching(lambda: records), limits=Limits(patience_seconds=1.0)) as here:
            with socket.create_connection(("127.0.0.1", here.port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                client.sendall(request_frame(FetchRequest(), 4))

                def take() -> int:
                    count, began = 0, time.monotonic()
                    while count < 2 * len(data):
                        # For two seconds a little at a time.
                        little = time.monotonic() - began < 2
                        count += len(client.recv(100_000 if little else MIB))
                        time.sleep(0.03 if little else 0)
                    return count

                assert await asyncio.to_thread(take) >= 2 * len(data)


@pytest.mark.parametrize("half", ["silent", "cut"])
@on_uvloop
async def test_half_a_request_is_waited_for_so_long(half: str) -> None:
    frame = request_frame(MetadataRequest(), 1)
    async with served({apis.METADATA: metadata}, limits=Limits(frame_seconds=0.3)) as here:
        async with connected(here.port) as client:
            client.writer.write(frame[:-2])
            if half == "cut":
                client.writer.write_eof()
            async with asyncio.timeout(10):
                assert await client.is_closed()
        await here.until_connected(0)
        expected = float(half == "silent")
        assert here.sample("tiered_storage_kafka_dropped_connections_total", reason="slow") == expected


@on_uvloop
async def test_a_client_that_asks_nothing_is_dropped() -> None:
    async with served({apis.METADATA: metadata}, limits=Limits(idle_seconds=0.4)) as here:
        async with connected(here.port) as client:
            assert (await client.ask(MetadataRequest(), 1)).topics == []
            async with asyncio.timeout(10):
                assert await client.is_closed()
        assert here.sample("tiered_storage_kafka_dropped_connections_total", reason="idle") == 1


@on_uvloop
async def test_what_a_client_has_open_is_closed_with_it() -> None:
    closed: list[str] = []
    waiting = asyncio.Event()

    async def wait(request: HeartbeatRequest, client: Client) -> HeartbeatResponse:
        client.on_close(lambda: closed.append("session"))
        waiting.set()
        try:
            await asyncio.sleep(60)
        finally:
            closed.append("request")
        return HeartbeatResponse()

    async with served({apis.HEARTBEAT: wait}) as here:
        async with connected(here.port) as client:
            client.writer.write(request_frame(HeartbeatRequest(), 1))
            await waiting.wait()
        await here.until_connected(0)
        assert closed == ["request", "session"]
        waiting.clear()
        async with connected(here.port) as client:
            client.writer.write(request_frame(HeartbeatRequest(), 1))
            await waiting.wait()
            client.writer.write_eof()
            await here.until_connected(0)
        assert len(closed) == 4


@on_uvloop
async def test_five_hundred_clients_and_no_more_than_the_limit() -> None:
    async with served({apis.METADATA: metadata}, limits=Limits(connections=500)) as here:
        pairs = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(500)]
        clients = [WireClient(*pair) for pair in pairs]
        for _ in range(3):
            answers = await asyncio.gather(*(client.ask(MetadataRequest(), 1) for client in clients))
            assert len(answers) == 500
        async with connected(here.port) as refused:
            assert await refused.is_closed()
        assert here.sample("tiered_storage_kafka_dropped_connections_total", reason="too many") == 1
        clients[0].writer.transport.abort()
        await here.until_connected(499)
        async with connected(here.port) as client:
            assert (await client.ask(MetadataRequest(), 1)).topics == []
        for each in clients:
            each.writer.transport.abort()


def producing(size: int, acks: int = -1) -> ProduceRequest:
    partitions = [PartitionProduceData(index, [os.urandom(size)]) for index in range(2)]
    return ProduceRequest(acks=acks, timeout_ms=30_000, topic_data=[TopicProduceData("orders", partitions)])


@pytest.mark.parametrize("version", range(3, 9))
@pytest.mark.parametrize("size", [100, MIB, 8 * MIB])
@on_uvloop
async def test_a_producer_is_refused_with_a_reason(version: int, size: int) -> None:
    async with served({}) as here, connected(here.port) as client:
        for _ in range(2):
            response = await client.ask(producing(size), version)
            (topic,) = response.responses
            assert topic.name == "orders"
            assert [each.index for each in topic.partition_responses] == [0, 1]
            for each in topic.partition_responses:
                assert each.error_code == ErrorCode.POLICY_VIOLATION
                assert version < 8 or "read-only" in each.error_message


@on_uvloop
async def test_a_producer_that_wants_no_answer_gets_none() -> None:
    async with served({apis.METADATA: metadata}) as here, connected(here.port) as client:
        client.writer.write(request_frame(producing(1000, acks=0), 3))
        # The next answer is that of the next request.
        assert (await client.ask(MetadataRequest(), 1)).topics == []
        assert here.sample("tiered_storage_kafka_requests_total", api="Produce", error="NONE") == 1


@on_uvloop
async def test_all_else_that_writes_is_refused() -> None:
    async with served({}) as here, connected(here.port) as client:
        assert (await client.ask(InitProducerIdRequest(), 1)).error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        created = await client.ask(CreateTopicsRequest([CreatableTopic("new", 1, 1)]), 4)
        assert created.topics[0].error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        assert "read-only" in created.topics[0].error_message
        deleted = await client.ask(DeleteTopicsRequest(["orders"]), 3)
        assert [each.error_code for each in deleted.responses] == [ErrorCode.TOPIC_AUTHORIZATION_FAILED]
        trimmed = await client.ask(
            DeleteRecordsRequest([DeleteRecordsTopic("orders", [DeleteRecordsPartition(3, 100)])]), 1
        )
        (partition,) = trimmed.topics[0].partitions
        assert (partition.partition_index, partition.error_code) == (3, ErrorCode.TOPIC_AUTHORIZATION_FAILED)


@on_uvloop
async def test_large_requests_share_the_memory_in_turn() -> None:
    """Each takes more than half of it, and all get their answers."""
    async with served({}, limits=Limits(memory=30 * MIB)) as here:

        async def produce() -> None:
            async with connected(here.port) as client:
                assert (await client.ask(producing(2 * MIB), 3)).responses

        await asyncio.gather(*(produce() for _ in range(8)))


@on_uvloop
async def test_large_requests_that_stall_do_not_stop_small_ones() -> None:
    async with (
        served({apis.METADATA: metadata}, limits=Limits(memory=20 * MIB, frame_seconds=1.0)) as here,
        connected(here.port) as stalled,
        connected(here.port) as waiting,
        connected(here.port) as client,
    ):
        stalled.writer.write(request_frame(producing(MIB), 3)[:100_000])
        waiting.writer.write(request_frame(producing(MIB), 3))
        await here.until_connected(3)
        assert (await client.ask(MetadataRequest(), 1)).topics == []
        assert await stalled.is_closed()


@on_uvloop
async def test_the_pace_is_for_all_clients_together(segment: Path) -> None:
    with segment.open("rb") as file:
        records = [FileRange(file.fileno(), 0, 2 * MIB)]
        async with served(fetching(lambda: records), bytes_per_second=4 * MIB) as here:

            async def fetch() -> None:
                async with connected(here.port) as client:
                    assert len(records_of(await client.ask(FetchRequest(), 4))) == 2 * MIB

            began = time.monotonic()
            await asyncio.gather(*(fetch() for _ in range(3)))
            assert time.monotonic() - began > 1.2


def closed_door() -> AbstractAsyncContextManager[Served]:
    limits = Limits(failed_login_seconds=0.3, login_seconds=0.5)
    return served({apis.METADATA: who}, authenticator=Passwords(), limits=limits)


async def who(request: MetadataRequest, client: Client) -> MetadataResponse:
    return MetadataResponse(cluster_id=client.user)


@pytest.mark.parametrize("mechanism", ["ONE", "TWO"])
@on_uvloop
async def test_an_authenticated_client_is_known(mechanism: str) -> None:
    async with closed_door() as here, connected(here.port) as client:
        versions = await client.ask(ApiVersionsRequest(), 0)
        assert {apis.SASL_HANDSHAKE, apis.SASL_AUTHENTICATE} < {each.api_key for each in versions.api_keys}
        assert (await client.ask(SaslHandshakeRequest(mechanism), 1)).error_code == ErrorCode.NONE
        for answer in ([b"more"] if mechanism == "TWO" else []) + [b"done"]:
            response = await client.ask(SaslAuthenticateRequest(b"secret"), 1)
            assert response == SaslAuthenticateResponse(auth_bytes=answer)
        assert (await client.ask(MetadataRequest(), 2)).cluster_id == "anna"
        # Now it may wait longer, and ask for more.
        await asyncio.sleep(0.7)
        assert (await client.ask(MetadataRequest(), 2)).cluster_id == "anna"


@on_uvloop
async def test_the_exchange_of_old_clients_has_no_headers() -> None:
    async with closed_door() as here, connected(here.port) as client:
        assert (await client.ask(SaslHandshakeRequest("TWO"), 0)).error_code == ErrorCode.NONE
        for answer in (b"more", b"done"):
            # A token may be as short as it likes.
            client.writer.write(framed(b"secret"))
            assert await client.frame() == answer
        assert (await client.ask(MetadataRequest(), 2)).cluster_id == "anna"


@on_uvloop
async def test_nothing_is_answered_before_authentication() -> None:
    async with closed_door() as here, connected(here.port) as client:
        client.writer.write(request_frame(MetadataRequest(), 1))
        assert await client.is_closed()
    async with closed_door() as here, connected(here.port) as client:
        client.writer.write(request_frame(producing(MIB), 3))
        assert await client.is_closed()
    async with closed_door() as here, connected(here.port) as client:
        async with asyncio.timeout(10):
            assert await client.is_closed()


@on_uvloop
async def test_a_failed_authentication_is_answered_late_and_holds_up_nobody() -> None:
    async with closed_door() as here, connected(here.port) as client, connected(here.port) as other:
        await client.ask(SaslHandshakeRequest("ONE"), 1)
        began = time.monotonic()
        client.writer.write(request_frame(SaslAuthenticateRequest(b"guess"), 1, number=5))
        assert (await other.ask(ApiVersionsRequest(), 0)).error_code == ErrorCode.NONE
        assert time.monotonic() - began < 0.3
        response = await client.answer(apis.APIS[apis.SASL_AUTHENTICATE], 1, 5)
        assert time.monotonic() - began >= 0.3
        assert response.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert response.error_message == "wrong user name or password"
        assert await client.is_closed()


@on_uvloop
async def test_an_unknown_mechanism_is_told_which_there_are() -> None:
    async with closed_door() as here, connected(here.port) as client:
        response = await client.ask(SaslHandshakeRequest("GSSAPI"), 1)
        assert response.error_code == ErrorCode.UNSUPPORTED_SASL_MECHANISM
        assert response.mechanisms == ["ONE", "TWO"]
    async with closed_door() as here, connected(here.port) as client:
        response = await client.ask(SaslAuthenticateRequest(b"secret"), 0)
        assert response.error_code == ErrorCode.ILLEGAL_SASL_STATE
        assert await client.is_closed()


@on_uvloop
async def test_a_listener_with_tls_takes_nothing_in_the_clear(certificate: tuple[Path, Path]) -> None:
    async with served({apis.METADATA: metadata}, tls=tls_context(*certificate, "storage.tiered.kafka.tls")) as here:
        async with connected(here.port) as client:
            client.writer.write(request_frame(MetadataRequest(), 1))
            await client.is_closed()
        async with connected(here.port, ssl.create_default_context(cafile=certificate[0])) as client:
            assert (await client.ask(MetadataRequest(), 1)).topics == []


def test_a_certificate_that_cannot_be_used_is_a_mistake_in_the_settings(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    for pair in ((cert, cert), (tmp_path / "missing", key)):
        with pytest.raises(ConfigError, match="cannot use the certificate"):
            tls_context(*pair, "storage.tiered.kafka.tls")


@on_uvloop
async def test_there_are_no_more_clients_than_open_files_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    async with served({apis.METADATA: metadata}) as here, AsyncExitStack() as stack:
        for _ in range(5):
            client = await stack.enter_async_context(connected(here.port))
            assert (await client.ask(MetadataRequest(), 1)).topics == []
        refused = await stack.enter_async_context(connected(here.port))
        assert await refused.is_closed()


@on_uvloop
async def test_a_request_with_very_many_elements_keeps_nobody_waiting() -> None:
    ticks = at_decoded = 0

    async def fetch(request: FetchRequest, client: Client) -> FetchResponse:
        nonlocal at_decoded
        at_decoded = ticks
        (topic,) = request.topics
        return FetchResponse(
            responses=[FetchableTopicResponse("orders", [PartitionData(each.partition) for each in topic.partitions])]
        )

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async with served({apis.FETCH: fetch}) as here, connected(here.port) as client:
        wanted = [FetchPartition(number) for number in range(90_000)]
        frame = request_frame(FetchRequest(topics=[FetchTopic("orders", wanted)]), 11)
        ticking = asyncio.create_task(tick())
        client.writer.write(frame)
        before = ticks
        answer = await client.frame()
        after = ticks
        ticking.cancel()
    assert len(answer) > 90_000
    # Many times while it is decoded, and while the answer is encoded.
    assert at_decoded - before > 20
    assert after - at_decoded > 20
