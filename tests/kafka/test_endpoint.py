"""Every client is given by the endpoint what the broker that wrote the segments gave it."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kafka.broker import Kafka
from tests.kafka.clients import READ_UNCOMMITTED, Clients
from tests.kafka.conftest import NewProgram
from tests.kafka.program import metric
from tests.kafka.readers.run import readers, require_same, run, run_each
from tests.kafka.readers.spec import Place, Spec, places
from tests.kafka.recorded import ALL, LEVELS, ORDERS, Archive, Recording, look_up, serves
from tests.kafka.test_incarnations import recreate
from tests.support import free_port

NAMES_REASON = ("kafka-python", "java")
"""Clients whose Produce has the words of a refusal in its answer."""
REQUESTS = "tiered_storage_kafka_requests_total"
HOW = (
    "as it is",
    "zstd and encrypted",
    pytest.param("zstd", marks=pytest.mark.long),
    pytest.param("encrypted", marks=pytest.mark.long),
)


def encoding(how: str, root: Path) -> dict[str, object]:
    keys: dict[str, object] = {}
    if "zstd" in how:
        keys["compression_codec"] = "zstd"
    if "encrypted" in how:
        file = root / "keys"
        file.write_text(f"first {base64.b64encode(bytes(32)).decode()}\n")
        file.chmod(0o600)
        keys["encryption_key_file"] = str(file)
    # Of several chunks each segment is to be, as large ones are.
    return {**keys, "chunk_size_mb": 1 / 4} if keys else keys


@pytest.mark.parametrize("how", HOW)
def test_every_client_is_given_the_same_records(tmp_path: Path, recording: Recording, how: str) -> None:
    """By hash, with both isolation levels, assigned and subscribed; and the same bounds, and offsets of times."""
    archive = Archive(tmp_path, recording, **encoding(how, tmp_path))
    archive.archive_half()
    with archive.daemon():
        for name in readers(recording.version):
            for isolation in LEVELS:
                for mode in ("assign", "subscribe"):
                    group = f"{name}-{isolation}" if mode == "subscribe" else ""
                    spec = Spec(archive.bootstrap, topics=ALL, mode=mode, isolation=isolation, group=group)
                    outcome = run(name, spec, recording.version)
                    words = f"{name}, {mode}, {isolation}"
                    require_same(outcome, recording.records[isolation], words)
                    assert outcome.bounds == recording.bounds[name, isolation], words
            found = look_up(name, archive.bootstrap, recording)
            told = zip(recording.times, found, recording.offsets[name], strict=True)
            differing = [(place, ours, theirs) for place, ours, theirs in told if ours != theirs]
            assert not differing, f"{name}: {len(differing)} of {len(found)} times differ: {differing[:3]}"


def test_an_offset_that_is_not_there_is_reset(tmp_path: Path, recording: Recording) -> None:
    """Before the start, where retention has deleted segments, and after the end."""
    archive = Archive(tmp_path, recording)
    first, second = archive.program.closed(ORDERS, 1)[:2]
    for path in archive.directory(ORDERS, 1).glob(f"{first:020d}.*"):
        path.unlink()
    archive.archive_half()
    everything = recording.records[READ_UNCOMMITTED].of(ORDERS, 1)
    here = [row for row in everything if row.offset >= second]
    names = readers(recording.version)
    with archive.daemon():
        for offset in (first, everything[-1].offset + 100):
            spec = Spec(
                archive.bootstrap,
                "follow",
                ORDERS,
                isolation=READ_UNCOMMITTED,
                at=places([Place(ORDERS, 1, offset)]),
                group="reset",
                seconds="8",
            )
            for name, outcome in run_each(names, spec, recording.version).items():
                assert outcome.of(ORDERS, 1) == here, (name, offset)
            for name, outcome in run_each(names, replace(spec, reset="latest"), recording.version).items():
                assert not outcome.rows, (name, offset)
            for name, outcome in run_each(
                names, replace(spec, reset="none"), recording.version, complete=False
            ).items():
                assert outcome.failure is not None, f"with no reset {name} says nothing of offset {offset}"


@pytest.mark.parametrize("holes", ["refuse", "skip"])
def test_a_hole_is_told_or_passed_over(tmp_path: Path, recording: Recording, holes: str) -> None:
    """A segment that is nowhere any more. A client that is refused shows why, and does not ask in a loop."""
    archive = Archive(tmp_path, recording, kafka_holes=holes)
    archive.archive_half()
    lost, end = sorted(archive.program.archived(ORDERS, 0))[1:3]
    for path in archive.program.store.rglob(f"{ORDERS}-0/{lost:020d}.*"):
        path.unlink()
    archive.program.configure(state_dir=str(tmp_path / "new-state"))
    archive.program.run("rebuild")
    everything = recording.records[READ_UNCOMMITTED].of(ORDERS, 0)
    here = [row for row in everything if not lost <= row.offset < end]
    assert len(here) < len(everything)
    at = places([Place(ORDERS, 0, 0)])
    spec = Spec(archive.bootstrap, topics=ORDERS, isolation=READ_UNCOMMITTED, at=at, seconds="20")
    names = readers(recording.version)
    with archive.daemon() as running:
        before = metric(running.metrics(), REQUESTS)
        for name, outcome in run_each(names, spec, recording.version, complete=holes == "skip").items():
            if holes == "skip":
                assert outcome.of(ORDERS, 0) == here, name
            else:
                assert outcome.failure is not None, name
                assert is_denied(outcome.failure.name), (name, outcome.failure)
                assert outcome.of(ORDERS, 0) == [row for row in here if row.offset < lost], name
        asked = metric(running.metrics(), REQUESTS) - before
        assert metric(running.metrics(), "tiered_storage_kafka_holes_total") == 1
        assert f'"error": "{ORDERS}' in running.log_text or str(lost) in running.log_text
    assert asked < 100 * len(names), f"{asked} requests"


def test_who_writes_or_asks_for_what_is_not_there_is_told_at_once(tmp_path: Path, recording: Recording) -> None:
    """And tries it no second time."""
    archive = Archive(tmp_path, recording)
    unknown = Spec(archive.bootstrap, topics="unknown", seconds="15")
    produce = Spec(archive.bootstrap, do="produce", topics=ORDERS)
    with archive.daemon() as running:
        for name in readers(recording.version):
            before = metric(running.metrics(), REQUESTS)
            failure = run(name, unknown, recording.version, complete=False).failure
            assert failure is not None, name
            assert is_denied(failure.name), (name, failure)
            assert failure.seconds < 10, (name, failure)
            for spec in (produce, replace(produce, idempotent="true")):
                failure = run(name, spec, recording.version, complete=False).failure
                assert failure is not None, f"{name} believes to have written"
                said = plain(failure.name + failure.words)
                assert any(word in said for word in ("policyviolation", "clusterauthorization")), (name, failure)
                assert failure.seconds < 5, (name, failure)
                if name in NAMES_REASON and spec is produce:
                    assert "read-only" in failure.words, (name, failure)
            asked = metric(running.metrics(), REQUESTS) - before
            assert asked < 50, f"{name} sent {asked} requests"


def plain(text: str) -> str:
    return text.lower().replace("_", "")


def is_denied(text: str) -> bool:
    return "topicauthorization" in plain(text)


def test_an_earlier_incarnation_is_a_topic_of_its_own(
    kafka: Kafka, clients: Clients, new_program: NewProgram, version: str
) -> None:
    """Under its plain name the one that is there; the one before by its ID."""
    clients.create(ORDERS)
    clients.produce_every_codec(ORDERS, 400, size=2000)
    port = free_port()
    program = new_program(archive_mode="copy", kafka_port=port)
    program.archive_closed(ORDERS)
    end = max(int(manifest["last_offset"]) for manifest in program.manifests(ORDERS)) + 1
    earlier = [record for record in clients.consume(ORDERS) if record.offset < end]
    first, _ = recreate(kafka, clients, ORDERS)
    clients.produce_every_codec(ORDERS, 400, size=2000)
    program.archive_closed(ORDERS)
    now = clients.consume(ORDERS)
    kafka.wait_checkpointed(ORDERS, now[-1].offset + 1)
    endpoint, old = Clients(f"127.0.0.1:{port}"), f"{ORDERS}@{first}"
    with program.daemon() as running:
        running.wait(lambda: serves(endpoint, {ORDERS: 1, old: 1}), "both incarnations")
        for name in readers(version):
            for topic, expected in ((ORDERS, now), (old, earlier)):
                if topic == old and name == "kafka-python":
                    # It refuses the name by itself.
                    continue
                found = run(name, Spec(endpoint.bootstrap, topics=topic), version).rows
                assert expected
                assert [row[2:] for row in found][: len(expected)] == [tuple(record) for record in expected], name
                assert len(found) == len(expected), (name, topic)
