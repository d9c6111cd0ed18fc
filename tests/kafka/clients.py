"""Producers, consumers and an administrator, of librdkafka: what a Kafka operator's applications do."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from tests.support import wait_until

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
READ_COMMITTED = "read_committed"
READ_UNCOMMITTED = "read_uncommitted"


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def digest(records: Iterable[Record]) -> str:
    """Of everything that a consumer is given."""
    summed = hashlib.sha256()
    for record in records:
        summed.update(repr(tuple(record)).encode())
    return summed.hexdigest()


def noise(size: int, seed: object = None) -> bytes:
    """Bytes that no codec makes smaller."""
    return random.Random(repr(seed)).randbytes(size)


class Clients:
    """Everything that is asked of one broker from outside."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin: AdminClient | None = None

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self._admin

    def create(self, topic: str, partitions: int = 1, **settings: object) -> None:
        """A new topic. It waits for a topic of that name that is being deleted."""
        config = {key.replace("_", "."): str(value) for key, value in settings.items()}

        def created() -> bool:
            try:
                made = self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])
                made[topic].result(20)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
                return False
            return True

        wait_until(created, what=f"the topic {topic}")
        wait_until(lambda: self.partitions(topic) == partitions, what=f"the partitions of {topic}")

    def partitions(self, topic: str) -> int:
        found = self.admin.list_topics(timeout=10).topics
        known = found.get(topic)
        leaders = [p for p in known.partitions.values() if p.leader >= 0] if known else []
        return len(leaders)

    def add_partitions(self, topic: str, count: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, count)])[topic].result(20)

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(20)

    def configure(self, topic: str, **settings: object) -> None:
        entries = [
            ConfigEntry(key.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for key, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(20)

    def delete_records(self, topic: str, before: int, partition: int = 0) -> None:
        where = TopicPartition(topic, partition, before)
        for future in self.admin.delete_records([where]).values():
            future.result(20)

    def commit(self, group: str, topic: str, offset: int, partition: int = 0) -> None:
        """Leave a committed offset, as a consumer group that lags does."""
        where = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition, offset)])

        def committed() -> bool:
            try:
                for future in self.admin.alter_consumer_group_offsets([where]).values():
                    # A coordinator that is still loading says so for each partition, and raises nothing.
                    errors = [each.error for each in future.result(20).topic_partitions if each.error is not None]
                    if any(error.code() != KafkaError.COORDINATOR_LOAD_IN_PROGRESS for error in errors):
                        raise KafkaException(errors[0])
                    if errors:
                        return False
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                return False
            return True

        wait_until(committed, what=f"the commit of {group}")

    def offsets(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """The log start offset and the high watermark."""
        consumer = self._consumer(READ_UNCOMMITTED)
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
            return int(low), int(high)
        finally:
            consumer.close()

    def offset_for_time(self, topic: str, timestamp: int, partition: int = 0) -> int:
        consumer = self._consumer(READ_UNCOMMITTED)
        try:
            return int(consumer.offsets_for_times([TopicPartition(topic, partition, timestamp)], timeout=20)[0].offset)
        finally:
            consumer.close()

    def produce(
        self,
        topic: str,
        count: int,
        *,
        size: int = 1000,
        codec: str = "none",
        partition: int = 0,
        timestamp: int = 0,
        key: bytes | None = None,
        seed: object = None,
        **settings: Any,
    ) -> None:
        """So many records, with headers, and with null keys and values among them."""
        producer = Producer(self._producer(codec, **settings))
        self._send(producer, topic, range(count), size, partition, timestamp, key, seed or f"{topic} {time.time()}")
        assert producer.flush(60) == 0

    def produce_every_codec(self, topic: str, count: int, **how: Any) -> None:
        for codec in CODECS:
            self.produce(topic, count, codec=codec, **how)

    def transact(self, topic: str, count: int, *, commit: bool, name: str, codec: str = "none", **how: Any) -> None:
        """One transaction of a producer of this name, ended one way or the other once all of it is in the log."""
        producer = Producer(self._producer(codec, **{"transactional.id": name}))
        wait_until(lambda: _retried(lambda: producer.init_transactions(30)), what="the transaction coordinator")
        producer.begin_transaction()
        size, partition = how.get("size", 1000), how.get("partition", 0)
        self._send(producer, topic, range(count), size, partition, 0, None, f"{name} {time.time()}")
        assert producer.flush(60) == 0
        wait_until(
            lambda: _retried(lambda: producer.commit_transaction(30) if commit else producer.abort_transaction(30)),
            what="the end of the transaction",
        )

    def put(self, topic: str, pairs: Iterable[tuple[bytes, bytes | None]], *, partition: int = 0) -> None:
        """Keys and values; a value of None deletes the key from a compacted topic."""
        producer = Producer(self._producer("none"))
        for key, value in pairs:
            producer.produce(topic, value, key, partition, on_delivery=_require_delivered)
            producer.poll(0)
        assert producer.flush(60) == 0

    def consume(
        self, topic: str, isolation: str = READ_COMMITTED, *, partition: int = 0, seconds: float = 60
    ) -> list[Record]:
        """Every record from the first one there is to the end."""
        consumer = self._consumer(isolation)
        found: list[Record] = []
        deadline = time.monotonic() + seconds
        try:
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            while time.monotonic() < deadline:
                for message in consumer.consume(500, 0.5):
                    if (error := message.error()) is None:
                        found.append(_record(message))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        return found
                    elif not error.retriable():
                        raise KafkaException(error)
            raise AssertionError(f"the end of {topic}-{partition} was not reached, only {len(found)} records")
        finally:
            consumer.close()

    def _send(
        self,
        producer: Producer,
        topic: str,
        numbers: range,
        size: int,
        partition: int,
        timestamp: int,
        key: bytes | None,
        seed: object,
    ) -> None:
        values = random.Random(repr(seed))
        for number in numbers:
            value = None if number % 50 == 49 else values.randbytes(size)
            chosen = key or (None if number % 10 == 9 else f"key-{number}".encode())
            headers: Any = [("number", str(number).encode()), ("empty", b""), ("null", None)] if number % 3 == 0 else []
            producer.produce(topic, value, chosen, partition, _require_delivered, timestamp=timestamp, headers=headers)
            if number % 100 == 99:
                producer.poll(0)

    def _producer(self, codec: str, **settings: Any) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap,
            "compression.type": codec,
            "linger.ms": 5,
            "batch.size": 64_000,
            "enable.idempotence": True,
            "log_level": 0,
            **settings,
        }

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "none-is-committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "auto.offset.reset": "error",
                "check.crcs": True,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )


