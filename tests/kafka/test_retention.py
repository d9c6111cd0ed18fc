"""Kafka's own retention deletes nothing that is not in the archive, and what it does is told."""

from __future__ import annotations

import re
import time
from itertools import pairwise

from tests.kafka.broker import Kafka
from tests.kafka.clients import Clients
from tests.kafka.conftest import NewProgram
from tests.kafka.program import SECOND, bases, metric
from tests.support import wait_until

RETENTION = 12.0


def deleted_by_kafka(kafka: Kafka, topic: str) -> set[int]:
    """Base offsets of the segments that the broker's log says it has deleted."""
    lines = [line for line in kafka.log_text.splitlines() if f"{topic}-0" in line and "Deleting segment" in line]
    return {int(base) for line in lines for base in re.findall(r"baseOffset=(\d+)", line)}


def test_closed_segments_are_archived_before_retention(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """The cold age is that of retention, as it is with the default settings of both."""
    clients.create("orders", retention_ms=int(RETENTION * 1000))
    program = new_program(
        cold_age_hours=RETENTION * SECOND,
        warm_age_hours=RETENTION / 2 * SECOND,
        archive_mode="copy",
        broker_bootstrap=kafka.bootstrap,
    )
    with program.daemon() as daemon:
        daemon.wait_cycles(1)
        end = time.monotonic() + 2 * RETENTION
        while time.monotonic() < end:
            clients.produce("orders", 500)
            daemon.wait_cycles(1)
        daemon.wait(lambda: len(deleted_by_kafka(kafka, "orders")) >= 3, "Kafka's retention")
        rolled_by_size = deleted_by_kafka(kafka, "orders") - {max(deleted_by_kafka(kafka, "orders"))}
        assert rolled_by_size <= program.archived("orders")
    kafka.require_well()


def test_backfilled_topics_are_due_at_once(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Kafka goes by the largest timestamp of the records, and the files are new."""
    clients.create("history", retention_ms=7 * 24 * 3600 * 1000)
    program = new_program(
        cold_age_hours=7 * 24, warm_age_hours=24, archive_mode="copy", broker_bootstrap=kafka.bootstrap
    )
    old = int((time.time() - 7 * 24 * 3600 + 15) * 1000)
    with program.daemon() as daemon:
        daemon.wait_cycles(1)
        clients.produce("history", 4000, timestamp=old)
        clients.produce("history", 2500)
        due = {base for base, end in pairwise(program.local("history")) if end <= 4000}
        assert due

        def is_planned() -> bool:
            return any(step["reason_code"] == "before_retention" for step in program.json("plan")["segments"])

        daemon.wait(lambda: is_planned() or program.archived("history"), "the plan to say so")
        daemon.wait(lambda: due <= program.archived("history"), "the archive of what is due")
        daemon.wait(lambda: due <= deleted_by_kafka(kafka, "history"), "Kafka's retention")
    kafka.require_well()


def test_retention_by_bytes(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders", retention_bytes=4_000_000)
    program = new_program(cold_age_hours=24, warm_age_hours=12, archive_mode="copy", broker_bootstrap=kafka.bootstrap)
    with program.daemon() as daemon:
        daemon.wait_cycles(1)
        for _ in range(16):
            clients.produce("orders", 500)
            daemon.wait_cycles(1)
        daemon.wait(lambda: len(deleted_by_kafka(kafka, "orders")) >= 2, "Kafka's retention")
        assert deleted_by_kafka(kafka, "orders") <= program.archived("orders")
        young = set(program.closed("orders")) - program.archived("orders")
        assert not young or min(young) > max(deleted_by_kafka(kafka, "orders"))


def test_a_lost_tail_is_counted_and_told(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """When all of a partition is past retention, Kafka rolls and deletes the active segment in one pass."""
    clients.create("idle", retention_ms=8000)
    program = new_program(archive_mode="copy", broker_bootstrap=kafka.bootstrap)
    with program.daemon() as daemon:
        clients.produce("idle", 500)
        daemon.wait_cycles(2)
        last = clients.offsets("idle")[1]
        daemon.wait(lambda: clients.offsets("idle") == (last, last), "Kafka to delete all of it")
        names = r'"level": "warn(ing)?"'

        def told() -> bool:
            warnings = [line for line in daemon.log_text.splitlines() if re.search(names, line) and "idle-0" in line]
            return any("499" in line for line in warnings)

        daemon.wait(told, "the warning with the offsets that are lost")
        lost = [name for name in re.findall(r"^(tiered_storage_\w+)", daemon.metrics(), re.M) if "lost" in name]
        assert lost
        assert sum(metric(daemon.metrics(), name) for name in set(lost)) > 0
    kafka.require_well()


def test_topics_that_lose_their_tail_when_idle_are_named_once(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """With Kafka's defaults, `segment.ms` and `retention.ms` are the same seven days."""
    day = 24 * 3600 * 1000
    clients.create("defaults", retention_ms=7 * day)
    clients.create("sooner", retention_ms=7 * day, segment_ms=day)
    clients.create("forever", retention_ms=-1)
    clients.create("private", retention_ms=7 * day)
    for topic in ("defaults", "sooner", "forever", "private"):
        clients.produce(topic, 10)
    program = new_program(archive_mode="copy", broker_bootstrap=kafka.bootstrap, topics_exclude=["__*", "private"])
    checked = " ".join(program.run("config", "check", "--connect").stderr.split())
    assert "the last segment of defaults before" in checked
    with program.daemon() as daemon:
        daemon.wait_cycles(3)
        assert program.json("status")["broker"]["idle_tail_topics"] == ["defaults"]
        assert "1 topic may lose its tail when idle" in " ".join(program.run("status").stdout.split())
        told = [line for line in daemon.log_text.splitlines() if "fall idle" in line]
        assert len(told) == 1
        assert "defaults" in told[0]
        assert "sooner" not in told[0]


def test_an_idle_tail_is_not_rolled_before_the_next_record(kafka: Kafka, clients: Clients) -> None:
    """However short `segment.ms` is: Kafka looks at it only when a record is appended."""
    clients.create("idle", retention_ms=8000, segment_ms=1000)
    clients.create("alive", retention_ms=8000, segment_ms=1000)
    for topic in ("idle", "alive"):
        clients.produce(topic, 100)
    end = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > end, what="the time after which a segment is rolled")
    clients.produce("alive", 1)
    assert bases(kafka.log_dir / "alive-0") == [0, 100]
    assert bases(kafka.log_dir / "idle-0") == [0]
    wait_until(lambda: clients.offsets("idle") == (100, 100), what="Kafka to delete all of it")


def test_config_check_warns_of_a_cold_age_like_kafkas_retention(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """Retention is not known without `broker.bootstrap`; the defaults of both programs are the same 168 hours."""
    program = new_program(cold_age_hours=168, warm_age_hours=72, archive_mode="copy")
    done = program.run("config", "check")
    assert "retention" in done.stdout + done.stderr
    program.configure(cold_age_hours=24, warm_age_hours=12)
    done = program.run("config", "check")
    assert "cold.age" not in done.stderr


def test_what_was_found_of_the_broker_is_shown(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """`status` and `config check` say what is known, and from which source."""
    clients.create("orders", retention_ms=3_600_000)
    clients.produce("orders", 100)
    program = new_program(archive_mode="copy")
    wait_until(lambda: (kafka.log_dir / "orders-0" / "partition.metadata").exists(), what="the partition")
    assert "Kafka" in program.run("status").stdout
    program.configure(broker_bootstrap=kafka.bootstrap)
    assert kafka.bootstrap in program.run("status").stdout
    done = program.run("config", "check", "--connect")
    assert kafka.bootstrap in done.stdout + done.stderr
