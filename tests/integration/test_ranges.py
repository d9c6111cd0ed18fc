"""Ranges of segment files, read in place: on the disk, in the archive, and from one to the other."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.codec.aesgcm import Key
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import (
    Damaged,
    NoKey,
    RangeNotSatisfiable,
    SegmentChanged,
    SegmentNotFound,
    WrongKey,
)
from takhin_tiered.reader.archived import PIECE_SIZE, name_of
from takhin_tiered.reader.cache import DiskCache
from takhin_tiered.reader.outcomes import indexes_of
from takhin_tiered.segments.names import FileKind
from tests.chunked import RING, Objects, use_keys
from tests.support import Broker, Bucket, directory_settings, disk_cache, parts, store_settings

CHUNK = 16 << 10
FORMS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "zstd": {"level": 3},
    "key": {"ring": RING},
    "zstd and key": {"level": 3, "ring": RING},
}


@asynccontextmanager
async def archived(
    broker: Broker, store: Path, *, size: int = 150_000, **changes: Any
) -> AsyncIterator[tuple[TieredStorage, Objects, str]]:
    """One segment, archived and evicted."""
    path = broker.segments("orders-0", 1, size=size)[0]
    async with TieredStorage.open(directory_settings(broker, store, **changes)) as storage:
        await storage.archive_segment(path)
        assert broker.on_disk(path) == []
        yield storage, Objects.of_directory(store), path


async def read(storage: TieredStorage, path: str, start: int = 0, end: int | None = None, **how: Any) -> bytes:
    async with storage.open_range(path, start, end, **how) as opened:
        pieces = b"".join([piece async for piece in opened])
        assert await opened.read() == pieces
        return pieces


@pytest.mark.parametrize("form", FORMS)
async def test_every_range_is_that_of_the_file(broker: Broker, tmp_path: Path, form: str) -> None:
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        objects.cut(path, CHUNK, **FORMS[form])
        use_keys(storage, RING)
        whole, chance = broker.files[path], random.Random(7)
        size = len(whole)
        edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, size - 1, size]
        wanted = [(start, end) for start in edges for end in edges if start <= end]
        for _ in range(50):
            start, end = sorted(chance.sample(range(size + 1), 2))
            wanted.append((start, end))
        for start, end in wanted:
            assert await read(storage, path, start, end) == whole[start:end]
        async with storage.open_range(path) as opened:
            assert (opened.size, opened.proof) == (size, "chunk")
        for kind in FileKind:
            if (name := path.replace(".log", f".{kind}")) in broker.files:
                assert await read(storage, path, kind=kind) == broker.files[name]
        with pytest.raises(SegmentNotFound, match="has no txnindex"):
            await read(storage, path, kind=FileKind.TXNINDEX)
        with pytest.raises(RangeNotSatisfiable, match=f"has {size} bytes"):
            await read(storage, path, size + 1)


async def test_an_archive_of_an_earlier_release_is_read_whole_once(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store")
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        objects.without_chunks(path)
        async with storage.open_range(path, 5, 500) as opened:
            assert opened.proof == "object"
            assert await opened.read() == broker.files[path][5:500]
        await disk_cache(storage).written()
        before = storage.metrics.bytes_moved()
        assert await read(storage, path) == broker.files[path]
        assert storage.metrics.bytes_moved() == before
    async with TieredStorage.open(settings) as storage:
        # Its checksums outlive the process.
        before = storage.metrics.bytes_moved()
        assert await read(storage, path, 100, 200) == broker.files[path][100:200]
        assert storage.metrics.bytes_moved() == before


async def test_checksums_that_the_state_directory_lost_are_no_damage_of_the_archive(
    broker: Broker, tmp_path: Path
) -> None:
    """After a power cut the index of the cache may have anything: what it says of an object is not the last word."""
    settings = directory_settings(broker, tmp_path / "store")
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        objects.without_chunks(path)
        assert await read(storage, path) == broker.files[path]
        name = name_of(objects.manifest(path).log, PIECE_SIZE)
        right = await disk_cache(storage).get(name)
        assert right
        await disk_cache(storage).put(name, ())
    async with TieredStorage.open(settings) as storage:
        assert await read(storage, path) == broker.files[path]
        assert await disk_cache(storage).get(name) == right
        await disk_cache(storage).put(name, tuple(each ^ 1 for each in right))
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(SegmentChanged):
            await read(storage, path)
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine
        assert await read(storage, path) == broker.files[path]
        damaged = bytearray(broker.files[path])
        damaged[7] ^= 1
        (tmp_path / "store" / path).write_bytes(damaged)
        await disk_cache(storage).put(name, tuple(each ^ 1 for each in right))
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(Damaged):
            await read(storage, path)
        (segment,) = parts(storage).catalog.archived()
        assert segment.quarantine


async def test_indexes_in_memory_are_those_of_the_files_beside_the_log(broker: Broker, tmp_path: Path) -> None:
    """The same log may be archived again with another transaction index: what was parsed before is not its."""
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        manifest = objects.manifest(path)
        changed = dict(manifest.files)
        changed[FileKind.INDEX] = replace(changed[FileKind.INDEX], sha256="0" * 64)
        seen = []
        for each in (manifest, replace(manifest, files=changed)):
            objects.put(each)
            await storage._reader.manifests.get(each.id, fresh=True)
            async with storage._reader.open_segment(each.id) as source:
                seen.append(await indexes_of(storage._log.indexes, source))
        assert seen[0] is not seen[1]


async def test_local_bytes_come_from_the_disk(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    active = broker.segment("other-0", age_hours=0.0)
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        for each in (path, active):
            async with storage.open_range(each, 7, 70) as opened:
                assert opened.proof == "local"
                assert await opened.read() == broker.files[each][7:70]


async def test_a_segment_may_be_evicted_or_restored_between_two_pieces(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1, size=2_000_000)[0]
    whole = broker.files[path]
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store", restore_lease_hours=0)) as storage:
        objects = Objects.of_directory(tmp_path / "store")
        async with storage.open_range(path) as opened:
            local = aiter(opened)
            got = await anext(local)
            tag = opened.tag
            await storage.archive_segment(path)
            assert broker.on_disk(path) == []
            assert got + b"".join([piece async for piece in local]) == whole
        objects.cut(path, CHUNK)
        async with storage.open_range(path) as opened:
            assert (opened.proof, opened.tag) != ("local", tag)
            far = aiter(opened)
            got = await anext(far)
            archive_tag = opened.tag
            await storage.restore_segment(path)
            assert got + b"".join([piece async for piece in far]) == whole
        # The restored one is known to be the archived one: whoever resumes a download may go on with it.
        async with storage.open_range(path) as opened:
            assert (opened.proof, opened.tag) == ("local", archive_tag)


async def test_a_local_file_that_was_rewritten_is_never_mixed_with_the_archive(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1, size=1_000_000)[0]
    settings = directory_settings(broker, tmp_path / "store", archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.archive_segment(path)
        async with storage.open_range(path) as opened:
            archived_tag, pieces = opened.tag, aiter(opened)
            await anext(pieces)
            broker.overwrite(path, os.urandom(len(broker.files[path])))
            with pytest.raises(SegmentChanged, match="changed while it was read"):
                [piece async for piece in pieces]
        async with storage.open_range(path) as opened:
            assert opened.tag != archived_tag
            assert await opened.read() == broker.files[path]


async def test_what_left_the_disk_unseen_is_read_from_the_archive(broker: Broker, tmp_path: Path) -> None:
    path, lost = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store", archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.archive_segment(path)
        for each in (path, lost):
            for name in broker.triple(each):
                (broker.root / name).unlink()
        assert await read(storage, path) == broker.files[path]
        with pytest.raises(SegmentChanged, match="left the disk, and was not archived"):
            await read(storage, lost)


async def test_a_damaged_chunk_is_named_and_its_segment_quarantined(broker: Broker, tmp_path: Path) -> None:
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        manifest = objects.cut(path, CHUNK, level=3)
        stored = bytearray(objects.read(path))
        begin, _ = manifest.log.chunks.stored_range(2, manifest.log.plain_size)  # type: ignore[union-attr]
        stored[begin + 5] ^= 1
        objects.write(path, bytes(stored))
        with pytest.raises(Damaged, match=rf"chunk 2 of the log of segment {path}"):
            await read(storage, path, 2 * CHUNK, 2 * CHUNK + 1)
        (segment,) = parts(storage).catalog.archived()
        assert "chunk 2" in segment.quarantine
        # The others are proven each by itself.
        assert await read(storage, path, 0, 2 * CHUNK) == broker.files[path][: 2 * CHUNK]
        with pytest.raises(Damaged, match="chunk 2"):
            await read(storage, path)


@pytest.mark.parametrize("damage", ["gone", "shorter", "empty", "manifest gone", "no manifest", "other manifest"])
async def test_what_the_archive_lost_is_an_error_that_names_it(broker: Broker, tmp_path: Path, damage: str) -> None:
    store = tmp_path / "store"
    async with archived(broker, store) as (storage, objects, path):
        manifest = objects.cut(path, CHUNK)
        target = store / (manifest.id.manifest_key if "manifest" in damage else path)
        if "gone" in damage:
            target.unlink()
        elif damage == "shorter":
            os.truncate(target, 3 * CHUNK + 5)
        elif damage == "other manifest":
            target.write_bytes(target.read_bytes().replace(b'"generation": 1', b'"generation": 7'))
        else:
            target.write_bytes(b"")
        with pytest.raises(Damaged, match=str(manifest.id.base_offset)) as found:
            await read(storage, path)
        assert found.value.http_status == 502
        (segment,) = parts(storage).catalog.archived()
        assert segment.quarantine


async def test_without_its_key_nothing_is_read(broker: Broker, tmp_path: Path) -> None:
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        objects.cut(path, CHUNK, ring=RING)
        use_keys(storage, KeyRing())
        with pytest.raises(NoKey, match="'k1'"):
            await read(storage, path)
        use_keys(storage, KeyRing({"k1": Key(b"2" * 32)}, "k1"))
        with pytest.raises(WrongKey, match="'k1'"):
            await read(storage, path)
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine
        use_keys(storage, RING)
        assert await read(storage, path) == broker.files[path]


async def test_a_manifest_of_another_incarnation_is_refused(broker: Broker, tmp_path: Path) -> None:
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        catalog, manifest = parts(storage).catalog, objects.manifest(path)
        ours, other = "A" * 22, "B" * 22
        catalog.learn(("orders", 0), replace(manifest, topic_id=ours).incarnation)
        objects.put(replace(manifest, topic_id=other, written_by=0))
        with pytest.raises(Damaged, match=f"topic ID {other}.*topic ID {ours}"):
            await read(storage, path)


async def test_a_store_that_is_down_is_no_damage(broker: Broker, tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with archived(broker, store) as (storage, objects, path):
        objects.cut(path, CHUNK)
        assert await read(storage, path, 0, 5) == broker.files[path][:5]
        await disk_cache(storage).written()
        store.rename(tmp_path / "away")
        # The manifest is in memory, and one chunk in the cache.
        assert await read(storage, path, 0, 9) == broker.files[path][:9]
        with pytest.raises(Exception, match="store") as found:
            await read(storage, path, 5 * CHUNK, 5 * CHUNK + 1)
        assert found.value.http_status == 503  # type: ignore[attr-defined]
        (tmp_path / "away").rename(store)
        assert await read(storage, path) == broker.files[path]
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine


async def test_a_bad_entry_of_the_cache_is_dropped_and_fetched_again(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store")
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        objects.cut(path, CHUNK, level=3)
        assert await read(storage, path) == broker.files[path]
        await disk_cache(storage).written()
    files = sorted((settings.state_dir / "cache").rglob("*.[0-9]*"))
    assert len(files) > 5
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    for number, file in enumerate(files):
        data = file.read_bytes()
        damaged = [data[:-1], data + b"x", b"", data[:9] + b"?" + data[10:], files[number - 1].read_bytes()]
        file.write_bytes(damaged[number % len(damaged)])
    async with TieredStorage.open(settings) as storage:
        assert await read(storage, path) == broker.files[path]
        (segment,) = parts(storage).catalog.archived()
        assert not segment.quarantine
        await disk_cache(storage).written()
    assert {file.stat().st_size for file in files} == {len(data) for data in [f.read_bytes() for f in files]}
    async with TieredStorage.open(settings) as storage:
        before = storage.metrics.bytes_moved()
        assert await read(storage, path) == broker.files[path]
        # The manifest is small, and not counted.
        assert storage.metrics.bytes_moved() == before


async def test_the_bound_holds_at_every_moment_and_readers_go_on(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", local_cache_size_mb=0.25)
    store = tmp_path / "store"
    async with archived(broker, store, size=1_500_000, local_cache_size_mb=0.25) as (storage, objects, path):
        objects.cut(path, CHUNK)
        most, running = 0, True

        def on_disk() -> int:
            found = (settings.state_dir / "cache").rglob("*.[0-9]*")
            total = 0
            for file in found:
                with open(file.parent / file.name, "rb") as opened:
                    total += os.fstat(opened.fileno()).st_blocks * 512
            return total

        async def watch() -> None:
            nonlocal most
            while running:
                try:
                    most = max(most, await asyncio.to_thread(on_disk))
                except FileNotFoundError:
                    await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        for _ in range(5):
            assert await read(storage, path) == broker.files[path]
        await disk_cache(storage).written()
        running = False
        await watching
        assert 0 < most <= 256 << 10
        assert 0 < disk_cache(storage).size <= 256 << 10


async def test_a_process_without_the_lock_reads_without_a_cache(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store")
    async with (
        archived(broker, tmp_path / "store") as (_, _, path),
        TieredStorage.open(settings, read_only=True) as other,
    ):
        assert await read(other, path) == broker.files[path]
        assert not isinstance(other._reader.fetcher.cache, DiskCache)


async def test_a_read_counts_as_access(broker: Broker, tmp_path: Path) -> None:
    async with archived(broker, tmp_path / "store") as (storage, _, path):
        (before,) = parts(storage).catalog.archived()
        await read(storage, path, 0, 1)
        (after,) = parts(storage).catalog.archived()
        assert after.last_access > before.last_access


async def test_ranges_on_a_real_server(broker: Broker, bucket: Bucket) -> None:
    path = broker.segments("orders-0", 1, size=200_000)[0]
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.archive_segment(path)
        objects = Objects(bucket.read, bucket.write)
        objects.cut(path, CHUNK, level=3, ring=RING)
        use_keys(storage, RING)
        for start, end in ((0, 1), (CHUNK - 1, CHUNK + 1), (0, None), (150_000, 170_000)):
            assert await read(storage, path, start, end) == broker.files[path][start:end]
        bucket.delete(path)
        await disk_cache(storage).written()
        assert await read(storage, path) == broker.files[path]


async def test_on_a_new_machine_the_archive_is_looked_at_first(broker: Broker, tmp_path: Path) -> None:
    async with archived(broker, tmp_path / "store") as (_, _, path):
        pass
    empty = Broker(tmp_path / "empty")
    empty.root.mkdir()
    async with TieredStorage.open(directory_settings(empty, tmp_path / "store")) as storage:
        assert await read(storage, path, 3, 30) == broker.files[path][3:30]
        with pytest.raises(SegmentNotFound):
            await read(storage, path.replace("orders", "others"))


async def test_chunks_give_way_to_restored_segments_and_to_the_disks_reserve(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", local_cache_size_mb=0.5, archive_mode="copy")
    far, near = broker.segments("orders-0", 2, size=300_000)
    async with TieredStorage.open(settings) as storage:
        objects = Objects.of_directory(tmp_path / "store")
        for path in (far, near):
            await storage.archive_segment(path)
            objects.cut(path, CHUNK)
            for name in broker.triple(path):
                (broker.root / name).unlink()
        cache = disk_cache(storage)
        assert await read(storage, far) == broker.files[far]
        await cache.written()
        assert cache.size >= 300_000
        # A lease that has ended at once: in this mode the copy stays on the disk all the same.
        await storage.restore_segment(near, lease=0)
        assert broker.is_whole(near)
        restored = sum(each.local.size for each in parts(storage).catalog.restored())
        assert restored >= 300_000
        assert await read(storage, far, 0, 1) == broker.files[far][:1]
        cache._work.set()
        await wait_for(lambda: cache.size + restored <= 0.5 * 2**20)
        assert cache.size > 0
        assert await read(storage, far) == broker.files[far]
        await cache.written()
        assert cache.size + restored <= 0.5 * 2**20
        assert broker.is_whole(near)
        # The disk is at its reserve: nothing is kept any more, and reads go on.
        parts(storage).limits.reserve_bytes = 1 << 60
        cache._work.set()
        await wait_for(lambda: cache.size == 0)
        assert await read(storage, far) == broker.files[far]
        await cache.written()
        assert cache.size == 0
        assert not [file for file in (settings.state_dir / "cache").rglob("*.[0-9]*") if file.is_file()]


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_scan_does_not_push_out_of_the_cache_what_is_read_repeatedly(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", local_cache_size_mb=0.5)
    paths = broker.segments("orders-0", 6, size=300_000)
    async with TieredStorage.open(settings) as storage:
        storage._reader.fetcher.memory.limit = CHUNK
        objects, cache = Objects.of_directory(tmp_path / "store"), disk_cache(storage)
        for path in paths:
            await storage.archive_segment(path)
            objects.cut(path, CHUNK)
        for _ in range(3):
            assert await read(storage, paths[0], 0, 8 * CHUNK) == broker.files[paths[0]][: 8 * CHUNK]
            await cache.written()
        for path in paths[1:]:
            async with storage.open_range(path) as opened:
                async for _ in opened:
                    await cache.written()
        before = storage.metrics.bytes_moved()
        assert await read(storage, paths[0], 0, 8 * CHUNK) == broker.files[paths[0]][: 8 * CHUNK]
        assert storage.metrics.bytes_moved() == before


async def test_the_number_of_cached_chunks_is_bounded(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("takhin_tiered.reader.cache.MOST_CHUNKS", 4)
    async with archived(broker, tmp_path / "store") as (storage, objects, path):
        objects.cut(path, CHUNK)
        assert await read(storage, path) == broker.files[path]
        await disk_cache(storage).written()
        assert len(disk_cache(storage)._lru) == 4
