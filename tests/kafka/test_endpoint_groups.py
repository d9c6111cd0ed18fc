"""Consumer groups at the endpoint: partitions are shared and taken over, and commits outlive the daemon."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.kafka.clients import READ_UNCOMMITTED
from tests.kafka.program import Running
from tests.kafka.readers.run import Following, Outcome, following, readers, require_same, run
from tests.kafka.readers.spec import Spec
from tests.kafka.recorded import ORDERS, PARTITIONS, Archive, Recording

EVERY = frozenset(f"{ORDERS}-{partition}" for partition in range(PARTITIONS[ORDERS]))
PAIRS = [
    ("librdkafka", "librdkafka"),
    ("aiokafka", "aiokafka"),
    ("kafka-python", "kafka-python"),
    ("java", "java-oldest"),
    ("librdkafka", "java"),
]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_share_the_partitions_and_one_takes_over(
    tmp_path: Path, recording: Recording, pair: tuple[str, str]
) -> None:
    """The one that is killed says nothing; what it has not committed, the other is given."""
    if not set(pair) <= set(readers(recording.version)):
        pytest.skip("there are no jars of the oldest Java client: see make test-kafka")
    archive = Archive(tmp_path, recording)
    archive.archive_half()
    spec = Spec(
        archive.bootstrap,
        "follow",
        ORDERS,
        mode="subscribe",
        isolation=READ_UNCOMMITTED,
        group="shared",
        seconds="200",
        batch="50",
    )
    expected = {row for row in recording.records[READ_UNCOMMITTED].rows if row.topic == ORDERS}
    with (
        archive.daemon() as running,
        following(pair[0], spec, recording.version) as first,
        following(pair[1], spec, recording.version) as second,
    ):
        # Each tells its part when it gets to it: for a moment what one has told may be its former one.
        running.wait(lambda: _share(first, second), "the partitions to be shared", seconds=60)
        first.kill()
        running.wait(lambda: second.partitions == EVERY, "the other to take over", seconds=60)
        running.wait(
            lambda: {*first.outcome.rows, *second.outcome.rows} >= expected, "every record to be read", seconds=60
        )
        running.wait(lambda: second.is_all_committed, "the last commit", seconds=60)
    assert {*first.outcome.rows, *second.outcome.rows} == expected
    twice = {*first.outcome.rows[: first.outcome.committed]} & {*second.outcome.rows}
    assert not twice, f"{len(twice)} records were given again after their commit"


def test_commits_outlive_the_daemon(tmp_path: Path, recording: Recording) -> None:
    """It is stopped, and it is killed, after each had committed a part: nothing is given twice, nothing is left out."""
    archive = Archive(tmp_path, recording)
    archive.archive_half()
    names = readers(recording.version)
    read: dict[str, Outcome] = {name: Outcome() for name in names}

    def parts(running: Running, *, kill: bool) -> None:
        for name in names:
            spec = Spec(
                archive.bootstrap,
                "follow",
                ORDERS,
                mode="subscribe",
                isolation=READ_UNCOMMITTED,
                group=f"lasting-{name}",
                seconds="200",
                batch="100",
            )
            with following(name, spec, recording.version) as consumer:
                running.wait(partial(_has_committed, consumer, 500), f"commits of {name}", seconds=60)
            read[name].rows += consumer.outcome.rows
        if kill:
            running.kill()

    with archive.daemon() as running:
        parts(running, kill=False)
    with archive.daemon() as running:
        parts(running, kill=True)
    with archive.daemon():
        for name in names:
            spec = Spec(archive.bootstrap, topics=ORDERS, mode="subscribe", isolation=READ_UNCOMMITTED)
            rest = run(name, replace(spec, group=f"lasting-{name}"), recording.version)
            read[name].rows += rest.rows
            expected = Outcome([row for row in recording.records[READ_UNCOMMITTED].rows if row.topic == ORDERS])
            require_same(Outcome(list(dict.fromkeys(read[name].rows))), expected, name)
            # What a commit did not reach any more is given again: that is one poll of each of the two.
            assert len(read[name].rows) <= len(expected.rows) + 200, name


def _has_committed(consumer: Following, count: int) -> bool:
    return consumer.outcome.committed >= count


def _share(first: Following, second: Following) -> bool:
    ours, theirs = first.partitions, second.partitions
    return bool(ours) and bool(theirs) and not ours & theirs and ours | theirs == EVERY
