"""``rekey``: an archive that is read with the new key alone afterwards, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from takhin_tiered import ConfigError, NoKey, Settings, TieredStorage, points
from takhin_tiered.codec.keys import KeyRing
from tests.faults.truth import Folder
from tests.integration.test_encoded import Place, cycle, new_key, restore
from tests.support import Broker, command, daemon, directory_settings, environment, parts

LAUNCHER = Path(__file__).resolve().parents[1] / "faults" / "kill_launcher.py"


@pytest.fixture
def folder(broker: Broker, tmp_path: Path) -> Place:
    root = tmp_path / "store"
    return Place(broker, Folder(root), tmp_path, lambda **changes: directory_settings(broker, root, **changes))


def archive_with(place: Place, name: str) -> list[str]:
    place.write_keys(name)
    return place.broker.segments("orders-0", 3, size=20_000)


def with_new_key(place: Place) -> Settings:
    place.keys["second"] = new_key()
    place.write_keys("second", "first")
    return place.settings("both")


def key_ids(place: Place) -> list[str]:
    keys = [key for key in list(place.store.keys()) if key.endswith(".manifest.json")]
    manifests = [json.loads(place.store.read(key)) for key in keys]
    return [file["encryption"]["key_id"] for manifest in manifests for file in manifest["files"].values()]


async def rekey(settings: Settings) -> tuple[int, int, int, int]:
    async with TieredStorage.open(settings) as storage:
        found = await storage.rekey()
        return found.rewrapped, found.current, found.plain, len(found.failures)


async def test_after_it_the_new_key_is_enough(folder: Place) -> None:
    closed = archive_with(folder, "first")
    await cycle(folder.settings("both"))
    before = {path: folder.store.read(path) for path in closed}
    settings = with_new_key(folder)
    assert await rekey(settings) == (3, 0, 0, 0)
    assert await rekey(settings) == (0, 3, 0, 0)
    folder.write_keys("second")
    assert set(key_ids(folder)) == {"second"}
    # No object is touched.
    assert {path: folder.store.read(path) for path in closed} == before
    await restore(settings, *closed)
    assert all((folder.broker.root / path).read_bytes() == folder.broker.files[path] for path in closed)


async def test_superseded_generations_get_it_too(folder: Place) -> None:
    closed = archive_with(folder, "first")
    await cycle(folder.settings("both"))
    await restore(folder.settings("both"), closed[0])
    changed = bytearray(folder.broker.files[closed[0]])
    changed[30] ^= 1
    folder.broker.overwrite(closed[0], bytes(changed))
    async with TieredStorage.open(folder.settings("both", archive_corrupt="archive")) as storage:
        await storage.archive_segment(closed[0])
    assert await rekey(with_new_key(folder)) == (4, 0, 0, 0)
    assert set(key_ids(folder)) == {"second"}


async def test_what_is_not_encrypted_stays_as_it_is(folder: Place) -> None:
    closed = archive_with(folder, "first")
    await cycle(folder.settings("zstd"))
    before = [folder.manifest(path) for path in closed]
    assert await rekey(with_new_key(folder)) == (0, 0, 3, 0)
    assert [folder.manifest(path) for path in closed] == before


async def test_a_key_that_is_missing_is_told_for_each_segment_and_the_others_go_on(folder: Place) -> None:
    closed = archive_with(folder, "first")
    await cycle(folder.settings("both"))
    with_new_key(folder)
    more = folder.broker.segments("clicks-0", 2, size=20_000)
    await cycle(folder.settings("both"))
    folder.keys["third"] = new_key()
    folder.write_keys("third", "second")
    done = command(folder.settings("both"), "rekey")
    assert done.returncode == 1
    assert all(path in done.stderr for path in closed)
    assert "'first'" in done.stderr
    assert f"{len(more)} manifests rewrapped" in done.stdout
    with pytest.raises(NoKey):
        await restore(folder.settings("both"), closed[0])


async def test_without_a_key_it_is_refused(folder: Place) -> None:
    async with TieredStorage.open(folder.settings("plain")) as storage:
        with pytest.raises(ConfigError, match=r"encryption\.key\.file is not set"):
            await storage.rekey()


@pytest.mark.long
async def test_a_daemon_does_it_and_reads_with_the_new_key(folder: Place, tmp_path: Path) -> None:
    closed = archive_with(folder, "first")
    await cycle(folder.settings("both"))
    settings = with_new_key(folder)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_serving()
        done = command(settings, "rekey")
        assert (done.returncode, done.stderr) == (0, "")
        assert "3 manifests rewrapped" in done.stdout
        folder.write_keys("second")
        running.process.send_signal(signal.SIGHUP)
        done = command(settings, "restore", closed[0])
        assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("point", ["rekey.before.manifest", "rekey.manifest.stored"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_killed_on_the_way_every_segment_has_one_of_the_keys(folder: Place, point: str, nth: int) -> None:
    closed = archive_with(folder, "first")
    await cycle(folder.settings("both"))
    settings = with_new_key(folder)
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "rekey"],
        env=environment(settings) | {"TORTURE_POINT": point, "TORTURE_NTH": str(nth), "PATH": os.environ["PATH"]},
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(key_ids(folder)) <= {"first", "second"}
    await restore(settings, closed[0])
    rewrapped, current, _, failed = await rekey(settings)
    assert (rewrapped + current, failed) == (3, 0)
    folder.write_keys("second")
    await restore(settings, *closed)
    assert all((folder.broker.root / path).read_bytes() == folder.broker.files[path] for path in closed)


@pytest.mark.parametrize("is_second_generation", [False, True])
async def test_an_archive_on_its_way_gets_the_new_key_too(
    folder: Place, monkeypatch: pytest.MonkeyPatch, is_second_generation: bool
) -> None:
    """It began with the key of before: its manifests come when the others were rewrapped, if nobody waits for it."""
    (path,) = archive_with(folder, "first")[:1]
    settings = folder.settings("both", archive_corrupt="archive")
    if is_second_generation:
        async with TieredStorage.open(settings) as storage:
            await storage.archive_segment(path)
            await storage.restore_segment(path)
        changed = bytearray(folder.broker.files[path])
        changed[30] ^= 1
        folder.broker.overwrite(path, bytes(changed))
    encoded, go_on = threading.Event(), threading.Event()

    def hook(point: str) -> None:
        if point == "archive.encoded":
            encoded.set()
            assert go_on.wait(30)

    async with TieredStorage.open(settings) as storage:
        monkeypatch.setattr(points, "hook", hook)
        archive = asyncio.create_task(storage.archive_segment(path))
        assert await asyncio.to_thread(encoded.wait, 30)
        with_new_key(folder)
        storage.apply(settings, KeyRing.load(str(folder.key_file)))
        rekeyed = asyncio.create_task(storage.rekey())
        # It ends now only if it does not wait.
        await asyncio.wait([rekeyed], timeout=1.0)
        go_on.set()
        await archive
        await rekeyed
    assert len(key_ids(folder)) >= 1 + is_second_generation
    assert set(key_ids(folder)) == {"second"}


async def test_a_generation_that_is_superseded_meanwhile_gets_it_too(folder: Place) -> None:
    """Its manifest gets its other name when the listing has passed that by."""
    path = archive_with(folder, "first")[0]
    settings = folder.settings("both", archive_corrupt="archive")
    async with TieredStorage.open(settings) as storage:
        await storage.archive_segment(path)
        await storage.restore_segment(path)
    changed = bytearray(folder.broker.files[path])
    changed[30] ^= 1
    folder.broker.overwrite(path, bytes(changed))
    with_new_key(folder)
    async with TieredStorage.open(settings) as storage:
        rekeyer = parts(storage).rekeyer

        class Listed:
            """Its listing is of before the archive."""

            def __getattr__(self, name: str) -> Any:
                return getattr(rekeyer.store, name)

            async def list(self) -> AsyncIterator[Any]:
                found = [info async for info in rekeyer.store.list()]
                await storage.archive_segment(path)
                for info in found:
                    yield info

        await replace(rekeyer, store=cast("Any", Listed())).rekey(await storage.prepare())
    assert len(key_ids(folder)) > len(folder.manifest(path)["files"])
    assert set(key_ids(folder)) == {"second"}


async def test_another_key_under_the_current_id_is_no_success(folder: Place) -> None:
    archive_with(folder, "first")
    await cycle(folder.settings("both"))
    folder.keys["first"] = new_key()
    folder.write_keys("first")
    assert await rekey(folder.settings("both")) == (0, 0, 0, 3)
