"""Replicas that share a prefix: whose turn it is, and what one of them learns late."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.errors import SegmentShared
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.owner import OF_PREFIX
from takhin_tiered.store import DirectoryStore
from tests.replicas import Shared, replicas_of, settings_of
from tests.support import Broker, directory_settings, parts


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "store")


async def test_who_cannot_archive_a_segment_holds_up_nobody(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    good, bad = replicas_of(broker, 2)
    damaged = bytearray(bad.files[path])
    damaged[500] ^= 1
    bad.overwrite(path, bytes(damaged))
    async with TieredStorage.open(settings_of(bad, shared.root, archive_corrupt="refuse")) as storage:
        failures = (await storage.run_cycle()).failures
        assert [name for name, _ in failures] == [path]
        assert shared.keys() == []
        async with TieredStorage.open(settings_of(good, shared.root)) as other:
            report = await other.run_cycle()
    assert (report.failures, report.evicted) == ([], 1)
    assert shared.has(good, path)
    assert bad.is_whole(path)


async def test_who_held_a_segment_first_is_waited_for_a_day_whoever_restarts(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    async with TieredStorage.open(settings_of(second, shared.root)) as storage:
        await (await storage.prepare()).hold(SegmentId.parse(path))
        (record,) = shared.keys()
        now = (shared.root / record).stat().st_mtime
        for hours in (0, 23, 25):
            os.utime(shared.root / record, (now - hours * 3600, now - hours * 3600))
            async with TieredStorage.open(settings_of(first, shared.root)) as other:
                report = await other.run_cycle()
            assert (report.failures, report.archived) == ([], int(hours == 25))
    assert shared.has(first, path)


async def test_what_a_single_owner_removed_meanwhile_is_told_by_the_next_start(broker: Broker, shared: Shared) -> None:
    """Such an owner looks at no adoption record. A start without one in between has nothing to compare."""
    closed = broker.segments("orders-0", 2)
    single, replica = replicas_of(broker, 2)
    known = []
    for has_single in (False, False, True):
        if has_single:
            (shared.root / OF_PREFIX.owner).unlink()
            async with TieredStorage.open(directory_settings(single, shared.root, retention_hours=1.0)) as storage:
                await storage.run_cycle()
                assert (await storage.run_cycle()).expired == len(closed)
        async with TieredStorage.open(settings_of(replica, shared.root)) as storage:
            was_clean = parts(storage).preparation.is_reconciled
            await storage.run_cycle()
            known.append((was_clean, storage.status().quarantined_segments))
    assert known == [(False, 0), (True, 0), (True, len(closed))]


async def test_a_single_owner_that_comes_back_knows_what_replicas_did_meanwhile(broker: Broker, shared: Shared) -> None:
    """Before its first cycle, although nobody else was a single owner, and it was closed in order."""
    closed = broker.segments("orders-0", 2)
    single, one, other = replicas_of(broker, 3)
    copies = {"archive_mode": "copy"}
    async with TieredStorage.open(directory_settings(single, shared.root, **copies)) as storage:
        was_reconciled = [parts(storage).preparation.is_reconciled]
        assert (await storage.run_cycle()).copied == 2
    # The replicas archive more, which the single owner's broker has too.
    for each in (single, one, other):
        each.segment("orders-0")
    third = sorted(path for path in single.files if path.endswith(".log"))[2]
    for each in (one, other):
        async with TieredStorage.open(settings_of(each, shared.root)) as storage:
            assert (await storage.run_cycle()).failures == []
    # Somebody takes their records and that of the owner before away, and one of them removes the first segment.
    stem = closed[0].removesuffix("log")
    for record in shared.root.glob(f"{stem}adopted.*"):
        record.unlink()
    async with TieredStorage.open(settings_of(one, shared.root)) as storage:
        owned = await storage.prepare()
        await owned.delete([key for key in shared.objects() if key.startswith(stem)])
    manifests = shared.manifests()
    assert {path.replace(".log", ".manifest.json") for path in (closed[1], third)} == {*manifests}
    (shared.root / OF_PREFIX.owner).unlink()
    async with TieredStorage.open(directory_settings(single, shared.root, **copies)) as storage:
        was_reconciled.append(parts(storage).preparation.is_reconciled)
        await storage.prepare()
        known = {info.segment_path for info in storage.segments() if info.archived_at is not None}
        assert known == {closed[1], third}
        assert (await storage.run_cycle()).failures == []
    assert was_reconciled == [False, True]
    # Nothing was stored in the place of what the replicas had archived.
    assert {*shared.manifests()} == {*manifests, closed[0].replace(".log", ".manifest.json")}
    assert shared.objects() == shared.named()
    assert shared.has(single, closed[0])
    # What nobody else did is not looked for again.
    async with TieredStorage.open(directory_settings(single, shared.root, **copies)) as storage:
        await storage.prepare()
        assert parts(storage).preparation.is_reconciled


async def test_whose_manifest_came_second_leaves_no_objects(
    broker: Broker, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted bytes are other ones each time: two that upload at once store two generations, and one is adopted."""
    keys = tmp_path / "keys"
    keys.write_text(f"first {base64.b64encode(bytes(32)).decode()}\n")
    (path,) = broker.segments("orders-0", 1)
    slow, fast = replicas_of(broker, 2)
    changes = {"encryption_key_file": keys, "auto_archive_enabled": False}
    original, faster = DirectoryStore.put, list[TieredStorage]()
    async with (
        TieredStorage.open(settings_of(slow, shared.root, **changes)) as storage,
        TieredStorage.open(settings_of(fast, shared.root, **changes)) as other,
    ):
        for each in (storage, other):
            await each.run_cycle()

        async def put(store: DirectoryStore, key: str, *args: Any, **options: Any) -> Any:
            if key.endswith(".manifest.json") and faster:
                await faster.pop().archive_segment(path)
            return await original(store, key, *args, **options)

        monkeypatch.setattr(DirectoryStore, "put", put)
        faster.append(other)
        await storage.archive_segment(path)
    assert shared.objects() == shared.named()
    assert len(shared.manifests()) == 1
    assert len(shared.adopters(path)) == 2
    async with TieredStorage.open(settings_of(slow, shared.root, **changes)) as storage:
        assert [found.problem async for found in storage.verify(deep=True)] == [""]


async def test_a_generation_that_a_superseded_manifest_names_is_held(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    for has_more in (False, True):
        if has_more:
            first.append(path)
            first.overwrite_time(path)
        async with TieredStorage.open(settings_of(first, shared.root, archive_mode="copy")) as storage:
            assert (await storage.run_cycle()).failures == []
    assert {path, path.replace(".log", ".g2.log")} < shared.objects()
    async with TieredStorage.open(settings_of(second, shared.root)) as storage:
        owned = await storage.prepare()
        with pytest.raises(SegmentShared):
            await owned.delete([path])
    assert path in shared.objects()
