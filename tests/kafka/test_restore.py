"""What is restored is served, stays, and leaves no gap; what the broker would delete again is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.kafka.broker import Kafka
from tests.kafka.clients import READ_UNCOMMITTED, Clients, digest
from tests.kafka.conftest import NewProgram
from tests.kafka.program import bases, closed_files, segment, topic_id
from tests.support import wait_until


def test_a_new_machine(kafka: Kafka, clients: Clients, new_program: NewProgram, tmp_path: Path) -> None:
    """An empty log directory: rebuild, restore, start. Every archived record is served, and no partition is astray.

    The cluster's metadata is that of the other nodes, or of its own disk, as with a lost data disk here.
    """
    clients.create("orders", partitions=2)
    for partition in (0, 1):
        clients.produce_every_codec("orders", 900, partition=partition)
        clients.transact("orders", 300, commit=False, name="aborted", partition=partition)
        clients.produce("orders", 100, partition=partition)
    program = new_program(archive_mode="copy", topics_include=["orders"], state_dir=None)
    program.archive_closed("orders", 0)
    program.archive_closed("orders", 1)
    ends = {partition: program.local("orders", partition)[-1] for partition in (0, 1)}
    before = {
        partition: digest(r for r in clients.consume("orders", partition=partition) if r.offset < end)
        for partition, end in ends.items()
    }
    ids = {topic_id(kafka.log_dir / f"orders-{partition}") for partition in (0, 1)}
    kafka.stop()
    for inside in kafka.log_dir.iterdir():
        if inside.name != "meta.properties" and inside.name != "bootstrap.checkpoint":
            shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    meta = (kafka.log_dir / "meta.properties").read_bytes()
    (kafka.log_dir / "meta.properties").unlink()
    for state in tmp_path.glob("**/*.takhin-tiered"):
        shutil.rmtree(state)
    program.configure(archive_mode=None)

    assert "LOST" not in program.run("rebuild").stdout
    program.run("restore", "*")

    assert not [path for path in kafka.log_dir.iterdir() if "takhin" in path.name]
    assert {topic_id(kafka.log_dir / f"orders-{partition}") for partition in (0, 1)} == ids
    (kafka.log_dir / "meta.properties").write_bytes(meta)
    kafka.mark()
    kafka.start()
    for partition, end in ends.items():
        assert clients.offsets("orders", partition) == (0, end)
        assert digest(clients.consume("orders", partition=partition)) == before[partition]
    assert not list(kafka.log_dir.glob("*-stray"))
    clients.produce("orders", 2000)
    kafka.require_well()
    said = program.cycle(2)
    assert '"failed": 0' in said
    assert len(clients.consume("orders", READ_UNCOMMITTED)) > ends[0]


def test_a_state_directory_inside_is_never_made(kafka: Kafka, new_program: NewProgram, tmp_path: Path) -> None:
    """Kafka does not start with one: the default stands beside the data directory, even an empty one."""
    empty = tmp_path / "disk" / "data"
    empty.mkdir(parents=True)
    program = new_program(data_dir=str(empty), state_dir=None)
    program.run("rebuild")
    assert list(empty.iterdir()) == []


def test_one_segment_from_the_middle_is_refused(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """It would leave a gap that consumers would skip silently."""
    clients.create("orders")
    clients.produce("orders", 6000)
    kafka.stop()
    program = new_program(archive_mode="move", topics_include=["orders"])
    closed = program.closed("orders")
    program.archive_closed("orders")

    done = program.run("restore", segment("orders", closed[1]), status=1)
    assert "--force" in done.stdout + done.stderr
    assert closed[1] not in program.local("orders")
    done = program.run("restore", "orders-0", "--offsets", f"{closed[1] + 5}-{closed[1] + 6}", status=1)
    assert closed[1] not in program.local("orders")
    program.run("restore", segment("orders", closed[1]), "--force")
    assert closed[1] in program.local("orders")


def test_a_range_up_to_what_is_there_is_whole(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders")
    clients.produce("orders", 6000)
    everything = clients.consume("orders")
    kafka.stop()
    program = new_program(archive_mode="move", topics_include=["orders"])
    closed = program.closed("orders")
    program.archive_closed("orders")

    program.run("restore", "orders-0", "--offsets", f"{closed[2] + 5}-{everything[-1].offset}")

    assert program.closed("orders") == closed[2:]
    kafka.start()
    assert clients.consume("orders") == [record for record in everything if record.offset >= closed[2]]
    kafka.require_well()


def test_below_the_log_start_is_refused(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Kafka would delete it at its next start; it says how to read it in place instead."""
    clients.create("orders")
    clients.produce("orders", 6000)
    program = new_program(archive_mode="copy", topics_include=["orders"])
    program.archive_closed("orders")
    closed = program.closed("orders")
    clients.delete_records("orders", closed[3] + 10)
    wait_until(lambda: program.local("orders")[0] == closed[3], what="the deletion")
    kafka.stop()

    done = program.run("restore", "orders-0/*", status=1)

    assert "log start" in (done.stdout + done.stderr).lower()
    assert "read" in done.stdout + done.stderr
    assert program.local("orders")[0] == closed[3]
    program.run("restore", "orders-0/*", "--force")
    assert program.local("orders")[0] == closed[0]


def test_past_retention_is_refused(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders", retention_ms=8000)
    clients.produce("orders", 6000)
    program = new_program(archive_mode="copy", topics_include=["orders"], broker_bootstrap=kafka.bootstrap)
    program.archive_closed("orders")
    archived = program.archived("orders")
    wait_until(lambda: not archived & set(program.local("orders")), what="Kafka's retention")

    done = program.run("restore", "orders-0/*", status=1)

    assert "retention" in done.stdout + done.stderr
    assert not archived & set(program.local("orders"))
    kafka.require_well()


def test_restored_segments_stay(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Through restarts of the broker, clean and unclean, with their leader epochs."""
    clients.create("orders")
    for _ in range(3):
        clients.produce("orders", 2000)
        kafka.stop()
        kafka.start()  # a new leader epoch each time
    directory = kafka.log_dir / "orders-0"
    clients.produce("orders", 500)
    everything = digest(clients.consume("orders"))
    kafka.stop()
    epochs = (directory / "leader-epoch-checkpoint").read_text()
    assert len(epochs.splitlines()) > 3
    before = closed_files(directory)
    program = new_program(archive_mode="move", topics_include=["orders"])
    program.archive_closed("orders")
    kafka.start()
    clients.consume("orders")
    kafka.stop()
    # What Kafka's own deletion leaves of the epochs: those from the first local segment on.
    entries = (directory / "leader-epoch-checkpoint").read_text().splitlines()[2:]
    kept = [entry for entry in entries if int(entry.split()[1]) >= program.local("orders")[0]]
    (directory / "leader-epoch-checkpoint").write_text("\n".join(["0", str(len(kept)), *kept, ""]))

    program.run("restore", "orders-0/*")

    restored = (directory / "leader-epoch-checkpoint").read_text().split()
    assert restored[2 : len(epochs.split())] == epochs.split()[2:]
    for stop in (kafka.stop, kafka.kill, kafka.stop):
        kafka.start()
        assert set(before) < set(bases(directory))
        assert digest(clients.consume("orders")) == everything
        kafka.require_well()
        stop()


def test_a_restore_of_what_is_all_local_is_done(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    clients.create("orders")
    clients.produce("orders", 3000)
    program = new_program(archive_mode="copy", topics_include=["orders"])
    program.archive_closed("orders")
    program.run("restore", "orders-0/*")
    kafka.require_well()
