"""Beside a running broker nothing in its directory is unlinked, and it survives all that Kafka does with segments."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kafka.broker import MIB, Kafka
from tests.kafka.clients import Clients, Reader
from tests.kafka.conftest import NewProgram
from tests.kafka.program import SECOND, bases, files_of, segment
from tests.support import wait_until

EVENTS: dict[str, Callable[[Clients], None]] = {
    "retention": lambda clients: clients.configure("orders", retention_bytes=MIB),
    "compaction": lambda clients: clients.configure(
        "orders", cleanup_policy="compact", min_cleanable_dirty_ratio=0.001, segment_ms=500
    ),
    "topic deletion": lambda clients: clients.delete("orders"),
    "DeleteRecords": lambda clients: clients.delete_records("orders", 3000),
}


def happened(kafka: Kafka, event: str, had: int) -> bool:
    """Whether Kafka has done with segments what it was asked for."""
    directory = kafka.log_dir / "orders-0"
    kafka.require_well()
    if event == "compaction":
        return "orders-0" in kafka.log_text and cleaned_up_to(kafka, "orders") > 3000
    return len(bases(directory)) < had and not list(kafka.log_dir.rglob("*-delete")) + list(directory.glob("*.deleted"))


def cleaned_up_to(kafka: Kafka, topic: str) -> int:
    lines = (kafka.log_dir / "cleaner-offset-checkpoint").read_text().splitlines()[2:]
    return max((int(offset) for name, _, offset in map(str.split, lines) if name == topic), default=0)


@pytest.mark.parametrize("mode", [None, "trim"])
@pytest.mark.parametrize("event", EVENTS)
def test_a_live_broker_survives(
    kafka: Kafka, clients: Clients, new_program: NewProgram, mode: str | None, event: str
) -> None:
    """With the daemon at work and a consumer that reads from offset 0."""
    clients.create("orders")
    clients.produce("orders", 6000, codec="none")
    program = new_program(archive_mode=mode, broker_bootstrap=kafka.bootstrap if mode == "trim" else None)
    had = len(program.local("orders"))
    with program.daemon() as daemon, Reader(clients, "orders") as reader:
        daemon.wait(lambda: len(program.archived("orders")) >= had - 1, "the archive")
        daemon.wait_cycles()
        kafka.require_well()
        EVENTS[event](clients)
        if event == "compaction":
            clients.put("orders", [(b"key-1", b"new")])
        daemon.wait(lambda: happened(kafka, event, had), event)
        daemon.wait_cycles()
        if event != "topic deletion":
            rounds = reader.rounds

            def reads_on() -> bool:
                kafka.require_well()
                return reader.rounds > rounds + 1

            daemon.wait(reads_on, "the consumer's next rounds")
            low, high = clients.offsets("orders")
            assert high - low >= len(clients.consume("orders")) > 0
    kafka.require_well()


def test_restart_and_unclean_stop(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """The daemon goes on all the time, and after each start every record is there."""
    clients.create("orders")
    clients.produce("orders", 4000)
    program = new_program()
    produced = 4000
    with program.daemon() as daemon:
        daemon.wait(lambda: len(program.archived("orders")) >= 3, "the archive")
        for end in (kafka.stop, kafka.kill):
            end()
            daemon.wait_cycles()
            kafka.start()
            clients.produce("orders", 2000)
            produced += 2000
            daemon.wait_cycles()
            records = clients.consume("orders")
            assert [record.offset for record in records] == list(range(produced))
            kafka.require_well()


def test_move_is_refused_while_kafka_runs(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders")
    clients.produce("orders", 3000)
    program = new_program(archive_mode="move")
    before = program.local("orders")

    for arguments in (["run", "--once"], ["run"]):
        said = program.run(*arguments, status=2, seconds=20).stderr
        assert all(word in said for word in ("move", "copy", "trim", "Kafka"))

    assert program.local("orders") == before
    assert not program.archived("orders")
    kafka.require_well()
    kafka.stop()
    program.archive_closed("orders")
    assert len(program.local("orders")) == 1


@pytest.mark.parametrize("stopped", [False, True])
def test_copy_is_the_default_beside_kafka_and_says_so(
    kafka: Kafka, clients: Clients, new_program: NewProgram, stopped: bool
) -> None:
    """Also while the broker is stopped, and at each start."""
    clients.create("orders")
    clients.produce("orders", 3000)
    if stopped:
        kafka.stop()
    program = new_program()
    before = program.local("orders")

    for _ in range(2):
        said = program.cycle(1)
        assert "archive.mode" in said
        assert "copy" in said
    program.archive_closed("orders")
    assert program.local("orders") == before
    shown = program.run("config", "show").stdout
    row = next(line for line in shown.splitlines() if "archive.mode" in line)
    assert "copy" in row
    program.configure(archive_mode="copy")
    assert "archive.mode" not in "".join(line for line in program.cycle(1).splitlines() if "warn" in line.lower())


def test_by_hand_nothing_is_unlinked_beside_a_running_kafka(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    clients.create("orders")
    clients.produce("orders", 3000)
    program = new_program()
    before = program.local("orders")
    kafka.wait_checkpointed("orders", before[1])

    done = program.run("archive", segment("orders", before[0]))

    assert before[0] in program.archived("orders")
    assert program.local("orders") == before
    assert "unlink" in done.stdout + done.stderr or "stay" in done.stdout + done.stderr
    assert {step["frees_bytes"] for step in program.json("plan")["segments"]} == {0}
    kafka.require_well()


def test_a_broker_that_starts_later_keeps_its_files(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """The daemon began in mode move beside a stopped Kafka: every unlink looks at the broker's lock again.

    Restored segments whose lease ends beneath the running broker stay, too.
    """
    clients.create("orders")
    clients.produce("orders", 4000)
    kafka.stop()
    program = new_program(archive_mode="move", restore_lease_hours=8 * SECOND)
    program.archive_closed("orders")
    with program.daemon() as daemon:
        daemon.wait_cycles(1)
        program.run("restore", "orders-0/*")
        restored = program.local("orders")
        assert len(restored) > 3
        kafka.start()
        clients.produce("orders", 4000)
        daemon.wait_cycles(12)
        assert len(program.local("orders")) >= len(restored) + 3
        assert set(restored) < set(program.local("orders"))
        clients.configure("orders", retention_bytes=MIB)
        daemon.wait(lambda: len(program.local("orders")) <= 3, "retention")
        kafka.require_well()
        assert clients.consume("orders")
    kafka.require_well()


def test_what_kafka_makes_of_an_evicted_segment_fails_no_later_cycle(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """A segment that an earlier release unlinked beneath the broker: on a read Kafka makes empty indexes of it."""
    clients.create("orders")
    clients.produce("orders", 4000)
    kafka.stop()
    kafka.start()
    program = new_program(archive_mode="copy")
    program.archive_closed("orders")
    first = files_of(kafka.log_dir / "orders-0", 0)
    directory = kafka.log_dir / "orders-0"
    for kind in first:
        (directory / f"{0:020d}.{kind}").unlink()
    clients.offset_for_time("orders", 1)
    wait_until((directory / f"{0:020d}.timeindex").exists, what="the empty index that Kafka makes")
    assert not (directory / f"{0:020d}.log").exists()
    kafka.kill()
    program.configure(archive_mode="move")

    program.cycle(2)
    program.run("restore", segment("orders", 0), "--force")
    assert files_of(directory, 0) == first
    assert "0 bad" in program.run("verify", "--deep").stdout


def test_offsets_of_times_stay_right(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """What was archived is still found by its time, at the offset that it has."""
    clients.create("orders")
    clients.produce("orders", 4000)
    kafka.stop()
    kafka.start()  # it opens the indexes of a segment at the first look into it
    program = new_program()
    program.archive_closed("orders")
    program.cycle(2)

    assert clients.offset_for_time("orders", 1) == 0
    assert len(clients.consume("orders")) == 4000
    kafka.require_well()


def test_disk_freed_counts_nothing_that_the_broker_keeps(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    clients.create("orders")
    clients.produce("orders", 3000)
    program = new_program(archive_mode="trim", broker_bootstrap=kafka.bootstrap)

    plan = program.json("plan")
    assert plan["bytes_freed"] == 0
    program.configure(archive_interval_minutes=60)
    shown = program.run("plan").stdout + program.run("status").stdout
    assert "to be freed by the broker" in shown
    assert "copy" not in program.run("status").stdout
