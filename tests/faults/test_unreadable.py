"""An object that the server cannot read, as where its disk is damaged: it is named, and the others are looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin_tiered import Settings, StoreError, StoreUnavailable, TieredStorage, Verdict
from tests.faults.proxy import Fault, Kind, Proxy
from tests.support import Broker, Bucket, command, find_minio, minio, parts, store_settings

pytestmark = pytest.mark.long


def settings_for(broker: Broker, bucket: Bucket, between: Proxy, **changes: object) -> Settings:
    return store_settings(broker, bucket, s3_endpoint=between.endpoint, **changes)


async def verified(storage: TieredStorage, *, deep: bool) -> dict[str, Verdict]:
    return {verdict.id.path: verdict async for verdict in storage.verify(deep=deep)}


def quarantined(storage: TieredStorage) -> set[str]:
    return {segment.id.path for segment in parts(storage).catalog.segments() if segment.quarantine}


@pytest.mark.parametrize("ending", [".log", ".index", ".manifest.json"])
@pytest.mark.parametrize("kind", [Kind.SLOW_DOWN, Kind.ERROR_500, Kind.CUT_RESPONSE, Kind.DENIED])
async def test_one_object_that_cannot_be_read_is_named_and_the_others_are_read(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind, ending: str
) -> None:
    closed = broker.segments("orders-0", 3)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await storage.run_cycle()
        fault = Fault(kind, "GET", closed[1].removesuffix(".log") + ending)
        between.faults.append(fault)
        found = await verified(storage, deep=True)
        assert fault.hits > 0
        assert {path for path, verdict in found.items() if verdict.problem} == {closed[1]}
        assert closed[1].removesuffix(".log") + ending in found[closed[1]].problem
        assert set(found) == set(closed)
        # A scrub goes on too, and takes the consequences; what may not be read is not damaged.
        await storage.scrub()
        assert quarantined(storage) == (set() if kind is Kind.DENIED else {closed[1]})
        between.faults.clear()
        await storage.scrub()
        assert quarantined(storage) == set()


@pytest.mark.parametrize("ending", [".log", ".index"])
async def test_what_cannot_be_read_is_stored_again_from_the_disk(
    broker: Broker, bucket: Bucket, between: Proxy, ending: str
) -> None:
    closed = broker.segments("orders-0", 2)
    settings = settings_for(broker, bucket, between, archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        # Of the object of the first generation alone.
        between.faults.append(Fault(Kind.SLOW_DOWN, "GET", closed[0].removesuffix(".log") + ending))
        verdict = await storage.scrub_segment(closed[0])
        assert (verdict.healed, "cannot read it" in verdict.problem) == (True, True)
        assert all(not verdict.problem for verdict in (await verified(storage, deep=True)).values())
        assert broker.is_whole(closed[0])


@pytest.mark.parametrize("deep", [True, False])
async def test_a_store_that_is_down_ends_the_work_and_condemns_nothing(
    broker: Broker, bucket: Bucket, between: Proxy, deep: bool
) -> None:
    broker.segments("orders-0", 40)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await storage.run_cycle()
        fault = Fault(Kind.SLOW_DOWN, skip=20)
        between.faults.append(fault)
        began = time.monotonic()
        with pytest.raises(StoreError):
            await verified(storage, deep=deep)
        between.faults[:] = [Fault(Kind.SLOW_DOWN)]
        with pytest.raises(StoreError):
            await storage.scrub()
        assert time.monotonic() - began < 60
        assert quarantined(storage) == set()


async def test_a_store_that_lists_and_gives_nothing_ends_the_work(
    broker: Broker, bucket: Bucket, between: Proxy
) -> None:
    broker.segments("orders-0", 70, size=100)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await storage.run_cycle()
        between.faults.append(Fault(Kind.DENIED, "GET", ".log"))
        between.faults.append(Fault(Kind.DENIED, "GET", ".manifest.json"))
        with pytest.raises(StoreUnavailable, match="none of 64 segments in a row could be read"):
            await verified(storage, deep=True)
        assert quarantined(storage) == set()


async def test_what_has_to_be_retrieved_first_is_not_damaged(broker: Broker, bucket: Bucket, between: Proxy) -> None:
    closed = broker.segments("orders-0", 2)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await storage.run_cycle()
        between.faults.append(Fault(Kind.FROZEN, "GET", closed[0]))
        found = await verified(storage, deep=True)
        assert [bool(found[path].skipped) for path in closed] == [True, False]
        assert not any(found[path].problem for path in closed)
        assert "has to be retrieved" in (await storage.scrub_segment(closed[0])).skipped
        await storage.scrub()
        assert quarantined(storage) == set()


@pytest.fixture
def minio_bucket(tmp_path: Path) -> Iterator[Bucket]:
    if (binary := find_minio()) is None:
        pytest.skip("no MinIO is here")
    (tmp_path / "minio").mkdir()
    with minio(binary, tmp_path / "minio") as endpoint:
        bucket = Bucket(endpoint, "damaged")
        bucket.client.create_bucket(Bucket=bucket.name)
        yield bucket
        bucket.close()


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_two_damaged_bytes_on_the_disk_of_a_minio(
    broker: Broker, minio_bucket: Bucket, tmp_path: Path, mode: str
) -> None:
    bad, *good = broker.segments("orders-0", 3, size=900_000)
    settings = store_settings(broker, minio_bucket, archive_mode=mode)
    assert command(settings, "run", "--once").returncode == 0
    (part,) = (tmp_path / "minio" / "damaged" / "takhin-segments" / bad).rglob("part.1")
    with part.open("r+b") as file:
        file.seek(500_000)
        file.write(b"\xff\x00")
    found = command(settings, "verify", "--deep")
    assert found.returncode == 1
    assert f"BAD {bad}" in found.stdout
    assert "3 archived segments verified read back" in found.stdout
    assert all(f"BAD {path}" not in found.stdout for path in good)
    assert (f"HEALED {bad}" in found.stdout) == (mode == "copy")
    assert (f"QUARANTINED {bad}" in found.stdout) == (mode == "move")
    again = command(settings, "verify", "--deep")
    assert again.returncode == (0 if mode == "copy" else 1)