class Reader(threading.Thread):
    """A consumer that reads a partition again and again from its beginning, or one that waits at its end."""

    def __init__(self, clients: Clients, topic: str, *, at_end: bool = False) -> None:
        super().__init__(daemon=True)
        self._clients, self._topic, self._at_end = clients, topic, at_end
        self._stopping = threading.Event()
        self.rounds = 0
        self.seen: list[int] = []
        self.refused: list[str] = []

    def run(self) -> None:
        consumer = self._clients._consumer(READ_UNCOMMITTED)
        start = TopicPartition(self._topic, 0, OFFSET_END if self._at_end else OFFSET_BEGINNING)
        consumer.assign([start])
        while not self._stopping.is_set():
            for message in consumer.consume(500, 0.1):
                if (error := message.error()) is None:
                    self.seen.append(message.offset() or 0)
                elif error.code() == KafkaError._PARTITION_EOF:
                    self.rounds += 1
                    if not self._at_end:
                        consumer.assign([start])
                elif not error.retriable():
                    self.refused.append(str(error))
                    consumer.assign([start])
        consumer.close()

    def __enter__(self) -> Reader:
        self.start()
        wait_until(lambda: self.rounds or self.refused, what=f"the first round of the reader of {self._topic}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join(20)


def _require_delivered(error: object, _message: object) -> None:
    """Raised from the producer's next `poll` or `flush`."""
    if error is not None:
        raise AssertionError(f"a record was not delivered: {error}")


def _record(message: Any) -> Record:
    headers = tuple((name, value) for name, value in message.headers() or ())
    return Record(message.offset(), message.timestamp()[1], message.key(), message.value(), headers)


def _retried(step: Any) -> bool:
    """True once it is done; errors that a client should retry are."""
    try:
        step()
    except KafkaException as error:
        if not error.args[0].retriable():
            raise
        return False
    return True
