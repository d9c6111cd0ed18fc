"""What a store, or the way to it, can do wrong, on a real S3 server behind a proxy with faults.

Whatever happens: each segment is whole on disk or whole in the bucket, nothing is said that is not so,
nothing half done is left, and once the fault is gone the next cycle finishes the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from takhin_tiered import (
    ObjectCorrupt,
    ObjectExists,
    Settings,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    TieredStorage,
)
from takhin_tiered.codec.checksums import Checksum, Source, bytes_source, checksum_of
from takhin_tiered.engine.report import CycleReport
from takhin_tiered.store import ObjectStore
from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.store.s3 import open_s3
from tests.faults.conftest import SHORT
from tests.faults.proxy import Fault, Kind, Proxy, proxy
from tests.faults.truth import Truth, truth_in
from tests.support import REGION, Broker, Bucket, parts, store_settings

FIRST = "orders-0/00000000000000000000"
"""The first segment's path, without its ending."""

KEY = "an-object-of-its-own"

SLOW_TURNS = 8
"""Deadlines that may run out one after the other in one operation that fails, its cleaning up included."""


def settings_for(broker: Broker, bucket: Bucket, between: Proxy, **changes: object) -> Settings:
    return store_settings(broker, bucket, s3_endpoint=between.endpoint, **changes)


def say(storage: TieredStorage) -> list[tuple[str, str]]:
    return [(info.segment_path, info.state) for info in storage.segments()]


def require_sound(truth: Truth, storage: TieredStorage, closed: list[str]) -> None:
    """What must hold at every moment between two operations."""
    assert truth.lost(closed) == {}
    assert truth.misreported(say(storage), closed) == []
    assert truth.temporary_files() == []
    assert truth.store.uploads() == []


async def cycle(storage: TieredStorage) -> tuple[CycleReport | None, StoreError | None]:
    try:
        return await storage.run_cycle(), None
    except StoreError as error:
        return None, error


async def require_finished(truth: Truth, storage: TieredStorage, closed: list[str]) -> None:
    """The fault is gone: one cycle brings everything into the bucket."""
    report = await storage.run_cycle()
    assert report.failures == []
    require_sound(truth, storage, closed)
    assert all(truth.whole_in_store(path) and truth.broker.on_disk(path) == [] for path in closed)
    await storage.run_cycle()
    assert truth.orphans() == []
    for path in closed:
        await storage.restore_segment(path)
    assert all(truth.whole_on_disk(path) for path in closed)


PUTS = (".log", ".index", ".timeindex", ".txnindex", ".snapshot", ".manifest.json")
ANSWERS = (Kind.ERROR_500, Kind.SLOW_DOWN, Kind.DENIED)
BREAKS = (Kind.RESET, Kind.HANG)


@pytest.mark.parametrize("ending", PUTS)
@pytest.mark.parametrize("kind", [*ANSWERS, *BREAKS, Kind.FLIP_REQUEST, Kind.STORED_503])
async def test_an_upload_that_fails_until_the_fault_is_gone(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind, ending: str
) -> None:
    closed = broker.segments("orders-0", 2)
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        fault = Fault(kind, "PUT", FIRST + ending)
        between.faults.append(fault)
        began = time.monotonic()
        report, error = await cycle(storage)
        assert time.monotonic() - began < SLOW_TURNS * SHORT.base
        assert fault.hits > 0
        assert error is None
        assert report is not None
        # One bad segment never stops the others, and the message says which, and which key.
        assert [path for path, _ in report.failures] == [closed[0]]
        assert FIRST in report.failures[0][1]
        assert FIRST + ending in report.failures[0][1]
        assert truth.whole_on_disk(closed[0])
        assert truth.whole_in_store(closed[1])
        require_sound(truth, storage, closed)
        between.faults.clear()
        await require_finished(truth, storage, closed)


@pytest.mark.parametrize("ending", PUTS)
@pytest.mark.parametrize("kind", [Kind.ERROR_500, Kind.SLOW_DOWN, *BREAKS, Kind.STORED_503])
async def test_an_upload_that_fails_once_is_taken_up_again(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind, ending: str
) -> None:
    closed = broker.segments("orders-0", 1)
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        fault = Fault(kind, "PUT", FIRST + ending, count=1)
        between.faults.append(fault)
        report = await storage.run_cycle()
        assert fault.hits == 1
        assert (report.archived, report.failures) == (1, [])
        require_sound(truth, storage, closed)
        assert truth.whole_in_store(closed[0])
        assert truth.orphans() == []


