"""Compacted topics are left alone with a reason, or come back exactly as they could be read."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kafka.broker import Kafka
from tests.kafka.clients import Clients, Record
from tests.kafka.conftest import NewProgram
from tests.kafka.program import Program
from tests.support import wait_until


def compacted(kafka: Kafka, clients: Clients, topic: str) -> list[Record]:
    """A topic of many versions of few keys, some of them deleted, after the cleaner; what can be read of it."""
    clients.create(
        topic,
        cleanup_policy="compact",
        segment_ms=1000,
        delete_retention_ms=100,
    )
    rewrite(clients, topic)
    return settled(kafka, clients, topic)


def rewrite(clients: Clients, topic: str) -> None:
    for version in range(4):
        clients.put(topic, ((b"key-%d" % (number % 400), b"%d" % version * 1500) for number in range(1200)))
    clients.put(topic, ((b"key-%d" % number, None) for number in range(20)))


def settled(kafka: Kafka, clients: Clients, topic: str) -> list[Record]:
    """Roll the active segment until the cleaner has left one version of each key and no deletion; then hold it."""
    clients.configure(topic, min_cleanable_dirty_ratio=0.0001)

    def is_clean() -> bool:
        clients.put(topic, [(b"last", b"x" * 1500)])
        kafka.require_well()
        found = [record for record in clients.consume(topic) if record.key != b"last"]
        return len(found) == len({record.key for record in found}) and all(record.value for record in found)

    wait_until(is_clean, seconds=60, what="the cleaner")
    clients.configure(topic, min_cleanable_dirty_ratio=1)
    return clients.consume(topic)


def reasons(program: Program, topic: str) -> set[str]:
    return {
        str(step["reason_code"])
        for step in program.json("plan")["segments"]
        if step["segment_path"].startswith(f"{topic}-0/") and step["reason_code"] != "active"
    }


def test_it_is_skipped_and_says_why(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Known from the broker, or without it from the cleaner's checkpoint."""
    before = compacted(kafka, clients, "profiles")
    clients.put("profiles", ((b"new-%d" % number, b"y" * 1500) for number in range(1500)))
    program = new_program(archive_mode="copy", topics_include=["profiles"])
    assert program.closed("profiles")
    for bootstrap in (None, kafka.bootstrap):
        program.configure(broker_bootstrap=bootstrap)
        program.cycle(3)
        assert program.archived("profiles") == set()
        assert reasons(program, "profiles") == {"compacted"}
    kept = {record.key: record.value for record in before}
    now = {record.key: record.value for record in clients.consume("profiles")}
    assert kept.items() <= now.items()
    kafka.require_well()


def test_taken_deliberately_it_comes_back_as_it_was_read(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """Segments that the cleaner has replaced since do not come back, and deleted keys neither."""
    compacted(kafka, clients, "profiles")
    program = new_program(archive_mode="copy", topics_include=["profiles"], topics_compacted="archive")
    program.cycle(3)
    rewrite(clients, "profiles")
    program.cycle(3)
    readable = settled(kafka, clients, "profiles")
    kafka.stop()
    program.cycle(3)
    assert set(program.closed("profiles")) <= program.archived("profiles")
    program.configure(archive_mode="move")
    program.cycle(3)
    assert len(program.local("profiles")) == 1

    program.run("restore", "profiles-0/*")

    kafka.start()
    assert clients.consume("profiles") == readable
    kafka.require_well()


def test_a_cleaned_segment_is_not_expired_for_its_time(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """The cleaner may leave a modification time of 0: no age, least of all for `retention.hours`."""
    compacted(kafka, clients, "profiles")
    kafka.stop()
    program = new_program(
        archive_mode="move", topics_include=["profiles"], topics_compacted="archive", retention_hours=24
    )
    first = program.closed("profiles")[0]
    for path in kafka.partition_dir("profiles").glob(f"{first:020d}.*"):
        os.utime(path, (0, 0))
    program.cycle(4)
    assert first in program.archived("profiles")
    assert first not in program.local("profiles")


def test_what_is_erased_leaves_the_archive(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Deleted by their keys, no value is left in any object, also where the cleaner empties a segment."""
    clients.create("people", cleanup_policy="compact", segment_ms=1000, delete_retention_ms=100)
    for version in range(3):
        clients.put("people", ((b"key-%d" % number, b"secret-%d-" % version * 150) for number in range(800)))
    program = new_program(archive_mode="copy", topics_include=["people"], topics_compacted="archive")
    program.cycle(3)

    def holding(root: Path) -> list[str]:
        return [str(path) for path in root.rglob("*.log*") if b"secret-" in path.read_bytes()]

    assert holding(program.store)
    clients.put("people", ((b"key-%d" % number, None) for number in range(800)))
    settled(kafka, clients, "people")
    wait_until(lambda: not holding(kafka.partition_dir("people")), seconds=40, what="the cleaner and its deletions")
    program.cycle(4)
    assert holding(program.store) == []
    assert "0 bad" in program.run("verify", "--deep").stdout
    kafka.require_well()
