"""A real S3 server that believes an upload's SHA-256, and takes a conditional write for an ordinary one: rclone's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered import ConfigError, HeldElsewhere, ObjectCorrupt, ObjectExists, TieredStorage
from takhin_tiered.codec.checksums import Checksum, bytes_source, checksum_of
from takhin_tiered.store.s3 import open_s3
from tests.conftest import new_bucket
from tests.faults.proxy import Fault, Kind, proxy
from tests.faults.truth import truth_in
from tests.support import REGION, Broker, Bucket, rclone_server, store_settings

pytestmark = pytest.mark.long

PART = 5 << 20


@pytest.fixture(scope="module")
def weak_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture
def weak(weak_endpoint: str) -> Iterator[Bucket]:
    yield from new_bucket(weak_endpoint)


async def test_replicas_do_not_share_what_conditional_writes_do_not_protect(broker: Broker, weak: Bucket) -> None:
    closed = broker.segments("orders-0", 1)
    async with TieredStorage.open(store_settings(broker, weak, fleet_replicas="adopt")) as storage:
        with pytest.raises(ConfigError, match="no conditional writes"):
            await storage.run_cycle()
    assert broker.is_whole(closed[0])
    assert weak.keys() == []


async def test_an_upload_is_proven_by_its_md5_and_not_read_back(broker: Broker, weak: Bucket) -> None:
    closed = broker.segments("orders-0", 3, size=400_000)
    truth = truth_in(broker, weak)
    async with (
        proxy(weak.endpoint) as between,
        TieredStorage.open(store_settings(broker, weak, s3_endpoint=between.endpoint)) as storage,
    ):
        # A request is tried once more after it failed.
        between.faults.append(fault := Fault(Kind.FLIP_REQUEST, "PUT", closed[0], count=2))
        report = await storage.run_cycle()
        assert fault.hits == 2
        assert [path for path, _ in report.failures] == [closed[0]]
        assert broker.is_whole(closed[0])
        assert all(truth.whole_in_store(path) and broker.on_disk(path) == [] for path in closed[1:])
        for path in closed:
            # One look before the write is all that was ever read.
            methods = [method for method, target in between.seen if target.endswith(path)]
            assert methods[0] == "GET"
            assert set(methods[1:]) == {"PUT"}
        assert (await storage.run_cycle()).failures == []
        assert truth.whole_in_store(closed[0])
        assert broker.on_disk(closed[0]) == []
        for path in closed:
            await storage.restore_segment(path)
            assert truth.whole_on_disk(path)
    assert "takhin-tiered.probe" not in weak.keys()  # noqa: SIM118 - it is no mapping


@pytest.mark.parametrize("ending", [".log", ".index", ".manifest.json"])
async def test_a_success_with_an_error_in_it_is_none(broker: Broker, weak: Bucket, ending: str) -> None:
    closed = broker.segments("orders-0", 2)
    truth = truth_in(broker, weak)
    async with (
        proxy(weak.endpoint) as between,
        TieredStorage.open(store_settings(broker, weak, s3_endpoint=between.endpoint)) as storage,
    ):
        await storage.archive_segment(closed[0])
        between.faults.append(fault := Fault(Kind.PAGE, "PUT", closed[1].removesuffix(".log") + ending))
        report = await storage.run_cycle()
        assert fault.hits > 0
        assert [path for path, _ in report.failures] == [closed[1]]
        assert truth.lost(closed) == {}
        assert broker.is_whole(closed[1])
        between.faults.clear()
        assert (await storage.run_cycle()).failures == []
        assert all(truth.whole_in_store(path) and broker.on_disk(path) == [] for path in closed)


async def test_what_is_there_is_not_written_over(weak: Bucket) -> None:
    async with open_s3(weak.name, region=REGION, prefix=weak.prefix, endpoint=weak.endpoint) as store:
        for data, refused in ((b"first", False), (b"second", True)):
            source = bytes_source(data)
            put = store.put("k", source, size=len(data), checksum=checksum_of(source, len(data)), if_absent=True)
            if refused:
                with pytest.raises(ObjectExists):
                    await put
            else:
                await put
    assert weak.read("k") == b"first"


async def test_parts_are_proven_by_their_md5(weak: Bucket) -> None:
    data = os.urandom(2 * PART + 1000)
    source, good = bytes_source(data), checksum_of(bytes_source(data), len(data), PART)
    wrong = Checksum(good.sha256, PART, good.parts, (*good.md5[:2], good.md5[0]))
    async with open_s3(weak.name, region=REGION, prefix=weak.prefix, endpoint=weak.endpoint) as store:
        with pytest.raises(ObjectCorrupt):
            await store.put("big", source, size=len(data), checksum=wrong)
        assert await store.head("big") is None
        answered = await store.put("big", source, size=len(data), checksum=good)
        assert answered.sha256 == good.sha256
        info = await store.head("big")
        assert info is not None
        assert info.sha256 is None
    assert weak.read("big") == data


async def test_a_second_owner_is_refused(broker: Broker, weak: Bucket, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other")
    async with (
        TieredStorage.open(store_settings(broker, weak)) as first,
        TieredStorage.open(store_settings(other, weak)) as second,
    ):
        await first.run_cycle()
        with pytest.raises(HeldElsewhere, match=str(broker.root)):
            await second.run_cycle()
