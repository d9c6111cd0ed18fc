"""The examples of docs/reading.md do what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions

from tests.kafka.broker import Kafka, find_jars
from tests.kafka.clients import READ_COMMITTED, Clients, Record
from tests.kafka.conftest import NewKafka
from tests.kafka.guide import example
from tests.kafka.mirror import mirror
from tests.kafka.program import Program
from tests.kafka.recorded import LEDGER, ORDERS, PARTITIONS, Archive, Recording, serves
from tests.support import free_port, wait_until

EXAMPLES = {
    "Python: confluent-kafka": "python",
    "Python: aiokafka": "python",
    "Python: kafka-python": "python",
    "Java": "java",
    "kcat": "sh",
}


def test_each_example_goes_on_at_the_broker(new_kafka: NewKafka, tmp_path: Path) -> None:
    """The endpoint ends where the broker's checkpoint ends, and the broker has lost the beginning."""
    kafka = new_kafka(replica_high_watermark_checkpoint_interval_ms=3_600_000)
    kafka.start()
    clients = Clients(kafka.bootstrap)
    clients.create("orders")
    clients.produce_every_codec("orders", 600)
    clients.transact("orders", 100, commit=False, name="aborted")
    # The broker writes its checkpoint when it stops.
    kafka.stop()
    kafka.start()
    consumed = clients.consume("orders", READ_COMMITTED)
    program = Program(tmp_path, kafka, archive_mode="copy", kafka_port=(port := free_port()), topics_include=["orders"])
    program.archive_closed("orders")
    clients.delete_records("orders", 1500)
    clients.produce("orders", 200)
    consumed += [record for record in clients.consume("orders", READ_COMMITTED) if record.offset > consumed[-1].offset]
    with program.daemon() as running:
        endpoint = Clients(f"127.0.0.1:{port}")
        running.wait(lambda: serves(endpoint, {"orders": 1}), "the endpoint")
        for heading, language in EXAMPLES.items():
            if language == "sh" and shutil.which("kcat") is None:
                continue
            text = example(heading, language, endpoint=endpoint.bootstrap, broker=kafka.bootstrap)
            said = run_example(text, language, tmp_path, kafka)
            _require_all(heading, said, consumed)


def _require_all(heading: str, said: list[str], consumed: list[Record]) -> None:
    at = next(number for number, line in enumerate(said) if line.startswith("the broker goes on at"))
    records = [line.split(maxsplit=2) for line in said[:at] + said[at + 1 :]]
    found = [(int(offset), int(timestamp)) for offset, timestamp, *_ in records]
    assert found == [(record.offset, record.timestamp) for record in consumed], heading
    assert 0 < at < len(said) - 1, f"{heading}: one of the two gave no record"


def run_example(text: str, language: str, root: Path, kafka: Kafka) -> list[str]:
    """What it prints, line by line."""
    command = {"python": [sys.executable, "-W", "ignore", "-"], "sh": ["sh", "-s"]}.get(language)
    if command is None:
        jars, source = find_jars(kafka.version), root / "Replay.java"
        source.write_text(text)
        command = [str(shutil.which("java")), "-cp", f"{jars}/*", str(source)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TAKHIN_", "PYTHON"))}
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        command, input=text, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.long
def test_mirror_maker_replays_the_archive_into_another_cluster(
    recording: Recording, new_kafka: NewKafka, version: str, tmp_path: Path
) -> None:
    """The same records, order and timestamps; and what a group had committed is translated."""
    if version != recording.version:
        pytest.skip("the broker of the other release")
    if not list((find_jars(version) or tmp_path).glob("connect-mirror-*.jar")):
        pytest.skip("there are no jars of MirrorMaker 2: see make test-kafka")
    target = new_kafka()
    target.start()
    there = Clients(target.bootstrap)
    source = tmp_path / "source"
    source.mkdir()
    archive = Archive(source, recording)
    archive.archive_half()
    with archive.daemon():
        here = Clients(archive.bootstrap)
        ends = {partition: here.offsets(ORDERS, partition)[1] for partition in range(PARTITIONS[ORDERS])}
        for partition, end in ends.items():
            here.commit("billing", ORDERS, end, partition)
        text = example(
            "Into another cluster: MirrorMaker 2", "properties", endpoint=archive.bootstrap, broker=target.bootstrap
        )
        with mirror(text.replace("topics = orders", f"topics = {ORDERS},{LEDGER}"), target, tmp_path):
            for topic in (ORDERS, LEDGER):
                for partition in range(PARTITIONS[topic]):
                    expected = recording.records[READ_COMMITTED].of(topic, partition)
                    what = f"{topic}-{partition} in the other cluster"
                    arrived = partial(_has, there, topic, partition, len(expected))
                    wait_until(arrived, seconds=100, what=what)
                    found = there.consume(topic, READ_COMMITTED, partition=partition)
                    assert [(r.timestamp, r.key, r.value, r.headers) for r in found] == [
                        (r.timestamp, r.key, r.value, r.headers) for r in expected
                    ], (topic, partition)
            translated = {partition: there.offsets(ORDERS, partition)[1] for partition in ends}
            wait_until(
                lambda: committed(there, "billing", ORDERS) == translated,
                seconds=60,
                what="the translated offsets of the group",
            )


def committed(clients: Clients, group: str, topic: str) -> dict[int, int]:
    asked = clients.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = asked[group].result(20).topic_partitions
    return {each.partition: each.offset for each in found if each.topic == topic}


def _has(clients: Clients, topic: str, partition: int, count: int) -> bool:
    return clients.partitions(topic) > partition and clients.offsets(topic, partition)[1] >= count
