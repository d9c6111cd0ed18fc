"""A segment comes back as its producers meant it: transactions, headers, every codec."""

from __future__ import annotations

from pathlib import Path

from tests.kafka.broker import Kafka
from tests.kafka.clients import CODECS, READ_COMMITTED, READ_UNCOMMITTED, Clients, digest
from tests.kafka.conftest import NewProgram
from tests.kafka.program import closed_files, files_of, sha256


def mixed_transactions(clients: Clients, topic: str) -> None:
    """Of several producers, committed and aborted, of every codec, between records of no transaction."""
    for number, codec in enumerate(CODECS):
        clients.transact(topic, 400, commit=True, name=f"first-{number}", codec=codec)
        clients.transact(topic, 300, commit=False, name=f"second-{number}", codec=codec)
        clients.produce(topic, 400, codec=codec)
        clients.transact(topic, 200, commit=False, name=f"first-{number}", codec=codec)
    clients.produce(topic, 100)


def test_aborted_transactions_stay_aborted_after_a_restore(
    kafka: Kafka, clients: Clients, new_program: NewProgram, tmp_path: Path
) -> None:
    """Archived in mode move with the broker stopped, started, stopped, restored, started."""
    clients.create("ledger")
    mixed_transactions(clients, "ledger")
    committed = digest(clients.consume("ledger", READ_COMMITTED))
    everything = digest(clients.consume("ledger", READ_UNCOMMITTED))
    assert committed != everything
    kafka.stop()
    before = closed_files(kafka.log_dir / "ledger-0")
    assert any("txnindex" in files for files in before.values())
    assert any("snapshot" in files for files in before.values())
    program = new_program(archive_mode="move", topics_include=["ledger"])

    program.archive_closed("ledger")
    assert not set(program.local("ledger")) & set(before)
    kafka.start()
    kafka.require_well()
    kafka.stop()
    program.run("restore", "ledger-0/*")

    after = {base: files_of(kafka.log_dir / "ledger-0", base) for base in before}
    assert after == before
    kafka.start()
    kafka.require_well()
    assert digest(clients.consume("ledger", READ_COMMITTED)) == committed
    assert digest(clients.consume("ledger", READ_UNCOMMITTED)) == everything
    assert "0 bad" in program.run("verify", "--deep").stdout


def test_each_file_of_a_segment_is_an_object_byte_for_byte(
    kafka: Kafka, clients: Clients, new_program: NewProgram
) -> None:
    """Beside a running broker; the manifest has what is small: leader epochs and the topic's ID."""
    clients.create("ledger")
    mixed_transactions(clients, "ledger")
    program = new_program(archive_mode="copy", topics_include=["ledger"])
    program.archive_closed("ledger")

    for files in closed_files(kafka.log_dir / "ledger-0").values():
        for kind, content in files.items():
            assert sha256(content) in program.objects("ledger", kind=kind), kind
    for manifest in program.manifests("ledger"):
        assert "epoch" in repr(manifest).lower()
        assert (kafka.log_dir / "ledger-0" / "partition.metadata").read_text().split()[-1] in repr(manifest)
    kafka.require_well()


def test_verify_misses_a_lost_transaction_index(kafka: Kafka, clients: Clients, new_program: NewProgram) -> None:
    """Without it aborted records would become visible: that is damage as any other."""
    clients.create("ledger")
    mixed_transactions(clients, "ledger")
    program = new_program(archive_mode="copy", topics_include=["ledger"])
    program.archive_closed("ledger")
    indexes = list(program.store.rglob("*.txnindex"))
    assert indexes
    indexes[0].unlink()

    assert indexes[0].stem in program.run("verify", status=1).stdout
