"""The client beside a real broker: what it asks, and what it has deleted."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from takhin_tiered.broker.client import BrokerClient, open_broker
from takhin_tiered.disk.kafka import is_broker_running, read_log_directory, read_partition
from takhin_tiered.errors import BrokerUnavailable, TrimRefused
from takhin_tiered.segments.broker import PartitionOffsets, TopicSettings

RECORDS = 100
COMPACT = {"cleanup.policy": "compact"}
LIMITED = {
    "cleanup.policy": "compact,delete",
    "retention.ms": "7200000",
    "retention.bytes": "5000000",
    "segment.ms": "60000",
}
DAY_MS = 24 * 3600 * 1000


async def make_topics(bootstrap: str, topics: dict[str, dict[str, str]]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs=settings) for name, settings in topics.items()])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, partition: int, count: int = RECORDS) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(count):
            await producer.send(topic, b"%d" % number, key=b"key", partition=partition)


async def commit(bootstrap: str, group: str, topic: str, offsets: dict[int, int]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in offsets])
        await consumer.commit({TopicPartition(topic, partition): offset for partition, offset in offsets.items()})
    finally:
        await consumer.stop()


@asynccontextmanager
async def client(kafka: Any) -> AsyncIterator[BrokerClient]:
    async with open_broker(kafka.bootstrap, {}) as broker:
        yield broker


async def test_settings_and_offsets(kafka: Any) -> None:
    await make_topics(kafka.bootstrap, {"plain": {"retention.ms": "-1"}, "limited": LIMITED})
    await produce(kafka.bootstrap, "plain", 1)
    async with client(kafka) as broker:
        many = [f"missing-{number}" for number in range(1200)]
        settings = await broker.topic_settings(["plain", "limited", "no topic's name", *many])
        assert set(settings) == {"plain", "limited"}
        assert settings["limited"] == TopicSettings(frozenset({"compact", "delete"}), 7_200_000, 5_000_000, 60_000)
        assert settings["plain"] == TopicSettings(frozenset({"delete"}), None, None, 7 * DAY_MS)
        assert await broker.topic_settings([]) == {}
        assert await broker.check_interval_ms(1) > 0

        asked = [("plain", 0), ("plain", 1), ("plain", 7), ("missing", 0)]
        assert await broker.offsets(asked) == {
            ("plain", 0): PartitionOffsets(0, 0, 1, (1,)),
            ("plain", 1): PartitionOffsets(0, RECORDS, 1, (1,)),
        }
        assert await broker.offsets([]) == {}
        assert await broker.topic_settings(["missing"]) == {}, "asking has created a topic"


async def test_what_consumers_have_committed(kafka: Any) -> None:
    await make_topics(kafka.bootstrap, {"orders": {}, "other": {}})
    partitions = [("orders", 0), ("orders", 1)]
    async with client(kafka) as broker:
        assert await broker.committed(partitions, []) == {}
        for partition in (0, 1):
            await produce(kafka.bootstrap, "orders", partition)
        await commit(kafka.bootstrap, "billing", "orders", {0: 40, 1: 70})
        await commit(kafka.bootstrap, "search", "orders", {0: 60})
        await commit(kafka.bootstrap, "console-4711", "orders", {0: 0})
        await commit(kafka.bootstrap, "elsewhere", "other", {0: 0})
        assert await broker.committed(partitions, []) == {
            ("orders", 0): ("console-4711", 0),
            ("orders", 1): ("billing", 70),
        }
        assert await broker.committed(partitions, ["console-*"]) == {
            ("orders", 0): ("billing", 40),
            ("orders", 1): ("billing", 70),
        }
        assert await broker.committed(partitions, ["console-*", "bill?ng"]) == {("orders", 0): ("search", 60)}
        assert await broker.committed(partitions, ["*"]) == {}
        assert await broker.committed([("missing", 0)], []) == {}


async def test_records_are_deleted_or_the_broker_says_why_not(kafka: Any) -> None:
    await make_topics(kafka.bootstrap, {"orders": {}, "changes": COMPACT, "both": LIMITED})
    for topic in ("orders", "changes", "both"):
        await produce(kafka.bootstrap, topic, 0)
    await commit(kafka.bootstrap, "billing", "orders", {0: 40})
    async with client(kafka) as broker:
        # One refusal hides nothing of the others.
        found = await broker.delete_records(
            {
                ("orders", 0): 30,
                ("orders", 1): 1,
                ("changes", 0): 30,
                ("both", 0): 100,
                ("__consumer_offsets", 0): 0,
                ("missing", 0): 5,
            }
        )
        assert found.pop(("orders", 0)) == 30
        assert found.pop(("both", 0)) == 100
        said = {partition: (type(error), str(error)) for partition, error in found.items()}
        for partition, code in ((("orders", 1), 1), (("changes", 0), 44), (("__consumer_offsets", 0), 17)):
            kind, text = said.pop(partition)
            assert kind is TrimRefused
            assert f", {code})" in text
        assert [(partition, kind) for partition, (kind, _) in said.items()] == [(("missing", 0), BrokerUnavailable)]
        assert (await broker.offsets([("orders", 0)]))["orders", 0].log_start == 30
        # Below the start nothing is to be done: the answer is where the log starts.
        assert await broker.delete_records({("orders", 0): 10}) == {("orders", 0): 30}
        with pytest.raises(ValueError, match="must not be negative"):
            await broker.delete_records({("orders", 0): -1})


async def test_a_broker_that_stops_is_unavailable_until_it_is_back(kafka: Any) -> None:
    await make_topics(kafka.bootstrap, {"orders": {}})
    await produce(kafka.bootstrap, "orders", 0)
    data = os.open(kafka.log_dir, os.O_RDONLY | os.O_DIRECTORY)
    partition = os.open(kafka.log_dir / "orders-0", os.O_RDONLY | os.O_DIRECTORY)
    try:
        async with client(kafka) as broker:
            assert is_broker_running(data)
            kafka.stop()
            assert not is_broker_running(data)
            for asked in (
                broker.topic_settings(["orders"]),
                broker.offsets([("orders", 0)]),
                broker.committed([("orders", 0)], []),
                broker.delete_records({("orders", 0): 1}),
                broker.check_interval_ms(1),
            ):
                with pytest.raises(BrokerUnavailable):
                    await asked
            directory = read_log_directory(data)
            assert directory is not None
            assert (directory.node_id, directory.problems) == (1, ())
            assert len(directory.cluster_id) == 22
            assert directory.high_watermarks["orders", 0] == RECORDS
            identity = read_partition(partition)
            assert len(identity.topic_id) == 22
            assert (identity.leader_epochs, identity.problems) == (((0, 0),), ())
            kafka.start()
            assert is_broker_running(data)
            kafka.kill()
            assert (kafka.log_dir / ".lock").exists()
            assert not is_broker_running(data)
    finally:
        os.close(partition)
        os.close(data)
