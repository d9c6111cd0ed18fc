"""How many requests a record costs: of the store, and in chunks of a large segment."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.formats.sample import make_segment
from takhin_tiered.reader.cache import DiskCache
from takhin_tiered.reader.query import Isolation, RecordQuery
from tests.logs import TIME
from tests.partitions import Partition, Segment, snapshot_of
from tests.support import Broker, directory_settings

MIB = 1 << 20
REQUESTS = ("read", "open", "fetch_into", "head", "list")


@contextmanager
def counted(storage: TieredStorage) -> Iterator[list[str]]:
    """The requests to the store, and what they are for."""
    store: Any = storage._reader.fetcher.store
    asked: list[str] = []

    def counting(name: str, real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            asked.append(f"{name} {arguments[0] if arguments else ''} {more.get('start', '')}-{more.get('end', '')}")
            return real(*arguments, **more)

        return call

    for name in REQUESTS:
        setattr(store, name, counting(name, getattr(store, name)))
    try:
        yield asked
    finally:
        for name in REQUESTS:
            delattr(store, name)


@pytest.mark.parametrize("how", ["plain", "zstd and a key"])
@pytest.mark.parametrize("size", [64 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.long)])
async def test_a_record_costs_few_requests(broker: Broker, tmp_path: Path, how: str, size: int) -> None:
    made, base = Partition("orders-0"), 0
    for part in (MIB, size, MIB):
        sample = make_segment(base, part, first_timestamp=TIME + base)
        files = {"log": sample.log, "index": sample.index, "timeindex": sample.timeindex, "txnindex": b""}
        made.segments.append(Segment(base, files | {"snapshot": snapshot_of({})}))
        base = sample.next_offset
    made.end = base
    paths = made.write(broker.root)
    more: dict[str, Any] = {}
    if how != "plain":
        (tmp_path / "keys").write_text(f"first {base64.b64encode(bytes(32)).decode()}\n")
        more = {"compression_codec": "zstd", "encryption_key_file": tmp_path / "keys"}
    settings = directory_settings(broker, tmp_path / "store", archive_mode="move", **more)
    async with TieredStorage.open(settings) as storage:
        for path in paths:
            await storage.archive_segment(path)
    first, following = made.segments[1].base, made.segments[2].base
    committed = Isolation.READ_COMMITTED
    for offset in (first, first + 7, (first + following) // 2, following - 1):
        when = TIME + offset
        for question, cold in (
            (RecordQuery("orders", 0, offset), 3),
            (RecordQuery("orders", 0, timestamp=when), 5),
            (RecordQuery("orders", 0, offset, isolation=committed), 5),
            (RecordQuery("orders", 0, timestamp=when, isolation=committed), 5),
        ):
            async with TieredStorage.open(settings, read_only=True) as storage:
                moved = storage.metrics.bytes_moved()
                with counted(storage) as asked:
                    page = await storage.read_records(question, 1)
                assert page.records[0].offset >= first
                assert question.offset is None or page.records[0].offset == offset
                assert len(asked) <= cold, asked
                if question.offset is not None:
                    # An index, and two chunks.
                    assert storage.metrics.bytes_moved() - moved <= 2 * 4 * MIB + len(made.segments[1].files["index"])
                with counted(storage) as asked:
                    await storage.read_records(question, 1)
                assert asked == []
                # Another record of the same segment, of which the manifest and the indexes are known.
                with counted(storage) as asked:
                    await storage.read_records(RecordQuery("orders", 0, first + 20_000), 1)
                assert len(asked) <= 1, asked
    # What was read once is in the disk cache, after a restart too.
    question = RecordQuery("orders", 0, first + 30_000)
    async with TieredStorage.open(settings) as storage:
        await storage.read_records(question, 1)
        cache = storage._reader.fetcher.cache
        assert isinstance(cache, DiskCache)
        await cache.written()
    async with TieredStorage.open(settings) as storage:
        with counted(storage) as asked:
            await storage.read_records(question, 1)
        assert len(asked) == 1, asked
        assert "manifest" in asked[0]