@pytest.mark.parametrize("kind", [*ANSWERS, *BREAKS, Kind.CUT_RESPONSE, Kind.FLIP_RESPONSE, Kind.HANG_BODY])
async def test_a_listing_that_fails_stops_the_cycle_before_it_begins(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind
) -> None:
    closed = broker.segments("orders-0", 2)
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        between.faults.append(fault := Fault(kind, "GET", query="list-type=2"))
        began = time.monotonic()
        report, error = await cycle(storage)
        assert time.monotonic() - began < SLOW_TURNS * SHORT.base
        assert fault.hits > 0
        if kind is Kind.FLIP_RESPONSE and error is None:
            # The bit struck where nothing was read from.
            assert report is not None
            assert report.failures == []
        else:
            assert isinstance(error, StoreDenied if kind is Kind.DENIED else StoreUnavailable)
            assert parts(storage).health.problem
            assert all(truth.whole_on_disk(path) for path in closed)
        require_sound(truth, storage, closed)
        between.faults.clear()
        await require_finished_from_anywhere(truth, storage, closed)


async def require_finished_from_anywhere(truth: Truth, storage: TieredStorage, closed: list[str]) -> None:
    await storage.run_cycle()
    require_sound(truth, storage, closed)
    assert all(truth.whole_in_store(path) for path in closed)


async def test_a_listing_answered_with_something_that_is_no_xml_is_a_store_error(
    broker: Broker, bucket: Bucket, between: Proxy
) -> None:
    closed = broker.segments("orders-0", 1)
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        between.faults.append(Fault(Kind.SHORTER, "GET", query="list-type=2"))
        with pytest.raises(StoreError):
            await storage.run_cycle()
        assert truth.whole_on_disk(closed[0])
        between.faults.clear()
        await require_finished(truth, storage, closed)


@pytest.mark.parametrize("kind", [*ANSWERS, *BREAKS])
async def test_a_listing_that_fails_on_its_second_page_loses_no_word_of_the_archive(
    broker: Broker, bucket: Bucket, between: Proxy, tmp_path: Path, kind: Kind
) -> None:
    closed = broker.segments("orders-0", 4)
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await storage.run_cycle()
    between.page_size = 3
    settings = settings_for(broker, bucket, between, state_path=tmp_path / "new-state")
    async with TieredStorage.open(settings) as storage:
        between.faults.append(fault := Fault(kind, "GET", query="continuation-token="))
        with pytest.raises(StoreError):
            await storage.rebuild()
        assert fault.hits > 0
        assert truth.lost(closed) == {}
        between.faults.clear()
        report = await storage.run_cycle()
        assert report.failures == []
        require_sound(truth, storage, closed)
    # And where the catalog knows the archive: what a broken listing did not show is not given up.
    async with TieredStorage.open(settings) as storage:
        between.faults.append(Fault(kind, "GET", query="continuation-token="))
        with pytest.raises(StoreError):
            await storage.reconcile()
        assert storage.status().quarantined_segments == 0
        require_sound(truth, storage, closed)


@pytest.mark.parametrize("kind", [*ANSWERS, *BREAKS, Kind.STORED_503])
async def test_the_claim_of_a_prefix_that_fails_moves_nothing(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind
) -> None:
    closed = broker.segments("orders-0", 1)
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        between.faults.append(fault := Fault(kind, "PUT", "takhin-tiered.owner.json"))
        _, error = await cycle(storage)
        assert fault.hits > 0
        assert error is not None
        assert "takhin-tiered.owner.json" in str(error)
        assert bucket.keys() == []
        assert truth.whole_on_disk(closed[0])
        between.faults.clear()
        await require_finished(truth, storage, closed)


async def test_a_store_that_is_full_gets_no_more_uploads_and_all_else_goes_on(
    broker: Broker, bucket: Bucket, between: Proxy
) -> None:
    closed = broker.segments("orders-0", 6)
    truth = truth_in(broker, bucket)
    settings = {"archive_concurrency": 1, "restore_lease_hours": 0}
    async with archived(broker, bucket, between, **settings) as storage:
        await storage.restore_segment(closed[0])
        more = broker.segments("orders-1", 5)
        truth.remember()
        between.faults.append(fault := Fault(Kind.FULL, "PUT"))
        report = await storage.run_cycle()
        assert fault.hits <= 4 * 2
        assert (report.archived, report.evicted, len(report.failures)) == (0, 1, 1)
        assert report.postponed == len(more) - 1
        assert "Make room in the store" in report.failures[0][1]
        require_sound(truth, storage, [*closed, *more])
        await storage.restore_segment(closed[1])
        assert truth.whole_on_disk(closed[1])
        between.faults.clear()
        await require_finished(truth, storage, [*closed, *more])


