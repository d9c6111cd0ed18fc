"""Killed while an object changes its class, or is requested from one: nothing is lost, and the next start goes on.

The check shares no code with the program: it reads the objects and the manifests by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered.config import Settings
from tests.faults.proxy import proxy
from tests.faults.truth import TALLY
from tests.integration.test_storage_classes import classes, parts_with_checksums
from tests.support import Broker, Bucket, daemon, store_settings, to_point, wait_until

CHANGE = ["class.begin", "class.copied", "class.proven"]
PARTS = ["class.parts.copied"]
RETRIEVE = ["retrieve.journaled", "retrieve.requested"]
QUARANTINE = ["class.quarantined"]
OF_CLASSES = {*CHANGE, *PARTS, *RETRIEVE, *QUARANTINE}
FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
# Of each point the first two come by with the objects by which the server is tried.
KILLS = [(point, nth) for point in CHANGE[:2] for nth in ((1, 2, 3, 4, 5) if FULL else (4,))]
KILLS += [(CHANGE[2], nth) for nth in ((1, 2, 3) if FULL else (2,))]
LARGE = 200_000

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def run(settings: Settings, *arguments: str, point: str = "", nth: int = 1) -> int:
    ended = to_point(settings, *arguments, point=point, nth=nth)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode


def require_nothing_lost(broker: Broker, bucket: Bucket, closed: list[str], manifests: dict[str, bytes]) -> None:
    """Each object has the bytes that it was archived with, and no manifest says anything else than before."""
    for path in closed:
        for name in broker.triple(path):
            is_lost = bucket.read(name) != broker.files[name]
            TALLY.note(len(broker.files[name]), lost=is_lost)
            assert not is_lost, name
    assert {key: bucket.read(key) for key in bucket.manifests()} == manifests


@pytest.mark.parametrize(("point", "nth"), KILLS)
def test_a_kill_while_the_class_changes(broker: Broker, bucket: Bucket, point: str, nth: int) -> None:
    closed = broker.segments(count=3, size=LARGE)
    assert run(store_settings(broker, bucket), "run", "--once") == 0
    manifests = {key: bucket.read(key) for key in bucket.manifests()}
    settings = store_settings(broker, bucket, s3_class_cold="STANDARD_IA")
    assert run(settings, "run", "--once", point=point, nth=nth) == -signal.SIGKILL
    require_nothing_lost(broker, bucket, closed, manifests)
    assert run(settings, "run", "--once") == 0
    require_nothing_lost(broker, bucket, closed, manifests)
    assert {classes(bucket)[path] for path in closed} == {"STANDARD_IA"}
    assert bucket.uploads() == []
    assert run(settings, "restore", "*") == 0
    assert all(broker.is_whole(path) for path in closed)


async def test_a_kill_before_the_copied_parts_take_the_place_of_the_object(broker: Broker, bucket: Bucket) -> None:
    closed = broker.segments(count=1, size=(64 << 20) + LARGE if FULL else LARGE)
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(broker, bucket, s3_endpoint=between.endpoint)
        assert await asyncio.to_thread(run, settings, "run", "--once") == 0
        manifests = {key: bucket.read(key) for key in bucket.manifests()}
        between.dialect = parts_with_checksums(bucket)
        settings = store_settings(broker, bucket, s3_endpoint=between.endpoint, s3_class_cold="STANDARD_IA")
        # The first is the object by which the server is tried.
        nth = 2 if FULL else 1
        killed = await asyncio.to_thread(run, settings, "run", "--once", point="class.parts.copied", nth=nth)
        assert killed == -signal.SIGKILL
        assert len(bucket.uploads()) == 1
        require_nothing_lost(broker, bucket, closed, manifests)
        assert await asyncio.to_thread(run, settings, "run", "--once") == 0
        require_nothing_lost(broker, bucket, closed, manifests)
        assert classes(bucket)[closed[0]] == "STANDARD_IA"
        assert [key for key in bucket.uploads() if "probe" not in key] == []
        assert await asyncio.to_thread(run, settings, "restore", "*") == 0
    assert broker.is_whole(closed[0])


def test_a_kill_while_a_bad_object_is_noted(broker: Broker, bucket: Bucket) -> None:
    bad, good = broker.segments(count=2, size=LARGE)
    assert run(store_settings(broker, bucket), "run", "--once") == 0
    other = b"x" * len(broker.files[bad])
    bucket.write(bad, other)
    settings = store_settings(broker, bucket, s3_class_cold="STANDARD_IA")
    assert run(settings, "run", "--once", point="class.quarantined") == -signal.SIGKILL
    assert run(settings, "run", "--once") == 0
    ended = to_point(settings, "ls", "--json")
    found = {segment["segment_path"]: segment["quarantine"] for segment in json.loads(ended.stdout)}
    assert (bool(found[bad]), bool(found[good])) == (True, False)
    assert bucket.read(bad) == other
    assert (classes(bucket)[bad], classes(bucket)[good]) == ("STANDARD", "STANDARD_IA")


@pytest.mark.parametrize("point", RETRIEVE)
def test_a_kill_while_a_segment_is_requested(broker: Broker, bucket: Bucket, tmp_path: Path, point: str) -> None:
    [path] = broker.segments(count=1, size=LARGE)
    how: dict[str, Any] = {"s3_class_cold": "GLACIER"}
    assert run(store_settings(broker, bucket, **how), "run", "--once") == 0
    assert classes(bucket)[path] == "GLACIER"
    settings = store_settings(broker, bucket, **how)
    assert run(settings, "restore", path, "--no-wait", point=point) == -signal.SIGKILL
    assert not broker.on_disk(path)
    # Whether it was sent or not: whoever starts next waits for it, and restores it.
    with daemon(settings, tmp_path / "log") as running:
        wait_until(lambda: broker.is_whole(path), seconds=60, what="the restore")
        assert running.stop() == 0
