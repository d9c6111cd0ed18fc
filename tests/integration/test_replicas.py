"""One archived copy for all replicas: `storage.tiered.fleet.replicas: adopt`."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import struct
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

from takhin_tiered import HeldElsewhere, OwnerSilent, TieredStorage
from takhin_tiered.catalog.journal import open_journal
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.owner import OF_PREFIX, keys_of_replica
from takhin_tiered.store import DirectoryStore
from takhin_tiered.vault import challenging, replicas
from takhin_tiered.vault.challenging import Challenger, put
from takhin_tiered.vault.ownership import IDENTIFIER
from takhin_tiered.vault.proof import read_manifest
from tests.integration.test_ownership import Words, fast, party
from tests.replicas import Shared, replicas_of, settings_of
from tests.support import Broker, aborted, directory_settings, parts


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "store")


def uploaded(storage: TieredStorage) -> float:
    return sum(
        sample.value
        for metric in storage.metrics.uploaded.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def test_three_replicas_upload_once_and_each_restores(broker: Broker, shared: Shared) -> None:
    closed = broker.segments("orders-0", 3)
    brokers = replicas_of(broker, 3)
    for number, each in enumerate(brokers):
        async with TieredStorage.open(settings_of(each, shared.root)) as storage:
            report = await storage.run_cycle()
            assert report.failures == []
            assert report.evicted == 3
            assert (uploaded(storage) > 0) == (number == 0)
    assert shared.lost(brokers) == []
    assert shared.objects() == shared.named()
    assert all(len(shared.adopters(path)) == 3 for path in closed)
    assert shared.marks() == []
    for each in brokers:
        assert each.on_disk(closed[0]) == []
        async with TieredStorage.open(settings_of(each, shared.root)) as storage:
            await storage.restore_segment(closed[0])
        assert each.is_whole(closed[0])


async def test_what_retention_ends_for_one_stays_until_the_last(broker: Broker, shared: Shared) -> None:
    closed = broker.segments("orders-0", 2)
    brokers = replicas_of(broker, 3)
    for each in brokers:
        async with TieredStorage.open(settings_of(each, shared.root)) as storage:
            await storage.run_cycle()
    for number, each in enumerate(brokers):
        assert shared.lost(brokers[number:]) == []
        async with TieredStorage.open(settings_of(each, shared.root, retention_hours=100.0)) as storage:
            report = await storage.run_cycle()
            assert (report.failures, report.expired) == ([], 2)
            assert storage.stats().archived_segments == 0
        assert {len(shared.adopters(path)) for path in closed} == {2 - number}
    assert shared.keys() == []


async def test_generations_with_one_log_leave_with_the_last_replica(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    brokers = replicas_of(broker, 2)
    for each in brokers:
        async with TieredStorage.open(settings_of(each, shared.root, archive_mode="copy")) as storage:
            assert (await storage.run_cycle()).failures == []
            if each is not broker:
                # It is healed from the disk: by a second generation, which has the first one's log.
                index = path.replace(".log", ".index")
                shared.view.write(index, b"?" * len(shared.view.read(index)))
                assert (await storage.scrub_segment(path)).problem
    assert len(shared.manifests()) == 2
    for number, each in enumerate(brokers):
        for name in each.triple(path):
            (each.root / name).unlink()
        async with TieredStorage.open(settings_of(each, shared.root, retention_hours=100.0)) as storage:
            report = await storage.run_cycle()
            assert (report.failures, report.expired) == ([], 1)
        assert shared.objects() == shared.named()
        assert len(shared.manifests()) == (2 if number == 0 else 0)
    assert shared.keys() == []


async def test_what_one_gave_up_is_not_learned_again_by_each_cycle(broker: Broker, shared: Shared) -> None:
    closed = broker.segments("orders-0", 2)
    first, second = replicas_of(broker, 2)
    assert await archived(second, shared) == []
    async with TieredStorage.open(settings_of(first, shared.root, retention_hours=100.0)) as storage:
        await storage.run_cycle()
        assert (await storage.run_cycle()).expired == 2
        # More is to be archived: it looks at what the others have of this partition.
        first.segment("orders-0", age_hours=50)
        report = await storage.run_cycle()
        assert (report.failures, report.archived, report.expired) == ([], 1, 0)
        archived_only = [info.segment_path for info in storage.segments() if info.is_archived]
        assert not set(archived_only) & set(closed)
    assert shared.lost([second]) == []
    assert {len(shared.adopters(path)) for path in closed} == {1}


async def test_an_owner_of_its_own_is_refused_where_replicas_share(broker: Broker, shared: Shared) -> None:
    broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    async with TieredStorage.open(settings_of(first, shared.root)) as storage:
        await storage.run_cycle()
    async with TieredStorage.open(directory_settings(second, shared.root)) as storage:
        with pytest.raises(HeldElsewhere, match=r"replicas.*storage\.tiered\.fleet\.replicas: adopt"):
            await storage.run_cycle()


async def test_indexes_of_another_replica_serve_as_well(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    index = path.replace(".log", ".index")
    second.overwrite(index, second.files[index][:16])
    for each in (first, second):
        assert await archived(each, shared) == []
    assert shared.has(first, path)
    assert shared.has(second, path, ("log", "timeindex"))
    assert second.on_disk(path) == []
    assert len(shared.manifests()) == 1


async def test_what_the_archive_lacks_of_a_segment_is_added(broker: Broker, shared: Shared) -> None:
    """As the first one archived it without its transaction index. Nobody's files are taken away by that."""
    broker.transactional = True
    (path,) = broker.segments("orders-0", 1)
    first, second, third = replicas_of(broker, 3)
    for kind in ("txnindex", "snapshot"):
        name = path.replace("log", kind)
        (first.root / name).unlink()
        del first.files[name]
    third.overwrite(path.replace("log", "snapshot"), snapshot())
    third.overwrite(path.replace("log", "txnindex"), b"")
    for each in (first, third, second):
        assert await archived(each, shared) == []
        assert each.on_disk(path) == []
        # The third one's say nothing that the archive would lack.
        assert (len(shared.objects()) > 4) == (each is second)
    assert shared.lost([first, second]) == []
    assert shared.objects() == shared.named()


