"""What does not confirm a store, or a clock: only a person does, once, or agreement."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from takhin_tiered import HeldElsewhere, Settings, TieredStorage
from takhin_tiered.config import Accepted
from takhin_tiered.engine import assembly
from takhin_tiered.engine.clock import Clock
from takhin_tiered.errors import CatalogError, StoreChanged, StoreUnavailable
from takhin_tiered.store import DirectoryStore
from tests.integration.test_store_identity import DAY, STORE, archived, files, forget_id, proposed, refused
from tests.support import Broker, Bucket, command, directory_settings, parts, store_settings


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


def accepting(settings: Settings, store: str = "", *, clock: bool = False) -> Settings:
    return settings.model_copy().accepting(Accepted(store, clock))


def id_of(settings: Settings) -> str:
    assert settings.directory_path is not None
    return str(json.loads((settings.directory_path / STORE).read_text())["id"])


def unmount(folder: Path) -> None:
    folder.rename(folder.with_name("unmounted"))
    folder.mkdir()


async def test_an_acceptance_left_in_a_unit_file_is_no_protection_switched_off(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    await archived(settings)
    said = accepting(settings, id_of(settings))
    async with TieredStorage.open(said) as storage:
        await storage.run_cycle()
        unmount(tmp_path / "store")
        await storage.check_store()
        assert storage.status().store_problem
    more = broker.segments("orders-1", 2)
    await refused(said)
    assert files(tmp_path / "store") == []
    assert all(broker.is_whole(path) for path in more)


async def test_an_accepted_store_that_is_emptied_is_refused_again(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    await archived(settings)
    unmount(tmp_path / "store")
    said = accepting(settings, proposed(await refused(settings)))
    await archived(said)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").mkdir()
    await refused(said)
    assert files(tmp_path / "store") == []


@pytest.mark.long
@pytest.mark.parametrize("kind", ["empty", "foreign"])
async def test_a_rebuild_confirms_no_store(broker: Broker, settings: Settings, tmp_path: Path, kind: str) -> None:
    broker.segments("orders-0", 2)
    copying = settings.model_copy(update={"archive_mode": "copy"})
    await archived(copying)
    forget_id(settings)
    unmount(tmp_path / "store")
    if kind == "foreign":
        (tmp_path / "other").mkdir()
        stranger = Broker(tmp_path / "other")
        stranger.segments("theirs-0", 2)
        await archived(directory_settings(stranger, tmp_path / "store"))
        (tmp_path / "store" / STORE).unlink()
    words = await refused(copying)
    for verb in ("rebuild", "restore"):
        said = command(copying, verb, *(["*"] if verb == "restore" else []))
        assert (said.returncode, "Traceback" in said.stderr) == (1, False)
    assert proposed(await refused(copying)) == proposed(words)


async def test_a_restore_reads_an_archive_without_an_id_and_does_not_confirm_it(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    closed = broker.segments("orders-0", 2)
    await archived(settings)
    (tmp_path / "store" / STORE).unlink()
    shutil.rmtree(settings.state_dir)
    await refused(settings)
    assert command(settings, "restore", closed[0]).returncode == 0
    assert broker.is_whole(closed[0])
    await refused(settings)


async def test_an_id_that_cannot_be_read_is_written_anew_when_that_is_accepted(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    await archived(settings)
    (tmp_path / "store" / STORE).write_bytes(b"")
    accepted = proposed(await refused(settings))
    assert command(settings, "run", "--once", "--accept-store", accepted).returncode == 0
    assert id_of(settings) == accepted
    assert command(settings, "run", "--once").returncode == 0


async def test_who_was_refused_a_prefix_may_take_one_of_its_own(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    async with TieredStorage.open(settings) as first:
        broker.segments("orders-0", 1)
        await first.run_cycle()
        (tmp_path / "data2").mkdir()
        second = Broker(tmp_path / "data2")
        second.segments("x-0", 1)
        async with TieredStorage.open(directory_settings(second, tmp_path / "store")) as other:
            with pytest.raises(HeldElsewhere):
                await other.run_cycle()
    await archived(directory_settings(second, tmp_path / "own"))


async def test_an_upgrade_beside_segments_that_are_known_to_be_lost_is_no_other_store(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("aaa-0", 17)
    broker.segments("orders-0", 2)
    await archived(settings)
    shutil.rmtree(tmp_path / "store" / "aaa-0")
    assert command(settings, "rebuild").returncode == 1
    (tmp_path / "store" / STORE).unlink()
    forget_id(settings)
    await archived(settings)


async def test_a_full_state_disk_ends_no_look_at_the_store(broker: Broker, settings: Settings) -> None:
    """It is asked every 15 seconds, by nobody who would catch it."""
    async with TieredStorage.open(settings) as storage:
        assert storage._journal is not None

        async def full(name: str) -> str | None:
            raise CatalogError(f"the state directory is full, {name} cannot be read")

        storage._journal.get_meta = full  # type: ignore[method-assign]  # the database's own failure, in its place
        await storage.check_store()
        del storage._journal.get_meta


async def test_who_only_observes_writes_nothing_and_needs_no_right_to(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    broker.segments("orders-0", 1)
    async with TieredStorage.open(settings.model_copy(update={"enabled": False})) as storage:
        await storage.run_cycle()
        await storage.check_store()
        assert storage.status().store_reachable
    assert list((tmp_path / "store").iterdir()) == []


async def test_stale_uploads_of_another_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = DirectoryStore(tmp_path / "store")
    await store.recognise(STORE, lambda _: True)
    unmount(tmp_path / "store")
    (tmp_path / "store" / ".takhin-tmp").mkdir()
    (tmp_path / "store" / ".takhin-tmp" / "theirs").write_bytes(b"x")
    with pytest.raises(StoreChanged):
        await store.remove_stale_uploads(-1)
    assert (tmp_path / "store" / ".takhin-tmp" / "theirs").exists()


@pytest.mark.parametrize("enabled", [False, True])
async def test_a_store_that_is_mounted_again_is_ready_again(
    broker: Broker, settings: Settings, tmp_path: Path, enabled: bool
) -> None:
    """With another inode, as a mount may have, and the same ID."""
    broker.segments("orders-0", 1)
    await archived(settings)
    async with TieredStorage.open(settings.model_copy(update={"enabled": enabled})) as storage:
        await storage.check_store()
        assert storage.status().store_reachable
        shutil.copytree(tmp_path / "store", tmp_path / "again")
        unmount(tmp_path / "store")
        await storage.check_store()
        assert not storage.status().store_reachable
        (tmp_path / "store").rmdir()
        (tmp_path / "again").rename(tmp_path / "store")
        await storage.check_store()
        assert storage.status().store_reachable


@pytest.mark.parametrize(
    "said",
    [
        ["--accept-store"],
        ["--accept-store", ""],
        ["--accept-store", "x", "--accept-store", "y"],
        ["--accept-store=é[bold]"],
        ["--accept-clock", "--accept-clock"],
    ],
)
def test_words_of_the_command_line_end_in_no_traceback(broker: Broker, settings: Settings, said: list[str]) -> None:
    broker.segments("orders-0", 1)
    ended = command(settings, "run", "--once", *said)
    assert "Traceback" not in ended.stderr + ended.stdout


def set_clock(storage: TieredStorage, ahead: float) -> None:
    parts(storage).clock.wall = lambda: time.time() + ahead


def start_with(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """The next storages are opened with a clock that is wrong from the start."""
    monkeypatch.setattr(assembly, "Clock", lambda: Clock(lambda: time.time() + ahead))


async def test_a_store_that_told_the_time_is_not_forgotten_when_it_does_not(
    broker: Broker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = store_settings(broker, bucket, retention_hours=720)
    broker.segments("orders-0", 2)
    await archived(settings)
    shutil.rmtree(settings.state_dir)
    start_with(monkeypatch, 400 * DAY)
    async with TieredStorage.open(settings) as storage:
        assert (await storage.run_cycle()).expired == 0
        assert "ahead of the store's" in storage.status().clock.problem
        assert storage.status().clock.ahead_seconds == pytest.approx(400 * DAY, abs=3600)

        async def down() -> None:
            raise StoreUnavailable("503")

        store = parts(storage).guards.clock._store
        assert store is not None
        store.now = down  # type: ignore[method-assign]  # this one question fails
        assert (await storage.run_cycle()).expired == 0
        await storage.plan()
        assert (await storage.run_cycle()).expired == 0


async def test_a_jump_after_the_look_is_a_jump(broker: Broker, settings: Settings) -> None:
    keeping = settings.model_copy(update={"retention_hours": (("*", 720.0),)})
    broker.segments("orders-0", 2)
    await archived(keeping)
    async with TieredStorage.open(keeping) as storage:
        real = parts(storage).broker.ask

        async def ask() -> None:
            set_clock(storage, 400 * DAY)
            await real()

        parts(storage).broker.ask = ask  # type: ignore[method-assign]  # the clock jumps while the broker is asked
        assert (await storage.run_cycle()).expired == 0


async def test_a_jump_while_superseded_generations_are_looked_through(broker: Broker, settings: Settings) -> None:
    copying = settings.model_copy(update={"archive_mode": "copy"})
    async with TieredStorage.open(copying) as storage:
        (path,) = broker.segments("orders-0", 1)
        await storage.run_cycle()
        broker.overwrite(path, b"x" * 100)
        for _ in range(2):
            await storage.run_cycle()
        found = await storage.reconcile()
        assert found.rewritten
        await storage.look_at_clock()
        set_clock(storage, 400 * DAY)
        assert await parts(storage).superseded.remove(await storage.prepare(), found.rewritten, 48 * 3600) == 0


async def test_what_is_archived_or_restored_while_the_clock_is_behind_is_not_old_when_it_is_right(
    broker: Broker, settings: Settings
) -> None:
    """A segment that Kafka's cleaner merged has the time 0: its age is counted from when it was archived."""
    keeping = settings.model_copy(update={"retention_hours": (("*", 720.0),)})
    merged, other = broker.segments("orders-0", 2)
    os.utime(broker.root / merged, (0, 0))
    await archived(settings.model_copy(update={"enabled": False}))
    async with TieredStorage.open(keeping) as storage:
        await storage.run_cycle()
        await storage.restore_segment(other)
        set_clock(storage, -400 * DAY)
        await storage.look_at_clock()
        assert "back" in storage.status().clock.problem or "behind" in storage.status().clock.problem
        await storage.restore_segment(merged)
        set_clock(storage, 0)
        await storage.run_cycle()
        assert storage.status().clock.problem == ""
        assert broker.is_whole(merged)
        assert storage.stats().archived_segments == 0


async def test_a_confirmed_clock_is_confirmed_once(broker: Broker, settings: Settings) -> None:
    keeping = settings.model_copy(update={"retention_hours": (("*", 720.0),)})
    broker.segments("orders-0", 2)
    await archived(keeping)
    async with TieredStorage.open(accepting(keeping, clock=True)) as storage:
        await storage.run_cycle()
        set_clock(storage, 400 * DAY)
        assert (await storage.run_cycle()).expired == 0


async def test_an_s3_server_on_this_machine_is_no_other_clock(broker: Broker, bucket: Bucket) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        store = parts(storage).guards.clock._store
        assert store is not None
        told = await store.now()
        assert told is not None
        assert not told.is_independent
        assert abs(told.seconds - time.time()) < 60


async def test_two_cycles_at_once_give_a_store_one_id(broker: Broker, settings: Settings) -> None:
    broker.segments("orders-0", 1)
    async with TieredStorage.open(settings) as storage:
        await asyncio.gather(storage.check_store(), storage.run_cycle(), storage.check_store(), storage.prepare())
        with_problem = storage.status().store_problem
        assert with_problem == ""
    before = id_of(settings)
    await archived(settings)
    assert id_of(settings) == before
