"""kafka-python."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from tests.kafka.readers.client import Bounds, Client, Refused
from tests.kafka.readers.keywords import consuming, login, rows
from tests.kafka.readers.spec import NOWHERE, Place, Row, Spec


def common(spec: Spec) -> dict[str, Any]:
    found = login(spec)
    if spec.ca:
        found["ssl_cafile"] = spec.ca
    return found


class KafkaPython(Client):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._consumer = KafkaConsumer(
            bootstrap_timeout_ms=10_000,
            **common(spec),
            **consuming(spec),
        )

    def partitions(self, topic: str) -> list[int]:
        return sorted(self._consumer.partitions_for_topic(topic) or ())

    def bounds(self, topic: str, partition: int) -> Bounds:
        where = TopicPartition(topic, partition)
        earliest = self._consumer.beginning_offsets([where])[where]
        return Bounds(earliest, self._consumer.end_offsets([where])[where])

    def offset_at(self, place: Place) -> int:
        where = TopicPartition(place.topic, place.partition)
        found = self._consumer.offsets_for_times({where: place.number})[where]
        return NOWHERE if found is None else int(found.offset)

    def start(self, at: list[Place]) -> None:
        if self.spec.is_in_group:
            self._consumer.subscribe(self.spec.topic_names)
            return
        self._consumer.assign([TopicPartition(topic, partition) for topic, partition, _ in at])
        for topic, partition, offset in at:
            where = TopicPartition(topic, partition)
            if offset == NOWHERE:
                self._consumer.seek_to_beginning(where)
            else:
                self._consumer.seek(where, offset)

    def poll(self) -> list[Row]:
        found = self._consumer.poll(timeout_ms=200, max_records=int(self.spec.batch))
        return rows(found)

    def is_at_end(self, topic: str, partition: int, end: int) -> bool:
        where = TopicPartition(topic, partition)
        if where not in self._consumer.assignment():
            return False
        return bool((self._consumer.position(where) or 0) >= end)

    def assigned(self) -> set[tuple[str, int]]:
        return {(each.topic, each.partition) for each in self._consumer.assignment()}

    def commit(self, at: list[Place]) -> None:
        self._consumer.commit({TopicPartition(topic, p): OffsetAndMetadata(n, "", -1) for topic, p, n in at})

    def close(self) -> None:
        self._consumer.close()

    @staticmethod
    def produce(spec: Spec) -> None:
        producer = KafkaProducer(**common(spec), enable_idempotence=spec.idempotent == "true", max_block_ms=20_000)
        try:
            producer.send(spec.topics, b"x").get(20)
        finally:
            producer.close(1)


def refused(error: Exception) -> Refused | None:
    return Refused(type(error).__name__, str(error)) if isinstance(error, KafkaError) else None