@pytest.mark.parametrize("kind", ["txnindex", "snapshot"])
async def test_a_log_that_is_said_to_have_other_transactions_stays(broker: Broker, shared: Shared, kind: str) -> None:
    broker.transactional = True
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    name = path.replace("log", kind)
    content = {"txnindex": aborted(0, 3), "snapshot": snapshot((7, 3))}[kind]
    second.overwrite(name, content)
    assert await archived(first, shared) == []
    failures = await archived(second, shared)
    assert [name for name, _ in failures] == [path]
    assert f".{kind}" in failures[0][1]
    assert second.is_whole(path)
    assert shared.has(first, path)


async def test_idle_producers_do_not_make_another_segment(broker: Broker, shared: Shared) -> None:
    """Each broker forgets them by its own clock; the transactions that are open are the same."""
    broker.transactional = True
    (path,) = broker.segments("orders-0", 1)
    broker.overwrite(path.replace("log", "snapshot"), snapshot((7, 3), (8, -1)))
    first, second = replicas_of(broker, 2)
    second.overwrite(path.replace("log", "snapshot"), snapshot((7, 3)))
    for each in (first, second):
        assert await archived(each, shared) == []
    assert second.on_disk(path) == []
    assert shared.has(first, path)


async def test_another_log_under_the_same_name_is_archived_beside_it(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    for each in (first, second):
        assert await archived(each, shared, archive_mode="copy") == []
    second.append(path)
    second.overwrite_time(path)
    assert await archived(second, shared) == []
    assert second.on_disk(path) == []
    assert shared.has(first, path)
    assert shared.objects() == shared.named()
    async with TieredStorage.open(settings_of(second, shared.root)) as storage:
        await storage.restore_segment(path)
    assert second.is_whole(path)


async def test_what_nobody_else_relies_on_is_superseded(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    assert await archived(broker, shared, archive_mode="copy") == []
    broker.append(path)
    broker.overwrite_time(path)
    assert await archived(broker, shared) == []
    assert broker.on_disk(path) == []
    assert shared.has(broker, path)
    assert (shared.root / path.replace(".log", ".g2.log")).exists()


async def test_one_of_several_repairs_what_is_damaged(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    assert await archived(first, shared) == []
    assert await archived(second, shared, archive_mode="copy") == []
    (shared.root / path).write_bytes(b"damaged")
    async with TieredStorage.open(settings_of(second, shared.root, archive_mode="copy")) as storage:
        assert (await storage.scrub_segment(path)).healed
    assert shared.has(first, path)
    async with TieredStorage.open(settings_of(first, shared.root)) as storage:
        await storage.restore_segment(path)
        assert first.is_whole(path)
    # What it restored is dropped again, although the archive has another generation now.
    assert await archived(second, shared) == []
    assert second.on_disk(path) == []


async def test_three_at_once_archive_once(broker: Broker, shared: Shared) -> None:
    closed = broker.segments("orders-0", 4)
    brokers = replicas_of(broker, 3)
    assert await archived(brokers[0], shared, auto_archive_enabled=False) == []
    async with AsyncExitStack() as stack:
        storages = [
            await stack.enter_async_context(TieredStorage.open(settings_of(each, shared.root))) for each in brokers
        ]
        # Those that come second wait for what the first one uploads: how often depends on who comes when.
        for _ in range(len(closed) + 1):
            reports = await asyncio.gather(*(storage.run_cycle() for storage in storages))
            assert [report.failures for report in reports] == [[], [], []]
            if not any(each.on_disk(path) for each in brokers for path in closed):
                break
        sent = sum(map(uploaded, storages))
    size = sum(len(broker.files[name]) for path in closed for name in broker.triple(path))
    assert sent < size + len(brokers) * 100
    assert all(each.on_disk(path) == [] for each in brokers for path in closed)
    assert shared.lost(brokers) == []
    assert shared.objects() == shared.named()
    assert shared.marks() == []


async def test_a_mark_that_is_in_use_stands_although_an_earlier_one_is_due(broker: Broker, shared: Shared) -> None:
    """A delete without an answer leaves its mark. A later one of the same segment puts the same mark again."""
    (path,) = broker.segments("orders-0", 1)
    identity, seen = SegmentId.parse(path), list[list[str]]()
    async with TieredStorage.open(settings_of(broker, shared.root)) as storage:
        await storage.run_cycle()
        owned = await storage.prepare()
        manifest = await read_manifest(owned.store, identity, identity.manifest_key)
        assert isinstance(owned, replicas.SharedPrefix)
        async with owned.replacing(manifest, manifest):
            (mark,) = shared.marks()
            parts(storage).guards.ownership._unanswered.marks[mark] = 0.0  # type: ignore[union-attr]
            # Any other verb begins with this.
            await storage.prepare()
            seen.append(shared.marks())
        await storage.prepare()
    assert seen == [[mark]]
    assert shared.marks() == []


async def test_the_segments_of_an_owner_before_are_held_in_its_name(broker: Broker, shared: Shared) -> None:
    closed = broker.segments("orders-0", 2)
    first, second = replicas_of(broker, 2)
    async with TieredStorage.open(directory_settings(first, shared.root)) as storage:
        await storage.run_cycle()
        with pytest.raises(HeldElsewhere):
            await archived(second, shared)
    assert await archived(second, shared) == []
    owner = await identifier(first, shared)
    assert all(owner in shared.adopters(path) for path in closed)
    assert await archived(second, shared, retention_hours=100.0) == []
    assert shared.lost([first]) == []
    # It comes back as one of the replicas.
    async with TieredStorage.open(settings_of(first, shared.root)) as storage:
        await storage.restore_segment(closed[0])
        assert first.is_whole(closed[0])


async def test_a_record_that_was_removed_is_written_again(broker: Broker, shared: Shared) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    for each in (first, second):
        assert await archived(each, shared) == []
    name = shared.root / f"{path.removesuffix('log')}adopted.{await identifier(first, shared)}.json"
    name.unlink()
    async with TieredStorage.open(settings_of(first, shared.root)) as storage:
        await storage.reconcile()
        await storage.run_cycle()
    assert name.is_file()


async def test_what_another_replica_removed_is_forgotten_and_no_loss(broker: Broker, shared: Shared) -> None:
    """The third one never had these segments: it knows them from the store only."""
    closed = broker.segments("orders-0", 2)
    first, second = replicas_of(broker, 2)
    for name in [*second.files]:
        (second.root / name).unlink()
    assert await archived(first, shared) == []
    async with TieredStorage.open(settings_of(second, shared.root)) as storage:
        await storage.run_cycle()
        await storage.restore_segment(closed[0])
        assert storage.stats().archived_segments == 1
        assert await archived(first, shared, retention_hours=100.0) == []
        assert shared.lost([first]) == [f"data/{path}" for path in closed]
        found = await storage.reconcile()
        assert found.lost == []
        assert [verdict async for verdict in storage.verify()] == []
        # Its restored copy is the last one: it is archived anew before it may leave.
        assert (await storage.run_cycle()).failures == []
    assert second.is_whole(closed[0])


async def test_what_was_restored_of_another_replica_is_held_before_it_is_dropped(
    broker: Broker, shared: Shared
) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    for name in [*second.files]:
        (second.root / name).unlink()
    assert await archived(first, shared) == []
    async with TieredStorage.open(settings_of(second, shared.root, restore_lease_hours=0.0)) as storage:
        await storage.run_cycle()
        assert len(shared.adopters(path)) == 1
        await storage.restore_segment(path)
        # A later one, which the broker writes to.
        second.segment("orders-0", age_hours=0)
        assert (await storage.run_cycle()).evicted == 1
        assert len(shared.adopters(path)) == 2
        assert await archived(first, shared, retention_hours=100.0) == []
        await storage.restore_segment(path)
    assert second.is_whole(path)


async def test_data_keys_are_wrapped_anew_while_others_rely_on_them(
    broker: Broker, shared: Shared, tmp_path: Path
) -> None:
    closed = broker.segments("orders-0", 2)
    brokers = replicas_of(broker, 2)
    keys = tmp_path / "keys"
    old, new = (f"{name} {base64.b64encode(os.urandom(32)).decode()}\n" for name in ("old", "new"))
    keys.write_text(old)
    for each in brokers:
        assert await archived(each, shared, encryption_key_file=keys) == []
    keys.write_text(new + old)
    async with TieredStorage.open(settings_of(brokers[1], shared.root, encryption_key_file=keys)) as storage:
        assert (await storage.rekey()).rewrapped == 2
    keys.write_text(new)
    for each in brokers:
        async with TieredStorage.open(settings_of(each, shared.root, encryption_key_file=keys)) as storage:
            await storage.restore_segment(closed[0])
        assert each.is_whole(closed[0])


async def test_without_the_key_a_segment_is_not_evicted(broker: Broker, shared: Shared, tmp_path: Path) -> None:
    (path,) = broker.segments("orders-0", 1)
    first, second = replicas_of(broker, 2)
    (tmp_path / "keys").write_text(f"one {base64.b64encode(os.urandom(32)).decode()}\n")
    assert await archived(first, shared, encryption_key_file=tmp_path / "keys") == []
    assert [failed for failed, _ in await archived(second, shared)] == [path]
    assert second.is_whole(path)


@pytest.mark.long
async def test_a_mark_of_a_silent_process_holds_up_until_it_is_fenced(
    broker: Broker, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    monkeypatch.setattr(replicas, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(replicas, "LATE_AFTER", 0.0)
    (path,) = broker.segments("orders-0", 1)
    assert await archived(broker, shared, auto_archive_enabled=False) == []
    silent = party("silent")
    store = DirectoryStore(shared.root)
    keys = keys_of_replica(silent.id)
    await put(store, keys.owner, silent.dump(), if_absent=True)
    identity = SegmentId.parse(path)
    await put(store, identity.mark_key(silent.id, silent.nonce), b"{}", if_absent=True)
    # One of an earlier start of it does not count.
    await put(store, identity.mark_key(silent.id, "earlier"), b"{}", if_absent=True)
    async with TieredStorage.open(settings_of(broker, shared.root)) as storage:
        assert [failed for failed, _ in (await storage.run_cycle()).failures] == [path]
        assert broker.is_whole(path)
        assert shared.marks() == [identity.mark_key(silent.id, silent.nonce)]
        await asyncio.sleep(challenging.SILENT_AFTER)
        assert (await storage.run_cycle()).failures == []
    assert broker.on_disk(path) == []
    assert shared.marks() == []
    assert not (shared.root / keys.owner).exists()


async def test_an_earlier_release_that_challenges_the_marker_is_answered(
    broker: Broker, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the marker for the record of a process, which it asks whether it lives."""
    fast(monkeypatch)
    broker.segments("orders-0", 1)
    async with TieredStorage.open(settings_of(broker, shared.root)) as storage:
        await storage.run_cycle()
        marker = (shared.root / OF_PREFIX.owner).read_bytes()
        earlier = Challenger(DirectoryStore(shared.root), Words(), party("earlier"), OF_PREFIX, "challenge")
        with pytest.raises(OwnerSilent):
            await earlier.require_dead(marker)
        answer = shared.root / OF_PREFIX.answer
        async with asyncio.timeout(10):
            while not answer.exists():
                await asyncio.sleep(0.01)
        with pytest.raises(HeldElsewhere, match="the daemons of several replicas") as refused:
            await earlier.require_dead(marker)
        assert not isinstance(refused.value, OwnerSilent)


async def test_a_copy_of_a_state_directory_is_found_out(broker: Broker, shared: Shared, tmp_path: Path) -> None:
    broker.segments("orders-0", 1)
    settings = settings_of(broker, shared.root)
    assert await archived(broker, shared) == []
    copy = Broker(tmp_path / "copy")
    shutil.copytree(broker.root, copy.root)
    shutil.copytree(settings.state_dir, settings_of(copy, shared.root).state_dir)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        async with TieredStorage.open(settings_of(copy, shared.root)) as other:
            with pytest.raises(HeldElsewhere, match="is held by process"):
                await other.run_cycle()


async def archived(broker: Broker, shared: Shared, **changes: Any) -> list[tuple[str, str]]:
    """Run a cycle; returns what failed."""
    async with TieredStorage.open(settings_of(broker, shared.root, **changes)) as storage:
        return (await storage.run_cycle()).failures


async def identifier(broker: Broker, shared: Shared) -> str:
    """What a replica is called in the keys of its records."""
    async with open_journal(settings_of(broker, shared.root).state_dir, read_only=True) as journal:
        assert journal is not None
        return await journal.get_meta(IDENTIFIER) or ""


def snapshot(*producers: tuple[int, int]) -> bytes:
    """A producer snapshot: the ID of each producer, and the first offset of its open transaction, -1 for none.

    Source: Apache Kafka, ``ProducerStateManager``.
    """
    entries = b"".join(struct.pack(">qhiqiqiq", producer, 0, 5, 2, 0, 1000, 0, first) for producer, first in producers)
    body = struct.pack(">i", len(producers)) + entries
    return struct.pack(">hI", 1, crc32c(body)) + body
