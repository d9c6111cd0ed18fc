"""librdkafka, by confluent-kafka."""

from __future__ import annotations

from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.kafka.readers.client import Bounds, Client, Refused
from tests.kafka.readers.spec import Place, Row, Spec


def common(spec: Spec) -> dict[str, Any]:
    found = {
        "bootstrap.servers": spec.bootstrap,
        "security.protocol": spec.protocol,
        "sasl.mechanisms": spec.mechanism,
        "sasl.username": spec.user,
        "sasl.password": spec.password,
        "ssl.ca.location": spec.ca,
        "log_level": 0,
    }
    return {name: value for name, value in found.items() if value != ""}


class Librdkafka(Client):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._ended: set[tuple[str, int]] = set()
        self._refused: Refused | None = None
        self._consumer = Consumer(
            {
                **common(spec),
                "group.id": spec.group or "none-is-committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": spec.isolation,
                "auto.offset.reset": "error" if spec.reset == "none" else spec.reset,
                "check.crcs": True,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 500,
                "fetch.wait.max.ms": 100,
            }
        )

    def partitions(self, topic: str) -> list[int]:
        found = self._consumer.list_topics(topic, timeout=10).topics[topic]
        if found.error is not None:
            raise Refused(found.error.name(), found.error.str())
        return sorted(found.partitions)

    def bounds(self, topic: str, partition: int) -> Bounds:
        return Bounds(*self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20))

    def offset_at(self, place: Place) -> int:
        found = self._consumer.offsets_for_times([TopicPartition(*place)], timeout=20)[0]
        return int(found.offset)

    def start(self, at: list[Place]) -> None:
        if self.spec.is_in_group:
            self._consumer.subscribe(self.spec.topic_names)
        else:
            self._consumer.assign([TopicPartition(topic, p, n if n >= 0 else OFFSET_BEGINNING) for topic, p, n in at])

    def poll(self) -> list[Row]:
        rows = []
        message: Any
        for message in self._consumer.consume(int(self.spec.batch), 0.2):
            error, where = message.error(), (message.topic(), message.partition())
            if error is None:
                self._ended.discard(where)
                headers = tuple(message.headers() or ())
                rows.append(
                    Row(*where, message.offset(), message.timestamp()[1], message.key(), message.value(), headers)
                )
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ended.add(where)
            elif not error.retriable():
                # The records that came with it are given first.
                self._refused = Refused(error.name(), error.str())
        if self._refused is not None and not rows:
            raise self._refused
        return rows

    def is_at_end(self, topic: str, partition: int, end: int) -> bool:
        return (topic, partition) in self._ended

    def assigned(self) -> set[tuple[str, int]]:
        return {(each.topic, each.partition) for each in self._consumer.assignment()}

    def commit(self, at: list[Place]) -> None:
        done = self._consumer.commit(offsets=[TopicPartition(*place) for place in at], asynchronous=False)
        for each in done or ():
            if each.error is not None:
                raise Refused(each.error.name(), each.error.str())

    def close(self) -> None:
        self._consumer.close()

    @staticmethod
    def produce(spec: Spec) -> None:
        settings = {"enable.idempotence": spec.idempotent == "true", "message.timeout.ms": 20_000}
        failed: list[KafkaError] = []
        producer = Producer({**common(spec), **settings})
        producer.produce(spec.topics, b"x", on_delivery=lambda error, _: failed.append(error) if error else None)
        try:
            producer.flush(20)
        except SystemError as error:
            # A fatal error is raised in the midst of a callback.
            raise (error.__cause__ or error) from error
        if failed:
            raise Refused(failed[0].name(), failed[0].str())


def refused(error: Exception) -> Refused | None:
    if isinstance(error, KafkaException):
        return Refused(error.args[0].name(), error.args[0].str())
    return None
