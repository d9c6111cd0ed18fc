"""An archive of the previous release is served by real brokers once it is restored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kafka.broker import ROOT, Kafka
from tests.kafka.clients import READ_UNCOMMITTED, Clients, digest
from tests.kafka.conftest import NewKafka, NewProgram
from tests.support import unpack

ARCHIVE = ROOT / "tests" / "compat" / "archive-v1.tar.xz"


@pytest.fixture
def kafka(new_kafka: NewKafka, tmp_path: Path) -> Kafka:
    unpack(ARCHIVE, tmp_path)
    return new_kafka(is_formatted=True, log_segment_bytes=2_000_000)


def test_it_is_served_by_a_broker(kafka: Kafka, new_program: NewProgram, tmp_path: Path) -> None:
    expected = json.loads((tmp_path / "expected.json").read_text())
    program = new_program(archive_mode="move", topics_include=["ledger"], cold_age_hours=1000, warm_age_hours=1)
    assert "0 bad" in program.run("verify", "--deep").stdout

    program.run("restore", "ledger-0/*")

    kafka.start()
    clients = Clients(kafka.bootstrap)
    assert digest(clients.consume("ledger", READ_UNCOMMITTED)) == expected["digest"]
    kafka.require_well()
