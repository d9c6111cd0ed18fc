"""aiokafka."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from tests.kafka.readers.client import Bounds, Client, Refused
from tests.kafka.readers.keywords import consuming, login, rows
from tests.kafka.readers.spec import NOWHERE, Place, Row, Spec


def common(spec: Spec) -> dict[str, Any]:
    found = login(spec)
    if spec.ca:
        found["ssl_context"] = ssl.create_default_context(cafile=spec.ca)
    return found


class Aiokafka(Client):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._runner = asyncio.Runner()
        self._consumer = self._wait(self._open())

    async def _open(self) -> Any:
        spec = self.spec
        consumer = AIOKafkaConsumer(
            **common(spec),
            **consuming(spec),
        )
        await consumer.start()
        return consumer

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def partitions(self, topic: str) -> list[int]:
        async def ask() -> list[int]:
            # A consumer knows only the topics that it is assigned.
            admin = AIOKafkaAdminClient(**common(self.spec))
            await admin.start()
            try:
                described = (await admin.describe_topics([topic]))[0]
            finally:
                await admin.close()
            if described["error_code"]:
                error = for_code(described["error_code"])
                raise Refused(error.__name__, error.description)
            return sorted(each["partition"] for each in described["partitions"])

        found: list[int] = self._wait(ask())
        return found

    def bounds(self, topic: str, partition: int) -> Bounds:
        where = TopicPartition(topic, partition)
        earliest = self._wait(self._consumer.beginning_offsets([where]))[where]
        return Bounds(earliest, self._wait(self._consumer.end_offsets([where]))[where])

    def offset_at(self, place: Place) -> int:
        where = TopicPartition(place.topic, place.partition)
        found = self._wait(self._consumer.offsets_for_times({where: place.number}))[where]
        return NOWHERE if found is None else int(found.offset)

    def start(self, at: list[Place]) -> None:
        async def begin() -> None:
            if self.spec.is_in_group:
                self._consumer.subscribe(self.spec.topic_names)
                return
            self._consumer.assign([TopicPartition(topic, partition) for topic, partition, _ in at])
            for topic, partition, offset in at:
                where = TopicPartition(topic, partition)
                if offset == NOWHERE:
                    await self._consumer.seek_to_beginning(where)
                else:
                    self._consumer.seek(where, offset)

        self._wait(begin())

    def poll(self) -> list[Row]:
        found = self._wait(self._consumer.getmany(timeout_ms=200, max_records=int(self.spec.batch)))
        return rows(found)

    def is_at_end(self, topic: str, partition: int, end: int) -> bool:
        where = TopicPartition(topic, partition)
        if where not in self._consumer.assignment():
            return False
        return bool(self._wait(self._consumer.position(where)) >= end)

    def assigned(self) -> set[tuple[str, int]]:
        return {tuple(each) for each in self._consumer.assignment()}

    def commit(self, at: list[Place]) -> None:
        self._wait(self._consumer.commit({TopicPartition(topic, p): offset for topic, p, offset in at}))

    def close(self) -> None:
        self._wait(self._consumer.stop())
        self._runner.close()

    @staticmethod
    def produce(spec: Spec) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(
                **common(spec), enable_idempotence=spec.idempotent == "true", request_timeout_ms=20_000
            )
            await producer.start()
            try:
                await producer.send_and_wait(spec.topics, b"x")
            finally:
                await producer.stop()

        asyncio.run(send())


def refused(error: Exception) -> Refused | None:
    return Refused(type(error).__name__, str(error)) if isinstance(error, KafkaError) else None
