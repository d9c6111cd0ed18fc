"""Reading in place from a server that is slow, breaks off or lies, and with a cache that is killed or damaged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.errors import Damaged, StoreUnavailable, TakhinError
from takhin_tiered.reader import window
from takhin_tiered.reader.cache import DiskCache
from takhin_tiered.segments.names import FileKind
from tests.chunked import RING, Objects, use_keys
from tests.faults.proxy import Fault, Kind, Proxy, proxy
from tests.support import Broker, Bucket, directory_settings, disk_cache, environment, parts, store_settings

CHUNK = 256 << 10
SIZE = 3_000_000
CACHE = ["cache.temporary", "cache.renamed", "cache.unlinked", "cache.writing", "cache.written"]
MUTATIONS = 2500 if os.environ.get("TAKHIN_TEST_TORTURE") == "full" else 300


@asynccontextmanager
async def behind(
    broker: Broker, bucket: Bucket, *, level: int = 0, **changes: Any
) -> AsyncIterator[tuple[TieredStorage, Proxy, str]]:
    """A storage whose store is behind a proxy, with one archived segment."""
    path = broker.segments("orders-0", 1, size=SIZE)[0]
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(broker, bucket, s3_endpoint=between.endpoint, **changes)
        async with TieredStorage.open(settings) as storage:
            await storage.archive_segment(path)
            Objects(bucket.read, bucket.write).cut(path, CHUNK, level=level)
            await storage._reader.manifests.get(storage_id(storage), fresh=True)
            between.seen.clear()
            between.heads.clear()
            yield storage, between, path


def storage_id(storage: TieredStorage) -> Any:
    (segment,) = parts(storage).catalog.archived()
    return segment.id


async def read(storage: TieredStorage, path: str, start: int = 0, end: int | None = None) -> bytes:
    async with storage.open_range(path, start, end) as opened:
        return b"".join([piece async for piece in opened])


def gets(between: Proxy, path: str) -> list[str]:
    """The ranges of GETs of the log."""
    return [head.get("range") for head in between.heads if head.first.startswith("GET ") and path in head.first]


async def test_fifty_readers_of_one_cold_chunk_share_one_get(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        between.faults.append(Fault(Kind.LATENCY, "GET", path, seconds=0.3))
        found = await asyncio.gather(*(read(storage, path, 10 + n, CHUNK - n) for n in range(50)))
        assert found == [broker.files[path][10 + n : CHUNK - n] for n in range(50)]
        assert gets(between, path) == [f"bytes=0-{CHUNK - 1}"]
        stats = storage.metrics
        assert stats.cache_misses._value.get() == 1
        assert stats.cache_hits._value.get() == 49


async def test_missing_chunks_in_a_row_come_with_one_get(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        assert await read(storage, path, CHUNK + 5, 3 * CHUNK + 5) == broker.files[path][CHUNK + 5 : 3 * CHUNK + 5]
        assert gets(between, path) == [f"bytes={CHUNK}-{4 * CHUNK - 1}"]
        cache = disk_cache(storage)
        await cache.written()
        # What is there already is not asked for again.
        assert await read(storage, path, 0, 5 * CHUNK) == broker.files[path][: 5 * CHUNK]
        assert gets(between, path)[1:] == [f"bytes=0-{CHUNK - 1}", f"bytes={4 * CHUNK}-{5 * CHUNK - 1}"]


async def test_reads_that_follow_one_another_are_fetched_ahead(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        near: list[None] = []
        async with storage._reader.open_segment(storage_id(storage), near_end=lambda: near.append(None)) as segment:
            file = segment.file(FileKind.LOG)
            assert file is not None
            assert await file.read(0, 1000) == broker.files[path][:1000]
            assert gets(between, path) == [f"bytes=0-{CHUNK - 1}"]
            assert await file.read(1000, 2000) == broker.files[path][1000:2000]
            # Up to three chunks ahead, and no more.
            for _ in range(500):
                if len(gets(between, path)) > 1:
                    break
                await asyncio.sleep(0.01)
            assert gets(between, path)[1:] == [f"bytes={CHUNK}-{4 * CHUNK - 1}"]
            assert not near
            assert await file.read(2000, SIZE) == broker.files[path][2000:SIZE]
            assert near == [None]


async def test_a_reader_that_leaves_cancels_the_get_only_if_nobody_else_waits(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        between.faults.append(Fault(Kind.LATENCY, "GET", path, seconds=1.0))
        one, other = (asyncio.create_task(read(storage, path, 0, 100)) for _ in range(2))
        while not between.faults[0].hits:
            await asyncio.sleep(0.01)
        one.cancel()
        assert await other == broker.files[path][:100]
        assert len(gets(between, path)) == 1
        between.faults[:] = [Fault(Kind.HANG, "GET", path)]
        last = asyncio.create_task(read(storage, path, 5 * CHUNK, 5 * CHUNK + 1))
        while not between.faults[0].hits:
            await asyncio.sleep(0.01)
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        fetcher = storage._reader.fetcher
        await asyncio.wait_for(asyncio.gather(*fetcher.flights, return_exceptions=True), 10)
        between.faults.clear()
        assert await read(storage, path, 5 * CHUNK, 5 * CHUNK + 1) == broker.files[path][5 * CHUNK : 5 * CHUNK + 1]


async def test_an_error_reaches_all_and_the_next_one_tries_again(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        between.faults.append(Fault(Kind.CUT_RESPONSE, "GET", path))
        found = await asyncio.gather(*(read(storage, path, 0, 100) for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in found] == [StoreUnavailable] * 5
        between.faults.clear()
        assert await read(storage, path) == broker.files[path]
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine


@pytest.mark.parametrize("kind", [Kind.FLIP_RESPONSE, Kind.CUT_RESPONSE])
async def test_a_fault_of_the_line_is_no_damage_of_the_archive(broker: Broker, bucket: Bucket, kind: Kind) -> None:
    async with behind(broker, bucket, level=3) as (storage, between, path):
        between.faults.append(Fault(kind, "GET", path, count=1))
        assert await read(storage, path) == broker.files[path]
        assert between.faults[0].hits == 1
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine


async def test_nor_where_the_cache_has_lost_the_chunk(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        assert await read(storage, path, 0, 10) == broker.files[path][:10]
        fetcher = storage._reader.fetcher
        assert isinstance(fetcher.cache, DiskCache)
        await fetcher.cache.written()
        (name,) = fetcher.cache._lru
        fetcher.cache._path(name).unlink()
        for chunk in list(fetcher.memory._chunks.values()):
            fetcher.memory.drop(chunk)
        between.faults.append(Fault(Kind.FLIP_RESPONSE, "GET", path, count=1))
        assert await read(storage, path, 0, 10) == broker.files[path][:10]
        assert between.faults[0].hits == 1
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine


async def test_nor_of_an_archive_without_checksums_of_chunks(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        Objects(bucket.read, bucket.write).without_chunks(path)
        await storage._reader.manifests.get(storage_id(storage), fresh=True)
        between.faults.append(Fault(Kind.FLIP_RESPONSE, "GET", path, count=1))
        assert await read(storage, path) == broker.files[path]
        assert between.faults[0].hits == 1
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine


async def test_a_server_that_always_lies_is_never_believed(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        between.faults.append(Fault(Kind.FLIP_RESPONSE, "GET", path))
        with pytest.raises(Damaged, match="chunk 0"):
            await read(storage, path, 0, 10)


async def test_memory_is_bounded_whatever_the_number_of_readers(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket, local_cache_size_mb=0) as (storage, _, path):
        memory = storage._reader.fetcher.memory
        memory.limit = 2 * CHUNK
        whole, most = broker.files[path], 0

        async def slowly(number: int) -> bytes:
            nonlocal most
            got = b""
            async with storage.open_range(path, number * 1000) as opened:
                async for piece in opened:
                    got += piece
                    most = max(most, memory.used)
                    if number % 5 == 0:
                        await asyncio.sleep(0.05)
            return got

        found = await asyncio.gather(*(slowly(number) for number in range(30)))
        assert found == [whole[number * 1000 :] for number in range(30)]
        assert 0 < most <= 2 * CHUNK
        # Nobody holds anything any more.
        assert not any(chunk.users for chunk in memory._chunks.values())


async def test_the_next_segment_may_be_fetched_ahead(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket) as (storage, between, path):
        await storage._reader.prefetch(storage_id(storage))
        assert gets(between, path) == [f"bytes=0-{3 * CHUNK - 1}"]
        assert await read(storage, path, 0, 2 * CHUNK) == broker.files[path][: 2 * CHUNK]
        assert len(gets(between, path)) == 1
        # Whatever is wrong there, it is told to whoever reads it.
        between.faults.append(Fault(Kind.DENIED, "GET", path))
        storage._reader.manifests._known.clear()
        await storage._reader.prefetch(storage_id(storage))


async def test_a_stalled_reader_does_not_stop_the_others(broker: Broker, bucket: Bucket) -> None:
    async with behind(broker, bucket, local_cache_size_mb=0) as (storage, _, path):
        storage._reader.fetcher.memory.limit = CHUNK
        async with storage.open_range(path) as opened:
            stalled = aiter(opened)
            got = await anext(stalled)
            assert await asyncio.wait_for(read(storage, path, 3 * CHUNK), 60) == broker.files[path][3 * CHUNK :]
            assert got + b"".join([piece async for piece in stalled]) == broker.files[path]


_READ = """
import asyncio, os, signal, sys
from takhin_tiered import Settings, TieredStorage, points