async def test_a_slow_store_is_only_slow(broker: Broker, bucket: Bucket, between: Proxy) -> None:
    closed = broker.segments("orders-0", 2)
    truth = truth_in(broker, bucket)
    between.faults.append(fault := Fault(Kind.LATENCY, seconds=0.05))
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await require_finished(truth, storage, closed)
    assert fault.hits > 10


@pytest.mark.parametrize(
    ("kind", "method", "query", "count"),
    [
        (kind, method, query, count)
        for kind in (Kind.ERROR_500, Kind.DENIED, Kind.RESET, Kind.HANG, Kind.STORED_503, Kind.FLIP_REQUEST)
        for method, query in (("PUT", "partNumber=2"), ("POST", "uploadId="), ("POST", "uploads"))
        for count in (1, None)
        if not (kind is Kind.FLIP_REQUEST and method == "POST")
    ],
)
async def test_an_upload_in_parts_that_fails_leaves_no_open_upload(
    broker: Broker,
    bucket: Bucket,
    between: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    method: str,
    query: str,
    count: int | None,
) -> None:
    monkeypatch.setattr("takhin_tiered.vault.stored.MULTIPART_THRESHOLD", 6 << 20)
    monkeypatch.setattr("takhin_tiered.vault.stored.PART_SIZE", 5 << 20)
    (path,) = closed = broker.segments("big-0", 1, size=1000)
    broker.overwrite(path, os.urandom(11 << 20))
    truth = truth_in(broker, bucket)
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        between.faults.append(fault := Fault(kind, method, path, query, count=count))
        await cycle(storage)
        assert fault.hits > 0
        assert truth.lost(closed) == {}
        assert truth.misreported(say(storage), closed) == []
        between.faults.clear()
        await storage.run_cycle()
    # A create that was carried out and not answered is known to nobody until the next start.
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        await storage.run_cycle()
        require_sound(truth, storage, closed)
        assert truth.whole_in_store(path)
        assert truth.orphans() == []
        await storage.restore_segment(path)
        assert truth.whole_on_disk(path)


@asynccontextmanager
async def archived(broker: Broker, bucket: Bucket, between: Proxy, **changes: object) -> AsyncIterator[TieredStorage]:
    """A storage whose closed segments are in the bucket only."""
    async with TieredStorage.open(settings_for(broker, bucket, between, **changes)) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        yield storage


FAILING_READS = [
    *((kind, ending) for ending in (".log", ".index", ".txnindex", ".manifest.json") for kind in (*ANSWERS, *BREAKS)),
    *((kind, ".log") for kind in (Kind.CUT_RESPONSE, Kind.FLIP_RESPONSE, Kind.HANG_BODY, Kind.SHORTER)),
    *((kind, ".manifest.json") for kind in (Kind.CUT_RESPONSE, Kind.SHORTER, Kind.HANG_BODY)),
    *((Kind.FLIP_RESPONSE, ending) for ending in (".timeindex", ".txnindex", ".snapshot")),
]


@pytest.mark.parametrize(("kind", "ending"), FAILING_READS)
async def test_a_restore_that_fails_leaves_nothing_and_the_next_one_succeeds(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind, ending: str
) -> None:
    closed = broker.segments("orders-0", 2, size=400_000)
    truth = truth_in(broker, bucket)
    async with archived(broker, bucket, between) as storage:
        between.faults.append(fault := Fault(kind, "GET", FIRST + ending))
        began = time.monotonic()
        with pytest.raises(StoreError) as raised:
            await storage.restore_segment(closed[0])
        assert time.monotonic() - began < SLOW_TURNS * SHORT.base
        assert fault.hits > 0
        assert raised.value.key == FIRST + ending
        if kind is Kind.FLIP_RESPONSE:
            assert isinstance(raised.value, ObjectCorrupt)
        assert broker.on_disk(closed[0]) == []
        require_sound(truth, storage, closed)
        # The other segment is not held up.
        await storage.restore_segment(closed[1])
        assert truth.whole_on_disk(closed[1])
        between.faults.clear()
        await storage.restore_segment(closed[0])
        assert truth.whole_on_disk(closed[0])
        require_sound(truth, storage, closed)


