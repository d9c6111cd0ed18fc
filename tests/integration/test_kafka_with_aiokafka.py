"""The whole endpoint in this process, with a client that nobody here wrote: aiokafka."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from takhin_tiered.errors import ConfigError
from takhin_tiered.kafka.service import Endpoint, open_endpoint
from tests.integration.test_records import served
from tests.partitions import Known, Truth, as_known, make_partition
from tests.support import Broker


@asynccontextmanager
async def opened(
    broker: Broker, *, place: str = "mixed", **settings: Any
) -> AsyncIterator[tuple[Any, Any, int, Endpoint]]:
    made = make_partition("orders-0", 31, segments=4)
    async with served(broker, made, place=place, **settings) as (storage, _):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            async with open_endpoint(storage, listener) as endpoint:
                yield storage, Truth(made.known(), made.end), port, endpoint


@asynccontextmanager
async def consumer(port: int, *topics: str, **more: Any) -> AsyncIterator[AIOKafkaConsumer]:
    how = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "request_timeout_ms": 10_000, **more}
    client = AIOKafkaConsumer(*topics, bootstrap_servers=f"127.0.0.1:{port}", **how)
    try:
        await client.start()
        yield client
    finally:
        await client.stop()


async def consumed(client: AIOKafkaConsumer, count: int) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            for records in (await client.getmany(timeout_ms=500)).values():
                found += [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in records]
    return found


@pytest.mark.parametrize("place", ["archived", "local", "mixed"])
@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
async def test_a_client_reads_a_partition(broker: Broker, place: str, isolation: str) -> None:
    async with opened(broker, place=place) as (storage, truth, port, _):
        wanted: list[Known] = truth.visible(committed=isolation == "read_committed")[0]
        async with consumer(port, isolation_level=isolation, client_id="an auditor") as client:
            partition = TopicPartition("orders", 0)
            client.assign([partition])
            assert await consumed(client, len(wanted)) == as_known(wanted)
            found = await client.offsets_for_times({partition: wanted[len(wanted) // 2].timestamp})
            assert found[partition].offset == truth.at_time(wanted[len(wanted) // 2].timestamp)
            (who,) = storage.status().consumers
            assert (who.client_id, who.topic, who.partition) == ("an auditor", "orders", 0)
            assert who.bytes > 0
        async with asyncio.timeout(10):
            while storage.status().consumers:
                await asyncio.sleep(0.01)


async def test_a_group_goes_on_where_it_was(broker: Broker) -> None:
    async with opened(broker) as (_, truth, port, _):
        wanted = as_known(truth.visible(committed=True)[0])
        how = {"group_id": "auditors", "isolation_level": "read_committed", "max_poll_records": 50}
        half = len(wanted) // 2
        async with consumer(port, "orders", **how) as client:
            found = (await consumed(client, half))[:half]
            await client.commit({TopicPartition("orders", 0): found[-1][0] + 1})  # type: ignore[operator]
        async with consumer(port, "orders", **how) as client:
            assert found + await consumed(client, len(wanted) - half) == wanted


async def test_users_are_read_again(broker: Broker, tmp_path: Path) -> None:
    users = tmp_path / "users"

    def write(text: str) -> None:
        users.write_text(text)
        users.chmod(0o600)

    async def logs_in(port: int, user: str, password: str, mechanism: str) -> bool:
        how = {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }
        try:
            async with consumer(port, **how) as client:
                return "orders" in await client.topics()
        except KafkaError:
            return False

    write("anna:first\n")
    async with opened(broker, kafka_sasl_users_file=users) as (storage, _, port, endpoint):
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            assert await logs_in(port, "anna", "first", mechanism)
        assert not await logs_in(port, "bert", "second", "SCRAM-SHA-256")
        write("bert:second\n")
        endpoint.reload(storage.settings)
        assert await logs_in(port, "bert", "second", "SCRAM-SHA-256")
        assert not await logs_in(port, "anna", "first", "SCRAM-SHA-256")
        # A mistake leaves things as they are.
        write("no user\n")
        endpoint.reload(storage.settings)
        assert await logs_in(port, "bert", "second", "PLAIN")


async def test_without_users_or_a_certificate_it_does_not_start(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        async with opened(broker, kafka_tls_cert=tmp_path / "none", kafka_tls_key=tmp_path / "none"):
            raise AssertionError
