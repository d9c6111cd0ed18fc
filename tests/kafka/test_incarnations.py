"""A topic that is deleted and created again is another one, and so is a log that was truncated."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kafka.broker import Kafka
from tests.kafka.clients import Clients, digest
from tests.kafka.conftest import NewProgram
from tests.kafka.program import Program, bases, closed_files, segment, sha256, topic_id
from tests.support import wait_until


def all_in_archive(program: Program, topic: str, files: dict[int, dict[str, bytes]]) -> bool:
    """Whether every log of these segments is an object, byte for byte, whatever its key."""
    return {sha256(kinds["log"]) for kinds in files.values()} <= program.objects(topic)


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def recreate(kafka: Kafka, clients: Clients, topic: str) -> tuple[str, str]:
    """Delete the topic and create it anew; returns both IDs."""
    directory = kafka.log_dir / f"{topic}-0"
    first = topic_id(directory)
    clients.delete(topic)
    clients.create(topic)
    wait_until(lambda: (directory / "partition.metadata").exists(), what="the new topic's partition")
    assert topic_id(directory) != first
    return first, topic_id(directory)


def test_both_incarnations_are_kept_and_no_restore_mixes_them(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    clients.create("orders")
    clients.produce("orders", 6000)
    program = new_program(archive_mode="copy")
    program.archive_closed("orders")
    old = closed_files(kafka.log_dir / "orders-0")
    ids = recreate(kafka, clients, "orders")
    clients.produce("orders", 3000, size=1500)
    new = closed_files(kafka.log_dir / "orders-0")
    assert 0 in old
    assert 0 in new
    program.cycle(3)

    wait_until(lambda: program.cycle(1) and all_in_archive(program, "orders", new), what="the second incarnation")
    assert all_in_archive(program, "orders", old)
    before = digest(clients.consume("orders"))
    on_disk = bases(kafka.log_dir / "orders-0")
    done = program.run("restore", "orders-0/*", status=None)
    assert bases(kafka.log_dir / "orders-0") == on_disk, said(done)
    kafka.stop()
    refused = program.run("restore", "orders-0/*", "--topic-id", ids[0], status=1)
    assert all(each in said(refused) for each in ids)
    assert bases(kafka.log_dir / "orders-0") == on_disk
    assert closed_files(kafka.log_dir / "orders-0") == new
    kafka.start()
    assert digest(clients.consume("orders")) == before
    listed = program.json("ls", "--partitions")["partitions"]
    assert {(entry["topic_id"], entry["current"]) for entry in listed if entry["topic"] == "orders"} == {
        (ids[0], False),
        (ids[1], True),
    }
    assert "0 bad" in program.run("verify", "--deep").stdout
    assert all_in_archive(program, "orders", old)


def test_the_first_incarnation_comes_back_from_a_rebuilt_catalog(
    kafka: Kafka, clients: Clients, new_program: NewProgram, tmp_path: Path
) -> None:
    """With the topic gone from the disk, its archive is restored by its topic ID."""
    clients.create("orders")
    clients.produce("orders", 3000)
    program = new_program(archive_mode="copy")
    program.archive_closed("orders")
    old = closed_files(kafka.log_dir / "orders-0")
    ids = recreate(kafka, clients, "orders")
    clients.produce("orders", 3000)
    wait_until(lambda: program.cycle(1) and len(program.manifests("orders")) >= 4, what="both in the archive")
    kafka.stop()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program.configure(data_dir=str(elsewhere), state_dir=str(tmp_path / "other-state"))

    program.run("rebuild")
    program.run("restore", "orders-0/*", "--topic-id", ids[0])

    assert {base: files["log"] for base, files in old.items()} == {
        base: (elsewhere / segment("orders", base)).read_bytes() for base in bases(elsewhere / "orders-0")
    }
    assert topic_id(elsewhere / "orders-0") == ids[0]


def test_a_restore_above_the_active_segment_is_refused(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """It would make the active one look closed, to be archived, and unlinked beneath its writer."""
    clients.create("orders")
    clients.produce("orders", 6000)
    program = new_program(archive_mode="copy")
    program.archive_closed("orders")
    highest = max(program.archived("orders"))
    ids = recreate(kafka, clients, "orders")
    clients.produce("orders", 1500)
    active = program.local("orders")[-1]
    assert active < highest
    before = clients.consume("orders")
    program.cycle(1)

    done = program.run("restore", segment("orders", highest), "--topic-id", ids[0], status=1)

    assert ids[0] in said(done)
    assert f"{active:020d}" in said(done)
    program.cycle(3)
    assert program.local("orders")[-1] == active
    of_new = [m for m in program.manifests("orders") if ids[1] in repr(m)]
    assert active not in {m["base_offset"] for m in of_new}
    clients.produce("orders", 100)
    assert clients.consume("orders")[: len(before)] == before
    kafka.require_well()


def test_a_foreign_segment_above_the_active_one_does_not_close_it(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """As an earlier release restored one: the broker still writes to the segment beneath it."""
    clients.create("orders")
    clients.produce("orders", 6000)
    old = closed_files(kafka.log_dir / "orders-0")
    highest = max(old)
    recreate(kafka, clients, "orders")
    clients.produce("orders", 1500)
    program = new_program(archive_mode="copy")
    active = program.local("orders")[-1]
    assert active < highest
    for kind, content in old[highest].items():
        (kafka.log_dir / "orders-0" / f"{highest:020d}.{kind}").write_bytes(content)

    program.cycle(3)

    assert active not in program.archived("orders")
    assert (kafka.log_dir / segment("orders", active)).exists()
    assert program.run("archive", segment("orders", active), status=1)
    assert active not in program.archived("orders")
    kafka.stop()
    assert (kafka.log_dir / segment("orders", active)).exists()


def test_a_truncated_log_is_another_incarnation(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """The same topic ID and offsets, other bytes: as after an unclean election."""
    clients.create("orders")
    clients.produce("orders", 6000)
    program = new_program(archive_mode="copy")
    program.archive_closed("orders")
    directory = kafka.log_dir / "orders-0"
    old = closed_files(directory)
    kafka.stop()
    cut = bases(directory)[2]
    for path in directory.iterdir():
        if path.stem.isdigit() and int(path.stem) > cut:
            path.unlink()
    with (directory / f"{cut:020d}.log").open("r+b") as log:
        log.truncate(len(old[cut]["log"]) // 2)
    for path in directory.glob(f"{cut:020d}.*index"):
        path.unlink()
    for name in ("recovery-point-offset-checkpoint", "replication-offset-checkpoint"):
        (kafka.log_dir / name).unlink()
    (kafka.log_dir / ".kafka_cleanshutdown").unlink()
    kafka.start()
    clients.produce("orders", 6000, size=990)
    records = digest(clients.consume("orders"))
    new = closed_files(directory)
    assert cut in new
    assert new[cut]["log"] != old[cut]["log"]
    wait_until(lambda: program.cycle(1) and all_in_archive(program, "orders", new), what="what came after the cut")

    assert all_in_archive(program, "orders", old)
    on_disk = bases(directory)
    program.run("restore", "orders-0/*", status=None)
    assert bases(directory) == on_disk
    assert digest(clients.consume("orders")) == records
    kafka.require_well()
    program.configure(state_dir=str(program.root / "new-state"))
    program.run("rebuild")
    program.cycle(2)
    assert all_in_archive(program, "orders", old)
    assert all_in_archive(program, "orders", new)
