"""Producers of two libraries, refused at once: one request each, and a reason where the library shows one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiokafka
import kafka
import kafka.errors
import pytest
from aiokafka.errors import ClusterAuthorizationFailedError, PolicyViolationError

from takhin_tiered.kafka import apis
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from tests.kafka_wire import Served, on_uvloop, served


async def metadata(request: MetadataRequest, client: Client) -> MetadataResponse:
    host, port = client.local
    partition = MetadataResponsePartition(leader_id=7, replica_nodes=[7], isr_nodes=[7])
    return MetadataResponse(
        brokers=[MetadataResponseBroker(7, host, port)],
        controller_id=7,
        topics=[MetadataResponseTopic(name="orders", partitions=[partition])],
    )


@asynccontextmanager
async def read_only() -> AsyncIterator[tuple[Served, str]]:
    async with served({apis.METADATA: metadata}) as here:
        yield here, f"127.0.0.1:{here.port}"


def refused(here: Served, api: str, error: str) -> float:
    return here.sample("tiered_storage_kafka_requests_total", api=api, error=error)


@on_uvloop
async def test_aiokafka() -> None:
    async with read_only() as (here, address), aiokafka.AIOKafkaProducer(bootstrap_servers=address) as producer:
        async with asyncio.timeout(5):
            with pytest.raises(PolicyViolationError):
                await producer.send_and_wait("orders", b"a" * 500_000)
        assert refused(here, "Produce", "POLICY_VIOLATION") == 1


@on_uvloop
async def test_an_idempotent_aiokafka() -> None:
    async with read_only() as (here, address):
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True)
        async with asyncio.timeout(5):
            with pytest.raises(ClusterAuthorizationFailedError):
                await producer.start()
        await producer.stop()
        assert refused(here, "InitProducerId", "CLUSTER_AUTHORIZATION_FAILED") == 1


@on_uvloop
async def test_kafka_python_shows_the_reason() -> None:
    def produce(address: str) -> None:
        producer = kafka.KafkaProducer(bootstrap_servers=address, enable_idempotence=False)
        try:
            producer.send("orders", b"a" * 500_000).get(5)
        finally:
            producer.close()

    async with read_only() as (here, address):
        with pytest.raises(kafka.errors.PolicyViolationError, match="read-only"):
            await asyncio.to_thread(produce, address)
        assert refused(here, "Produce", "POLICY_VIOLATION") == 1