@pytest.mark.parametrize("ending", [".log", ".index", ".manifest.json"])
async def test_a_restore_that_fails_names_segment_and_key(
    broker: Broker, bucket: Bucket, between: Proxy, ending: str
) -> None:
    closed = broker.segments("orders-0", 1)
    async with archived(broker, bucket, between) as storage:
        between.faults.append(Fault(Kind.DENIED, "GET", FIRST + ending))
        with pytest.raises(StoreDenied) as raised:
            await storage.restore_segment(closed[0])
    assert (raised.value.segment, raised.value.key) == (closed[0], FIRST + ending)


@pytest.mark.parametrize("ending", [".log", ".index"])
@pytest.mark.parametrize(
    "kind", [Kind.ERROR_500, Kind.SLOW_DOWN, *BREAKS, Kind.CUT_RESPONSE, Kind.HANG_BODY, Kind.LONGER]
)
async def test_a_download_that_breaks_once_is_taken_up_where_it_broke(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind, ending: str
) -> None:
    closed = broker.segments("orders-0", 1, size=300_000)
    truth = truth_in(broker, bucket)
    async with archived(broker, bucket, between) as storage:
        between.faults.append(fault := Fault(kind, "GET", FIRST + ending, count=1))
        await storage.restore_segment(closed[0])
        assert fault.hits == 1
        assert truth.whole_on_disk(closed[0])
        require_sound(truth, storage, closed)


@pytest.mark.parametrize("count", [1, None])
@pytest.mark.parametrize("kind", [Kind.ERROR_500, Kind.RESET, Kind.CUT_RESPONSE, Kind.SHORTER, Kind.FLIP_RESPONSE])
async def test_a_large_segment_comes_in_ranges_and_each_may_fail(
    broker: Broker, bucket: Bucket, between: Proxy, monkeypatch: pytest.MonkeyPatch, kind: Kind, count: int | None
) -> None:
    monkeypatch.setattr("takhin_tiered.vault.stored.MULTIPART_THRESHOLD", 6 << 20)
    monkeypatch.setattr("takhin_tiered.vault.stored.PART_SIZE", 5 << 20)
    monkeypatch.setattr("takhin_tiered.engine.incoming._RANGE_SIZE", 6 << 20)
    # No answer stays out here, and on a busy machine the server takes its time for 5 MiB.
    monkeypatch.setattr(
        "takhin_tiered.store.Deadlines", partial(Deadlines, connect=SHORT.connect, read=10.0, base=60.0)
    )
    (path,) = broker.segments("big-0", 1, size=1000)
    broker.overwrite(path, os.urandom(23 << 20))
    truth = truth_in(broker, bucket)
    async with archived(broker, bucket, between) as storage:
        between.faults.append(fault := Fault(kind, "GET", path, skip=1, count=count))
        # A length that is too short is believed: what is missing then shows in the checksum.
        is_corrupt = kind in {Kind.FLIP_RESPONSE, Kind.SHORTER}
        if count is None or is_corrupt:
            with pytest.raises(StoreError) as raised:
                await storage.restore_segment(path)
            assert raised.value.key == path
            assert isinstance(raised.value, ObjectCorrupt) == is_corrupt
            assert broker.on_disk(path) == []
            assert truth.temporary_files() == []
            between.faults.clear()
            await storage.restore_segment(path)
        else:
            await storage.restore_segment(path)
        assert fault.hits > 0
        assert truth.whole_on_disk(path)
        require_sound(truth, storage, [path])


@pytest.mark.parametrize(("method", "verb"), [("GET", "get"), ("HEAD", "head"), ("PUT", "put")])
async def test_a_request_that_goes_straight_and_fails_is_sent_by_the_sdk(
    bucket: Bucket, between: Proxy, method: str, verb: str
) -> None:
    source = bytes_source(b"some bytes")
    checksum = checksum_of(source, 10)
    async with open_s3(bucket.name, region=REGION, prefix="", endpoint=between.endpoint) as store:
        await store.put(KEY, source, size=10, checksum=checksum)
        # Nobody tries a refusal again: so the first was of the request that went straight.
        between.faults.append(fault := Fault(Kind.DENIED, method, KEY, count=2))
        with pytest.raises(StoreDenied, match=f"cannot {verb}"):
            await _ask(store, method, source, checksum)
        assert fault.hits == 2
        between.faults[:] = [fault := Fault(Kind.DENIED, method, KEY, count=1)]
        await _ask(store, method, source, checksum)
        assert fault.hits == 1


