"""What clients see of a store that does not answer, of damage, and of a partition that is not here."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from tests.kafka.clients import READ_UNCOMMITTED, Clients
from tests.kafka.program import metric
from tests.kafka.readers.run import readers, run_each
from tests.kafka.readers.spec import Place, Spec, places
from tests.kafka.recorded import ORDERS, PARTITIONS, STAMPS, Archive, Recording, serves
from tests.kafka.test_endpoint import REQUESTS, is_denied
from tests.support import wait_until

DOWN_SECONDS = 4.0


def test_clients_wait_for_a_store_that_is_down(tmp_path: Path, recording: Recording) -> None:
    """They go on by themselves when it is back, and miss nothing."""
    archive = Archive(tmp_path, recording)
    archive.archive_half()
    names = readers(recording.version)
    store, away = archive.program.store, tmp_path / "away"
    at = places([Place(ORDERS, 0, 0)])
    spec = Spec(archive.bootstrap, topics=ORDERS, isolation=READ_UNCOMMITTED, at=at)
    with archive.daemon() as running:
        store.rename(away)
        back = threading.Timer(DOWN_SECONDS, away.rename, (store,))
        back.start()
        before = metric(running.metrics(), REQUESTS)
        found = run_each(names, spec, recording.version)
        back.join()
        asked = metric(running.metrics(), REQUESTS) - before
        assert "KAFKA_STORAGE_ERROR" in running.metrics()
    for name, outcome in found.items():
        assert outcome.of(ORDERS, 0) == recording.records[READ_UNCOMMITTED].of(ORDERS, 0), name
    assert asked < 200 * len(names), f"{asked} requests"


def test_damage_is_told_and_nothing_of_it_is_given(tmp_path: Path, recording: Recording) -> None:
    archive = Archive(tmp_path, recording)
    archive.archive_half()
    names = readers(recording.version)
    damaged = sorted(archive.program.store.rglob(f"{ORDERS}-0/*.log"))[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    everything = recording.records[READ_UNCOMMITTED].of(ORDERS, 0)
    at = places([Place(ORDERS, 0, 0)])
    spec = Spec(archive.bootstrap, topics=ORDERS, isolation=READ_UNCOMMITTED, at=at, seconds="20")
    with archive.daemon() as running:
        before = metric(running.metrics(), REQUESTS)
        found = run_each(names, spec, recording.version, complete=False)
        asked = metric(running.metrics(), REQUESTS) - before
        assert damaged.stem in running.log_text
    for name, outcome in found.items():
        assert outcome.failure is not None, name
        assert is_denied(outcome.failure.name), (name, outcome.failure)
        assert outcome.of(ORDERS, 0) == [row for row in everything if row.offset < int(damaged.stem)], name
    assert asked < 50 * len(names), f"{asked} requests"


def test_a_partition_that_is_not_here_does_not_stop_the_others(tmp_path: Path, recording: Recording) -> None:
    """Another broker has it: here it has no leader."""
    archive = Archive(tmp_path, recording)
    shutil.rmtree(archive.directory(ORDERS, 0))
    names = readers(recording.version)
    at = places([Place(ORDERS, 1, 0), Place(ORDERS, 2, 0)])
    spec = Spec(archive.bootstrap, "follow", ORDERS, isolation=READ_UNCOMMITTED, at=at, group="others", seconds="8")
    endpoint = Clients(archive.bootstrap)
    with archive.program.daemon() as running:
        # `serves` counts partitions that have a leader.
        wait_until(lambda: serves(endpoint, {STAMPS: 1, ORDERS: PARTITIONS[ORDERS] - 1}), what="the endpoint")
        before = metric(running.metrics(), REQUESTS)
        found = run_each(names, spec, recording.version)
        asked = metric(running.metrics(), REQUESTS) - before
    for name, outcome in found.items():
        for partition in (1, 2):
            expected = recording.records[READ_UNCOMMITTED].of(ORDERS, partition)
            assert outcome.of(ORDERS, partition) == expected, (name, partition)
    assert asked < 400 * len(names), f"{asked} requests"
