"""Downloads that break off, hang, or wait for their reader or their file."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from takhin_tiered import StoreUnavailable
from takhin_tiered.codec.checksums import READ_SIZE, bytes_source, checksum_of
from takhin_tiered.store import ObjectStore
from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.store.s3 import S3Store, open_s3
from tests.faults.conftest import SHORT
from tests.faults.proxy import Fault, Kind, Proxy
from tests.support import REGION, Bucket

pytestmark = pytest.mark.long

KEY = "an-object"
SMALL, LARGE = 100_000, (3 << 20) + 1000
"""The HTTP library receives the one; the other is taken from its connection."""


@pytest_asyncio.fixture
async def store(bucket: Bucket, between: Proxy) -> AsyncIterator[S3Store]:
    async with open_s3(bucket.name, region=REGION, prefix="", endpoint=between.endpoint, deadlines=SHORT) as opened:
        yield opened


async def put(store: ObjectStore, size: int) -> bytes:
    data = os.urandom(size)
    await store.put(KEY, bytes_source(data), size=size, checksum=checksum_of(bytes_source(data), size))
    return data


async def read(store: ObjectStore, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.open(KEY, start, end)])


def ranges(between: Proxy) -> list[str]:
    return [head.get("range") for head in between.heads if head.first.startswith("GET ") and KEY in head.first]


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kind", [Kind.CUT_RESPONSE, Kind.HANG_BODY])
async def test_pieces_go_on_where_a_download_broke(store: S3Store, between: Proxy, kind: Kind, size: int) -> None:
    data = await put(store, size)
    between.heads.clear()
    between.faults.append(fault := Fault(kind, "GET", KEY, count=2))
    assert await read(store, 10, size - 10) == data[10 : size - 10]
    assert fault.hits == 2
    asked = ranges(between)
    assert asked[0] == f"bytes=10-{size - 11}"
    assert len(asked) == 3
    assert all(each.endswith(f"-{size - 11}") for each in asked)
    if size == LARGE:
        assert asked[1] != asked[0], "what has come is not asked for again"


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kind", [Kind.CUT_RESPONSE, Kind.HANG_BODY])
async def test_pieces_that_keep_breaking_off_are_an_error(
    store: S3Store, between: Proxy, kind: Kind, size: int
) -> None:
    await put(store, size)
    between.faults.append(fault := Fault(kind, "GET", KEY))
    with pytest.raises(StoreUnavailable, match="broke off at byte"):
        await read(store)
    assert fault.hits == 4
    between.faults.clear()
    assert len(await read(store)) == size


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_server_that_hangs_for_good_has_one_deadline_for_all_tries(
    bucket: Bucket, between: Proxy, size: int, is_stream: bool
) -> None:
    deadlines = Deadlines(connect=1.0, read=0.8, base=1.0, slowest=1 << 40)
    async with open_s3(bucket.name, region=REGION, prefix="", endpoint=between.endpoint, deadlines=deadlines) as store:
        await put(store, size)
        between.faults.append(fault := Fault(Kind.HANG_BODY, "GET", KEY))
        with tempfile.TemporaryFile() as file, pytest.raises(StoreUnavailable, match="broke off at byte"):
            await (read(store) if is_stream else store.fetch_into(KEY, file.fileno()))
        assert fault.hits == 2
        between.faults.clear()
        assert len(await read(store)) == size


async def test_pieces_are_small_and_all_there(store: S3Store) -> None:
    data = await put(store, LARGE)
    pieces = [piece async for piece in store.open(KEY)]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= READ_SIZE
    assert all(pieces)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_reader_that_goes_away_keeps_no_connection(bucket: Bucket, between: Proxy, size: int) -> None:
    async with open_s3(
        bucket.name, region=REGION, prefix="", endpoint=between.endpoint, deadlines=SHORT, connections=1
    ) as store:
        data = await put(store, size)
        for _ in range(3):
            async with aclosing(store.open(KEY)) as pieces:
                assert data.startswith(await anext(pieces))
        assert await read(store) == data


async def test_a_reader_that_is_cancelled_keeps_no_connection(bucket: Bucket, between: Proxy) -> None:
    patient = Deadlines(connect=1.0, read=60.0, base=60.0)
    async with open_s3(
        bucket.name, region=REGION, prefix="", endpoint=between.endpoint, deadlines=patient, connections=1
    ) as store:
        data = await put(store, LARGE)
        between.faults.append(fault := Fault(Kind.HANG_BODY, "GET", KEY, count=1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await read(store)
        assert fault.hits == 1
        async with asyncio.timeout(30):
            assert await read(store) == data


async def test_the_time_that_a_reader_takes_is_not_the_servers(bucket: Bucket, between: Proxy) -> None:
    hasty = Deadlines(connect=1.0, read=1.0, base=1.0, slowest=1 << 40)
    async with open_s3(bucket.name, region=REGION, prefix="", endpoint=between.endpoint, deadlines=hasty) as store:
        data = await put(store, LARGE)
        between.heads.clear()
        got = b""
        async for piece in store.open(KEY):
            got += piece
            await asyncio.sleep(0.5)
        assert got == data
        assert len(ranges(between)) == 1


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_file_that_fails_is_no_download_that_broke_off(store: S3Store, between: Proxy, size: int) -> None:
    data = await put(store, size)
    between.heads.clear()
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="space") as told:
        await store.fetch_into(KEY, full.fileno())
    assert told.value.errno == errno.ENOSPC
    assert len(ranges(between)) == 1
    with tempfile.TemporaryFile() as file:
        await store.fetch_into(KEY, file.fileno())
        assert file.read() == data
