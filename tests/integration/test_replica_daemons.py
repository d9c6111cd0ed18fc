"""Three daemons of three replicas on one bucket, seen from outside: processes, HTTP, the plain SDK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import Settings
from tests.replicas import replicas_of
from tests.rolled import Replica, batches
from tests.support import Broker, Bucket, Daemon, command, daemon, store_settings, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def settings_of(broker: Broker, bucket: Bucket, **changes: Any) -> Settings:
    return store_settings(broker, bucket, fleet_replicas="adopt", archive_interval_minutes=0.01, **changes)


def metric(running: Daemon, name: str) -> float:
    lines = running.request("GET", "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def is_evicted(broker: Broker, paths: list[str]) -> bool:
    return not any(broker.on_disk(path) for path in paths)


def segments_of(bucket: Bucket) -> list[str]:
    """What stands there of segments, without the records of replicas."""
    return [key for key in bucket.keys() if ".adopted." not in key and ".deleting." not in key]  # noqa: SIM118 - no mapping


def test_three_daemons_upload_once_and_a_retired_one_takes_nothing_away(
    broker: Broker, bucket: Bucket, tmp_path: Path, stack: ExitStack
) -> None:
    closed = [path for number in range(2) for path in broker.segments(f"orders-{number}", 3, size=300_000)]
    brokers = replicas_of(broker, 3)
    running = []
    for number, each in enumerate(brokers):
        running.append(stack.enter_context(daemon(settings_of(each, bucket), tmp_path / f"log-{number}")))
        if number == 0:
            running[0].wait_logged("cycle ended")
    wait_until(
        lambda: not any(each.on_disk(path) for each in brokers for path in closed),
        seconds=60,
        what="the archive of all closed segments of all replicas",
    )
    size = sum(len(broker.files[name]) for path in closed for name in broker.triple(path))
    uploads = [metric(each, "tiered_storage_s3_bytes_uploaded_total") for each in running]
    # The first one had begun before the others came. Of what they began at the same moment one gave way.
    assert size <= sum(uploads)
    assert len(bucket.manifests()) == len(closed)
    assert len(segments_of(bucket)) == 4 * len(closed)
    adopted = [metric(each, "tiered_storage_adopted_segments_total") for each in running]
    assert sum(adopted) == 2 * len(closed)
    # Each of them restores, byte for byte.
    for number, each in enumerate(brokers):
        path = closed[number]
        answer = running[number].request("POST", "/api/v1/tiered/restore", json={"segment_path": path})
        assert answer.json()["status"] == "success"
        assert each.is_whole(path)
        assert command(running[number].settings, "verify", "--deep").returncode == 0
    assert "the prefix is shared by replicas" in command(running[0].settings, "doctor").stdout
    # One is taken out of service: its disk and its state are gone. Another one's retention ends.
    assert running[0].stop() == 0
    assert running[1].stop() == 0
    expiring = settings_of(brokers[1], bucket, retention_hours=100.0)
    assert command(expiring, "run", "--once").returncode == 0
    # What stands on its disk, as it was restored, is in use.
    held = [key for key in bucket.keys() if ".adopted." in key]  # noqa: SIM118 - no mapping
    assert len(held) == 2 * len(closed) + 1
    assert len(segments_of(bucket)) == 4 * len(closed)
    for path in closed[3:]:
        assert running[2].request("POST", "/api/v1/tiered/restore", json={"segment_path": path}).status_code == 200
        assert brokers[2].is_whole(path)


def test_the_later_ones_upload_nothing(broker: Broker, bucket: Bucket, tmp_path: Path, stack: ExitStack) -> None:
    closed = broker.segments("orders-0", 3, size=300_000)
    brokers = replicas_of(broker, 3)
    for number, each in enumerate(brokers):
        running = stack.enter_context(daemon(settings_of(each, bucket), tmp_path / f"log-{number}"))
        wait_until(partial(is_evicted, each, closed), what="the archive of one replica")
        uploaded = metric(running, "tiered_storage_s3_bytes_uploaded_total")
        assert (uploaded > 0) == (number == 0)
        assert metric(running, "tiered_storage_adopted_segments_total") == (3 if number else 0)
    times = bucket.times()
    # And nothing changes any more.
    later = running.request("GET", "/metrics").text
    assert "tiered_storage_adopted_bytes_total" in later
    running.wait_logged("adopted")
    assert {key: time for key, time in bucket.times().items() if "/takhin-tiered." not in key} == {
        key: time for key, time in times.items() if "/takhin-tiered." not in key
    }


def test_three_that_start_on_an_empty_bucket_at_the_same_moment(
    broker: Broker, bucket: Bucket, tmp_path: Path, stack: ExitStack
) -> None:
    closed = broker.segments("orders-0", 6, size=20_000)
    brokers = replicas_of(broker, 3)
    running = [
        stack.enter_context(daemon(settings_of(each, bucket), tmp_path / f"log-{number}"))
        for number, each in enumerate(brokers)
    ]
    wait_until(
        lambda: not any(each.on_disk(path) for each in brokers for path in closed),
        seconds=60,
        what="the archive of all closed segments of all replicas",
    )
    for each in running:
        each.require_alive()
        assert each.stop() == 0
    assert len(bucket.manifests()) == len(closed)
    for path in closed:
        for name in broker.triple(path):
            assert bucket.read(name) == broker.files[name]
    assert [key for key in bucket.keys() if ".deleting." in key] == []  # noqa: SIM118 - no mapping


def test_one_that_rolled_elsewhere_uploads_no_log_and_restores_its_own_files(
    bucket: Bucket, tmp_path: Path, stack: ExitStack
) -> None:
    log = batches(60)
    starts = [[0, 10, 20, 30, 40, 50], [0, 10, 20, 30, 40, 50], [0, 7, 15, 26, 33, 47, 50]]
    replicas = [Replica(tmp_path / f"data-{n}", log, starts[n]).write() for n in range(3)]
    place = {"s3_bucket": bucket.name, "s3_endpoint": bucket.endpoint, "enabled": True, "api_port": 0}
    running = []
    for number, each in enumerate(replicas):
        settings = Settings(
            data_dir=each.root,
            fleet_replicas="adopt",
            archive_interval_minutes=0.01,
            restore_lease_hours=100,
            compression_codec="none" if number else "zstd",
            **place,
        )
        running.append(stack.enter_context(daemon(settings, tmp_path / f"log-{number}")))
        if number == 0:
            running[0].wait_logged("cycle ended")
    wait_until(
        lambda: not any((each.root / path).exists() for each in replicas for path in each.closed),
        seconds=60,
        what="the archive of all closed segments of all replicas",
    )
    assert {key.count("/") for key in bucket.keys() if key.endswith(".log")} == {1}  # noqa: SIM118 - no mapping
    small = sum(len(data) for name, data in replicas[2].files.items() if not name.endswith(".log"))
    assert metric(running[2], "tiered_storage_s3_bytes_uploaded_total") <= small
    for number, each in enumerate(replicas):
        assert command(running[number].settings, "verify", "--deep").returncode == 0
        assert command(running[number].settings, "restore", "orders-0").returncode == 0
        assert each.on_disk() == each.files
        assert running[number].stop() == 0
