"""Mode trim: the broker frees, by itself, what is archived and proven, and nothing else."""

from __future__ import annotations

import random
import time

from tests.kafka.broker import Kafka
from tests.kafka.clients import Clients, Reader
from tests.kafka.conftest import NewProgram
from tests.kafka.program import Program, closed_files, disk_usage, segment, sha256


def require_proven(program: Program, topic: str, start: int, originals: dict[int, bytes]) -> None:
    """Whatever lies below the log start is in the archive without a hole, by an independent look at the bytes."""
    stored = {path.stem: path for path in program.store.glob(f"**/{topic}-0/**/*.log")}
    covered = 0
    for manifest in sorted(program.manifests(topic), key=lambda found: int(found["base_offset"])):
        base = int(manifest["base_offset"])
        if base >= start:
            break
        assert base == covered, f"the archive has a hole at {covered}, and the log starts at {start}"
        content = stored[f"{base:020d}"]
        assert sha256(content) == manifest["files"]["log"]["sha256"]
        if base in originals:
            assert content.read_bytes() == originals[base]
        covered = int(manifest["last_offset"]) + 1
    assert start <= covered


def originals_of(program: Program, topic: str) -> dict[int, bytes]:
    """The closed segments as they are, for those that the broker deletes meanwhile."""
    found = closed_files(program.kafka.partition_dir(topic))
    return {base: files["log"] for base, files in found.items() if "log" in files}


def test_the_broker_frees_what_is_archived(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Disk usage falls, the log start is that of what is proven, a consumer at the tail notices nothing."""
    clients.create("orders")
    clients.produce("orders", 8000)
    directory = kafka.log_dir / "orders-0"
    program = new_program(archive_mode="trim", broker_bootstrap=kafka.bootstrap)
    before, originals = disk_usage(directory), originals_of(program, "orders")
    active = program.local("orders")[-1]
    with Reader(clients, "orders", at_end=True) as tail, program.daemon() as daemon:
        daemon.wait(lambda: clients.offsets("orders")[0] == active, "the trim")
        daemon.wait(lambda: disk_usage(directory) < before / 3, "the space that the broker frees")
        clients.produce("orders", 300)
        daemon.wait(lambda: 8299 in tail.seen, "the consumer at the tail")
        assert tail.seen == list(range(8000, 8300))
        assert not tail.refused
        low, high = clients.offsets("orders")
        assert low <= active < high
        require_proven(program, "orders", low, originals)
        assert [record.offset for record in clients.consume("orders")] == list(range(low, high))
    # A segment that the broker has rolled since may have been trimmed too.
    low, high = clients.offsets("orders")
    kafka.require_well()
    kafka.stop()
    kafka.start()
    assert clients.offsets("orders") == (low, high)
    kafka.require_well()


def test_under_disk_pressure_it_frees_what_is_not_cold_yet(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """Of the topics in mode trim only: those in mode copy keep all that they have."""
    for topic in ("orders", "kept"):
        clients.create(topic)
        clients.produce(topic, 6000)
    directory = kafka.log_dir / "orders-0"
    program = new_program(
        archive_mode="copy",
        broker_bootstrap=kafka.bootstrap,
        cold_age_hours=1000,
        warm_age_hours=500,
        local_reserve_percent=99.9,
        topics_overrides={"orders": {"archive.mode": "trim"}},
    )
    before, originals = disk_usage(directory), originals_of(program, "orders")
    active = program.local("orders")[-1]
    with program.daemon() as daemon:
        daemon.wait(lambda: clients.offsets("orders")[0] == active, "the trim")
        daemon.wait(lambda: disk_usage(directory) < before / 3, "the space that the broker frees")
        daemon.wait_cycles(2)
    require_proven(program, "orders", active, originals)
    assert clients.offsets("kept")[0] == 0
    assert program.archived("kept") == set()
    kafka.require_well()


def test_a_lagging_group_holds_it_back(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """DeleteRecords cannot be undone: unless the group is to be ignored, it stops at its committed offset."""
    clients.create("orders")
    clients.produce("orders", 6000)
    clients.commit("billing", "orders", 1500)
    program = new_program(archive_mode="trim", broker_bootstrap=kafka.bootstrap)
    active = program.local("orders")[-1]
    with program.daemon() as daemon:
        daemon.wait(lambda: set(program.closed("orders")) <= program.archived("orders"), "the archive")
        daemon.wait(lambda: 0 < clients.offsets("orders")[0] <= 1500, "the trim up to the group")
        daemon.wait_cycles(4)
        assert clients.offsets("orders")[0] <= 1500
        daemon.wait(lambda: "billing" in daemon.log_text, "the warning that names the group")
    program.configure(trim_ignore_groups=["bill*"])
    with program.daemon() as daemon:
        daemon.wait(lambda: clients.offsets("orders")[0] == active, "the trim past the ignored group")
    kafka.require_well()


def test_it_stops_at_the_first_hole_in_the_archive(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """A damaged segment that the archive refuses is such a hole."""
    clients.create("orders")
    clients.produce("orders", 6000)
    program = new_program(archive_mode="trim", archive_corrupt="refuse", broker_bootstrap=kafka.bootstrap)
    hole = program.closed("orders")[2]
    with (kafka.log_dir / segment("orders", hole)).open("r+b") as log:
        log.seek(500_000)
        log.write(b"damage")
    with program.daemon() as daemon:
        daemon.wait(lambda: max(program.closed("orders")) in program.archived("orders"), "the archive past the hole")
        daemon.wait(lambda: clients.offsets("orders")[0] == hole, "the trim up to the hole")
        daemon.wait_cycles(4)
        assert clients.offsets("orders")[0] == hole
    assert hole not in program.archived("orders")


def test_killed_at_any_moment_it_trims_nothing_unproven(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    clients.create("orders")
    program = new_program(archive_mode="trim", broker_bootstrap=kafka.bootstrap)
    moments = random.Random(13)
    originals: dict[int, bytes] = {}
    for _ in range(6):
        clients.produce("orders", 2500)
        originals |= originals_of(program, "orders")
        with program.daemon() as daemon:
            daemon.wait(lambda: daemon.log_text, "its first words")
            time.sleep(moments.uniform(0.1, 2.5))  # the moment is what is tried
            daemon.require_alive()
            daemon.kill()
            break_off = clients.offsets("orders")[0]
            require_proven(program, "orders", break_off, originals)
    with program.daemon() as daemon:
        daemon.wait(lambda: clients.offsets("orders")[0] == program.local("orders")[-1], "the last trim")
        require_proven(program, "orders", clients.offsets("orders")[0], originals)
    kafka.require_well()


def test_by_hand_it_only_archives(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Trimming is the cycle's."""
    clients.create("orders")
    clients.produce("orders", 3000)
    program = new_program(archive_mode="trim", broker_bootstrap=kafka.bootstrap)
    kafka.wait_checkpointed("orders", program.local("orders")[1])
    program.run("archive", segment("orders", 0))
    assert 0 in program.archived("orders")
    assert clients.offsets("orders")[0] == 0


def test_trim_without_a_broker_to_ask_is_refused(kafka: Kafka, new_program: NewProgram) -> None:
    program = new_program(archive_mode="trim")
    assert "storage.tiered.broker.bootstrap" in program.run("run", "--once", status=2).stderr
