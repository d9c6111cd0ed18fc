"""Several log directories: one daemon, one catalog, and a partition that moves stays one partition."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.kafka.broker import Kafka
from tests.kafka.clients import Clients
from tests.kafka.conftest import NewKafka, NewProgram
from tests.kafka.program import sha256
from tests.support import wait_until


@pytest.fixture
def kafka(new_kafka: NewKafka) -> Kafka:
    broker = new_kafka(log_dirs=2)
    broker.start()
    return broker


def move_replica(kafka: Kafka, topic: str, partition: int, to: Path) -> None:
    """As `kafka-reassign-partitions` moves a replica to another log directory of its broker."""
    plan = kafka.root / "move.json"
    where = {"topic": topic, "partition": partition, "replicas": [1], "log_dirs": [str(to)]}
    plan.write_text(json.dumps({"version": 1, "partitions": [where]}))
    done = subprocess.run(
        kafka.tool(
            "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
            "--bootstrap-server", kafka.bootstrap, "--reassignment-json-file", str(plan), "--execute",
        ),
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"{topic}-{partition}"
    wait_until(
        lambda: (to / name).is_dir() and [place for place in kafka.log_dirs if (place / name).is_dir()] == [to],
        what=f"{name} in {to}",
    )


def test_one_daemon_archives_them_all(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders", partitions=4)
    for partition in range(4):
        clients.produce("orders", 2500, partition=partition)
    assert all(list(place.glob("orders-*")) for place in kafka.log_dirs)
    program = new_program(archive_mode="copy", topics_include=["orders"])
    for partition in range(4):
        program.archive_closed("orders", partition)
    listed = program.json("ls", "--partitions")["partitions"]
    assert sorted(entry["partition"] for entry in listed) == [0, 1, 2, 3]
    assert "0 bad" in program.run("verify", "--deep").stdout
    kafka.require_well()


def test_a_partition_that_moved_stays_one(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders")
    clients.produce("orders", 4000)
    program = new_program(archive_mode="copy", topics_include=["orders"])
    program.archive_closed("orders")
    objects = {path: path.stat().st_mtime_ns for path in program.store.rglob("*.log")}
    here = kafka.partition_dir("orders").parent
    there = next(place for place in kafka.log_dirs if place != here)

    move_replica(kafka, "orders", 0, there)

    program.cycle(3)
    clients.produce("orders", 2000)
    program.archive_closed("orders")
    now = {path: path.stat().st_mtime_ns for path in program.store.rglob("*.log")}
    assert objects.items() <= now.items(), "archived twice"
    assert len(program.manifests("orders")) == len(program.archived("orders")) == len(program.closed("orders"))
    assert {sha256(path) for path in program.store.rglob("*.log")} == program.objects("orders")
    entries = [entry for entry in program.json("ls", "--partitions")["partitions"] if entry["topic"] == "orders"]
    assert [(entry["current"], entry["holes"], entry["overlaps"]) for entry in entries] == [(True, [], [])]
    kafka.require_well()


def test_several_need_a_state_directory_of_their_own(kafka: Kafka, new_program: NewProgram) -> None:
    program = new_program(archive_mode="copy", state_dir=None)
    assert "storage.tiered.state.dir" in program.run("config", "check", status=2).stderr


def test_a_value_with_a_comma_is_no_directory(kafka: Kafka, new_program: NewProgram) -> None:
    """As Kafka's own `log.dirs` is written: taken as the list that it is, or refused, but never as one directory."""
    program = new_program(archive_mode="copy", data_dir=",".join(str(path) for path in kafka.log_dirs))
    done = program.run("config", "check", status=None)
    if done.returncode == 0:
        shown = program.run("config", "show").stdout
        assert all(str(place) in shown for place in kafka.log_dirs)
        assert "is not a directory" not in done.stdout + done.stderr
    else:
        assert done.returncode == 2
        assert "storage.data.dir" in done.stderr


def test_the_restore_goes_where_the_partition_is(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders", partitions=2)
    for partition in range(2):
        clients.produce("orders", 3000, partition=partition)
    records = [clients.consume("orders", partition=partition) for partition in range(2)]
    kafka.stop()
    program = new_program(archive_mode="move", topics_include=["orders"])
    places = [kafka.partition_dir("orders", partition) for partition in range(2)]
    had = [program.local("orders", partition) for partition in range(2)]
    program.archive_closed("orders")
    wait_until(lambda: not program.closed("orders", 1), what="the other partition's archive")
    program.run("restore", "orders-*/*")
    assert [program.local("orders", partition) for partition in range(2)] == had
    assert [kafka.partition_dir("orders", partition) for partition in range(2)] == places
    kafka.start()
    assert [clients.consume("orders", partition=partition) for partition in range(2)] == records
    kafka.require_well()