point, nth, seen = sys.argv[1], int(sys.argv[2]), 0

def reached(name):
    global seen
    if name == point:
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

points.hook = reached

async def main():
    async with TieredStorage.open(Settings.load()) as storage:
        cache = storage._reader.fetcher.cache
        for _ in range(2):
            async with storage.open_range(sys.argv[3]) as opened:
                async for piece in opened:
                    # The writer keeps up: every chunk is offered to it, and taken.
                    await cache.written()

asyncio.run(main())
"""


@pytest.mark.parametrize("point", CACHE)
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_killed_process_leaves_a_cache_that_is_right(
    broker: Broker, tmp_path: Path, point: str, nth: int
) -> None:
    settings = directory_settings(broker, tmp_path / "store", local_cache_size_mb=1.5)
    path = broker.segments("orders-0", 1, size=SIZE)[0]
    async with TieredStorage.open(settings) as storage:
        await storage.archive_segment(path)
        Objects.of_directory(tmp_path / "store").cut(path, CHUNK)
    command = [sys.executable, "-c", _READ, point, str(nth), path]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment(settings), capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    async with TieredStorage.open(settings) as storage:
        cache = disk_cache(storage)
        files = [file for file in (settings.state_dir / "cache").rglob("*") if file.is_file()]
        chunks = {file for file in files if not file.name.startswith("index.db")}
        # What has no row is gone, and what has one is there.
        assert {cache._path(name) for name in cache._lru} == chunks
        assert cache.size <= 1.5 * 2**20
        assert await read(storage, path) == broker.files[path]


async def test_a_cache_that_cannot_be_written_never_fails_a_read(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store")
    path = broker.segments("orders-0", 1, size=SIZE)[0]
    async with TieredStorage.open(settings) as storage:
        await storage.archive_segment(path)
        Objects.of_directory(tmp_path / "store").cut(path, CHUNK)
        cache = disk_cache(storage)
        # A file stands where the folder of each chunk should be.
        for number in range(256):
            (settings.state_dir / "cache" / f"{number:02x}").write_bytes(b"")
        assert await read(storage, path) == broker.files[path]
        await cache.written()
        assert cache.size == 0


@pytest.mark.parametrize("spoiled", ["index is no database", "index is a directory", "index is cut", "no directory"])
async def test_a_damaged_index_of_the_cache_never_fails_a_start(broker: Broker, tmp_path: Path, spoiled: str) -> None:
    settings = directory_settings(broker, tmp_path / "store")
    path = broker.segments("orders-0", 1, size=SIZE)[0]
    async with TieredStorage.open(settings) as storage:
        await storage.archive_segment(path)
        Objects.of_directory(tmp_path / "store").cut(path, CHUNK)
        await read(storage, path)
    index = settings.state_dir / "cache" / "index.db"
    if spoiled == "index is no database":
        index.write_bytes(os.urandom(10_000))
    elif spoiled == "index is cut":
        os.truncate(index, 5000)
    elif spoiled == "index is a directory":
        index.unlink()
        index.mkdir()
    else:
        subprocess.run(["rm", "-r", index.parent], check=True)
        index.parent.write_bytes(b"")
    async with TieredStorage.open(settings) as storage:
        assert await read(storage, path) == broker.files[path]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 4))])
async def test_no_mutation_gives_a_wrong_byte(broker: Broker, tmp_path: Path, seed: int) -> None:
    """Of stored bytes, cached files and manifests: flipped, cut, longer, exchanged."""
    chance, chunk, store = random.Random(seed), 4096, tmp_path / "store"
    settings = directory_settings(broker, store, local_cache_size_mb=0.1)
    paths = broker.segments("orders-0", 2, size=30_000)
    async with TieredStorage.open(settings) as storage:
        objects = Objects.of_directory(store)
        for path in paths:
            await storage.archive_segment(path)
            objects.cut(path, chunk, level=seed & 1 and 3, ring=RING if seed & 2 else None)
        use_keys(storage, RING)
        manifests = [objects.manifest(path) for path in paths]
        names = [name for m in manifests for name in (m.id.manifest_key, m.log.key, m.files[FileKind.INDEX].key)]
        good = {name: objects.read(name) for name in names}
        wrong = right = refused = 0
        for _ in range(MUTATIONS):
            targets = [store / name for name in names]
            targets += [file for file in (settings.state_dir / "cache").rglob("*.[0-9]*") if ".tmp" not in file.name]
            target = chance.choice(targets)
            data = bytearray(target.read_bytes()) if target.exists() else bytearray()
            how = chance.randrange(5)
            if how == 0 and data:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            elif how == 1:
                del data[chance.randrange(len(data) + 1) :]
            elif how == 2:
                data += os.urandom(chance.randrange(1, 50))
            elif how == 3 and len(data) > 2 * chunk:
                at, to = chance.randrange(len(data) - chunk), chance.randrange(len(data) - chunk)
                data[at : at + chunk], data[to : to + chunk] = data[to : to + chunk], data[at : at + chunk]
            else:
                other = chance.choice(targets)
                data = bytearray(other.read_bytes()) if other.exists() else data
            target.write_bytes(data)
            if chance.random() < 0.7:
                storage._reader.manifests._known.clear()
                fetcher = storage._reader.fetcher
                for chunk_there in list(fetcher.memory._chunks.values()):
                    fetcher.memory.drop(chunk_there)
                if target.is_relative_to(store):
                    assert isinstance(fetcher.cache, DiskCache)
                    for cached in list(fetcher.cache._lru):
                        fetcher.cache.drop(cached)
            path = chance.choice(paths)
            start = chance.randrange(len(broker.files[path]))
            end = chance.randrange(start, len(broker.files[path]) + 1)
            outcome = await asyncio.gather(read(storage, path, start, end), return_exceptions=True)
            if isinstance(outcome[0], TakhinError):
                assert outcome[0].code in {"damaged", "wrong_key", "no_key", "changed"}, outcome[0]
                assert outcome[0].segment == path
                refused += 1
            else:
                wrong += outcome[0] != broker.files[path][start:end]
                right += 1
            for each, content in good.items():
                (store / each).write_bytes(content)
        assert wrong == 0
        assert right > 100
        assert refused > 10


async def test_of_a_long_scan_only_the_beginning_is_written_to_the_cache(
    broker: Broker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_SCAN", 4 * CHUNK)
    async with behind(broker, bucket) as (storage, between, path):
        cache = disk_cache(storage)

        async def scan() -> None:
            storage._reader.fetcher.memory.limit = CHUNK
            async with storage.open_range(path) as opened:
                async for _ in opened:
                    await cache.written()

        await scan()
        assert 4 * CHUNK <= cache.size <= 8 * CHUNK
        # The second time it is worth it, and the third time nothing is fetched.
        await scan()
        assert cache.size >= SIZE
        between.heads.clear()
        await scan()
        assert gets(between, path) == []


async def test_the_cache_gives_way_to_a_restore(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=7500k", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        broker = Broker(small / "data")
        broker.root.mkdir()
        settings = directory_settings(broker, tmp_path / "store", restore_reserve_mb=0.5)
        paths = [broker.segment("orders-0", size=2_500_000) for _ in range(2)]
        broker.segment("orders-0")
        async with TieredStorage.open(settings) as storage:
            cache = disk_cache(storage)
            for path in paths:
                await storage.archive_segment(path)
                Objects.of_directory(tmp_path / "store").cut(path, CHUNK)
                async with storage.open_range(path) as opened:
                    async for _ in opened:
                        await cache.written()
            free = os.statvfs(small).f_bavail * 4096
            assert cache.size >= 4_500_000
            assert free - (512 << 10) < len(broker.files[paths[0]])
            await storage.restore_segment(paths[0])
            assert broker.is_whole(paths[0])
            assert 0 < cache.size < 4_500_000
            assert await read(storage, paths[1]) == broker.files[paths[1]]
    finally:
        subprocess.run(["umount", small], check=True)
