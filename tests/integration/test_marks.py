"""What is known to be wrong with a segment: damage in its log, the last failure, a quarantine. Each has its own end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from takhin_tiered import ObjectCorrupt, SegmentActive, SegmentRefused, Settings, TieredStorage
from tests.support import HOUR, Broker, command, directory_settings


def damage(broker: Broker, path: str) -> None:
    """Flip a bit within a batch; the file is as old as before."""
    content = bytearray(broker.files[path])
    content[len(content) // 2] ^= 1
    broker.files[path] = bytes(content)
    (broker.root / path).write_bytes(content)
    os.utime(broker.root / path, (time.time() - 300 * HOUR,) * 2)


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


def listed(settings: Settings) -> dict[str, dict[str, object]]:
    ended = command(settings, "ls", "--problem", "--json")
    assert ended.returncode == 0, ended.stderr
    return {segment["segment_path"]: segment for segment in json.loads(ended.stdout)}


@pytest.mark.long
async def test_a_damaged_log_keeps_its_mark_through_restore_and_lease(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    bad, good = broker.segments("orders-0", 2)
    damage(broker, bad)

    def check() -> None:
        found = listed(settings)
        assert list(found) == [bad]
        assert "fails its CRC" in str(found[bad]["damage"])
        assert (found[bad]["last_failure"], found[bad]["quarantine"]) == ("", "")
        status = json.loads(command(settings, "status", "--json").stdout)
        assert (status["damaged_segments"], status["quarantined_segments"]) == (1, 0)

    async with TieredStorage.open(settings) as storage:
        assert (await storage.run_cycle()).failures == []
        assert broker.on_disk(bad) == []
        check()
        info = await storage.restore_segment(bad, lease=0)
        assert broker.is_whole(bad)
        assert "fails its CRC" in info.damage
        # Its lease is over: it goes by a proof made anew.
        assert (await storage.run_cycle()).evicted == 1
        assert broker.on_disk(bad) == []
        assert "fails its CRC" in storage.segment(bad).damage
        assert storage.status().damaged_segments == 1
        assert storage.segment(good).damage == ""
    check()

    async with TieredStorage.open(settings) as storage:
        await storage.rebuild()
    check()
    for file in settings.state_dir.glob("catalog.db*"):
        file.unlink()
    assert command(settings, "rebuild").returncode == 0
    check()


async def test_a_refused_log_is_damaged_and_failed_and_a_sound_one_in_its_place_is_neither(
    broker: Broker, tmp_path: Path
) -> None:
    settings = directory_settings(broker, tmp_path / "store", archive_corrupt="refuse")
    (path,) = broker.segments("orders-0", 1)
    whole = broker.files[path]
    damage(broker, path)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        found = storage.segment(path)
        assert found.damage.endswith("fails its CRC")
        assert "is damaged" in found.last_failure
        assert (found.in_archive, found.archive_only, found.is_archived) == (False, False, False)
        broker.overwrite(path, whole)
        await storage.plan()
        assert storage.segment(path).damage == ""
        await storage.archive_segment(path)
        found = storage.segment(path)
        assert (found.damage, found.last_failure, found.quarantine, found.problem) == ("", "", "", "")
        assert (found.in_archive, found.archive_only, found.is_archived) == (True, True, True)


async def test_the_last_whole_copy_of_a_quarantined_segment_stays_on_the_disk(
    broker: Broker, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, above = broker.segments("orders-0", 2)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        for each in (path, above):
            await storage.restore_segment(each, lease=0)
        stored = tmp_path / "store" / path
        sound = stored.read_bytes()
        stored.write_bytes(bytes(len(sound)))
        with monkeypatch.context() as patch:
            # The store takes nothing now, so that the scrub cannot heal.
            patch.setattr("takhin_tiered.engine.scrub.Scrubber._heal", _heals_nothing)
            assert not (await storage.scrub_segment(path)).healed
        # As if a store's own word vouched for bytes that it does not give.
        stored.write_bytes(sound)

        found = storage.segment(path)
        assert (found.reason_code, found.in_archive, found.archive_only) == ("quarantined", False, False)
        assert path in found.quarantine
        assert (await storage.run_cycle()).failures == []
        assert broker.is_whole(path)
        assert broker.on_disk(above) == []
        with pytest.raises(SegmentRefused, match="quarantined"):
            await storage.archive_segment(path)
        assert broker.is_whole(path)
        assert (await storage.scrub_segment(path)).problem == ""
        assert storage.segment(path).quarantine == ""
        await storage.run_cycle()
        assert broker.on_disk(path) == []


async def _heals_nothing(*_: object) -> bool:
    return False


async def test_a_failure_by_hand_is_remembered_and_a_refusal_is_not(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    path, active = broker.segment("orders-0"), broker.segment("orders-0")
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(SegmentActive):
            await storage.archive_segment(active)
        assert storage.segment(active).problem == ""
        await storage.archive_segment(path)
        stored = tmp_path / "store" / path
        sound = stored.read_bytes()
        stored.write_bytes(bytes(len(sound)))
        with pytest.raises(ObjectCorrupt):
            await storage.restore_segment(path)
        found = storage.segment(path)
        assert (path in found.last_failure, found.damage, found.quarantine) == (True, "", "")
        stored.write_bytes(sound)
        assert (await storage.restore_segment(path)).last_failure == ""
