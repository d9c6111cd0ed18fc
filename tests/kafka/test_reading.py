"""Records read in place are those that the broker's own consumers are given."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.kafka.broker import Kafka
from tests.kafka.clients import READ_COMMITTED, READ_UNCOMMITTED, Clients, Record
from tests.kafka.conftest import NewProgram
from tests.kafka.program import Program, closed_files
from tests.kafka.test_transactions import mixed_transactions


def read(program: Program, *arguments: str) -> list[Record]:
    lines = program.run("read", "ledger-0", *arguments).stdout.splitlines()
    return [
        Record(
            found["offset"],
            found["timestamp"],
            _bytes(found["key"]),
            _bytes(found["value"]),
            tuple((name, _bytes(value)) for name, value in found["headers"]),
        )
        for found in map(json.loads, lines)
    ]


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


@pytest.mark.parametrize("how", ["plain", "zstd and a key"])
def test_records_are_those_that_a_consumer_is_given(
    kafka: Kafka, clients: Clients, new_program: NewProgram, tmp_path: Path, how: str
) -> None:
    """By both isolation levels, by offset and by time, from the archive and from the active segment behind it."""
    clients.create("ledger")
    mixed_transactions(clients, "ledger")
    of = {isolation: clients.consume("ledger", isolation) for isolation in (READ_COMMITTED, READ_UNCOMMITTED)}
    everything = of[READ_UNCOMMITTED]
    times = sorted({record.timestamp for record in everything})
    times = [times[0] - 1, *times[:: max(1, len(times) // 20)], times[-1], times[-1] + 1]
    found = {time: clients.offset_for_time("ledger", time) for time in times}
    kafka.stop()
    before = closed_files(kafka.log_dir / "ledger-0")
    encoding: dict[str, object] = {}
    if how != "plain":
        (tmp_path / "keys").write_text(f"first {base64.b64encode(bytes(32)).decode()}\n")
        encoding = {"compression_codec": "zstd", "encryption_key_file": str(tmp_path / "keys"), "chunk_size_mb": 1 / 16}
    program = new_program(archive_mode="move", topics_include=["ledger"], **encoding)
    program.archive_closed("ledger")
    assert not set(program.local("ledger")) & set(before)

    for isolation, consumed in of.items():
        assert read(program, "--offset", "0", "--isolation", isolation) == consumed
    for time, offset in found.items():
        expected = [record for record in everything if record.offset >= offset >= 0][:1]
        assert read(program, "--timestamp", str(time), "--max", "1") == expected, time