async def test_whole_objects_for_ranges_use_up_no_connection(bucket: Bucket) -> None:
    data = bytes(3 << 20)
    checksum = checksum_of(bytes_source(data), len(data))
    async with (
        proxy(bucket.endpoint) as between,
        open_s3(bucket.name, region=REGION, prefix="", endpoint=between.endpoint, connections=4) as store,
    ):
        await store.put("big", bytes_source(data), size=len(data), checksum=checksum)
        between.faults.append(fault := Fault(Kind.WHOLE, "GET"))
        for _ in range(6):
            with pytest.raises(StoreUnavailable, match="does not answer a range"):
                await store.read("big", limit=1)
            with pytest.raises(ObjectExists):
                await store.put("big", bytes_source(data), size=len(data), checksum=checksum, if_absent=True)
        assert fault.hits >= 12
        assert (await store.head("big")) is not None


async def _ask(store: ObjectStore, method: str, source: Source, checksum: Checksum) -> None:
    if method == "GET":
        assert await store.read(KEY) == b"some bytes"
    elif method == "HEAD":
        info = await store.head(KEY)
        assert info is not None
        assert (info.size, info.sha256) == (10, checksum.sha256)
    else:
        assert (await store.put(KEY, source, size=10, checksum=checksum)).size == 10


async def test_a_length_that_is_too_long_keeps_no_byte_back(broker: Broker, bucket: Bucket, between: Proxy) -> None:
    closed = broker.segments("orders-0", 1, size=400_000)
    truth = truth_in(broker, bucket)
    async with archived(broker, bucket, between) as storage:
        between.faults.append(fault := Fault(Kind.LONGER, "GET", closed[0]))
        await storage.restore_segment(closed[0])
        # The second is for what seemed to be left, and there was nothing.
        assert fault.hits == 2
        assert truth.whole_on_disk(closed[0])
        require_sound(truth, storage, closed)


@pytest.mark.parametrize(("method", "ending"), [("HEAD", ".log"), ("HEAD", ".snapshot"), ("GET", ".manifest.json")])
@pytest.mark.parametrize("kind", [*ANSWERS, *BREAKS])
async def test_a_copy_whose_lease_ended_stays_while_the_archive_cannot_be_proven(
    broker: Broker, bucket: Bucket, between: Proxy, kind: Kind, method: str, ending: str
) -> None:
    closed = broker.segments("orders-0", 2)
    truth = truth_in(broker, bucket)
    async with archived(broker, bucket, between, restore_lease_hours=0) as storage:
        for path in closed:
            await storage.restore_segment(path)
        between.faults.append(fault := Fault(kind, method, FIRST + ending))
        report, error = await cycle(storage)
        assert fault.hits > 0
        assert error is None
        assert report is not None
        assert [path for path, _ in report.failures] == [closed[0]]
        assert FIRST + ending in report.failures[0][1]
        assert truth.whole_on_disk(closed[0])
        assert broker.on_disk(closed[1]) == []
        require_sound(truth, storage, closed)
        between.faults.clear()
        await require_finished(truth, storage, closed)


async def test_a_server_that_checks_nothing_is_not_believed(broker: Broker, bucket: Bucket, between: Proxy) -> None:
    closed = broker.segments("orders-0", 3, size=400_000)
    truth = truth_in(broker, bucket)
    between.checks_nothing = True
    async with TieredStorage.open(settings_for(broker, bucket, between)) as storage:
        between.faults.append(fault := Fault(Kind.FLIP_REQUEST, "PUT", FIRST + ".log", count=1))
        report = await storage.run_cycle()
        assert fault.hits == 1
        assert [path for path, _ in report.failures] == [closed[0]]
        assert "does not hold the bytes" in report.failures[0][1]
        assert broker.is_whole(closed[0])
        assert all(truth.whole_in_store(path) for path in closed[1:])
        assert ("GET", f"/{bucket.name}/{bucket.prefix}/{closed[1]}") in between.seen
        require_sound(truth, storage, closed)
        await storage.run_cycle()
        await require_finished(truth, storage, closed)
    assert "takhin-tiered.probe" not in list(bucket.keys())
