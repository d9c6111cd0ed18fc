"""The history of a segment: every state of it, over restarts, with the correlation IDs of the log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest

from takhin_tiered import BucketMissing, SegmentNotFound, TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.catalog import events as stored_events
from tests.support import WARM, AtPoint, Broker, command, daemon, directory_settings


async def told(storage: TieredStorage, path: str) -> list[str]:
    return [event.event for event in await storage.history(path)]


async def test_a_life_from_the_disk_to_the_end_of_its_retention(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broker.segments("orders-0", 1)[0]
    settings = directory_settings(broker, tmp_path / "store")
    async with TieredStorage.open(settings) as storage:
        assert await told(storage, path) == []
        await storage.run_cycle()
        await storage.restore_segment(path, by="alice")
        await storage.restore_segment(path, lease=0.0)
        await storage.run_cycle()
        found = await storage.history(path)
    expected = ["copied", "evicted", "restored", "leased", "evicted"]
    assert [event.event for event in found][:5] == expected
    assert "for alice" in found[2].detail
    assert [event.verb for event in found][:3] == ["archive", "evict", "restore"]
    # The log has more of each by this ID.
    log = capsys.readouterr().out
    assert all(f"correlation_id={event.correlation_id}" in log for event in found[:3])
    assert found[0].correlation_id == found[1].correlation_id != found[2].correlation_id
    expiring = directory_settings(broker, tmp_path / "store", retention_hours=1)
    async with TieredStorage.open(expiring) as storage:
        assert await storage.history(path) == found
        await storage.run_cycle()
        assert [(event.event, event.verb) for event in await storage.history(path)][len(found) :] == [
            ("removed", "expire")
        ]
        with pytest.raises(SegmentNotFound):
            storage.segment(path)
        with pytest.raises(SegmentNotFound):
            await storage.history("orders-0/00000000000000099999.log")


async def test_failures_quarantine_and_healing_are_in_it(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    store = tmp_path / "store"
    settings = directory_settings(broker, store, archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        log = next(store.rglob("00000000000000000000.log"))
        away = tmp_path / "away"
        shutil.move(log, away)
        assert (await storage.scrub_segment(path)).healed
        assert await told(storage, path) == ["copied", "quarantined", "copied", "healed"]
    async with TieredStorage.open(directory_settings(broker, store, archive_mode="move")) as storage:
        await storage.run_cycle()
        shutil.move(store, tmp_path / "gone")
        with pytest.raises(BucketMissing):
            await storage.restore_segment(path)
        assert (await told(storage, path))[-2:] == ["evicted", "failed"]


async def test_of_many_events_the_latest_are_kept(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_events, "MOST", 3)
    closed = broker.segments("orders-0", 3)
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        await storage.run_cycle()
        kept = [event for path in closed for event in await storage.history(path)]
        assert len(kept) == 3


async def test_the_api_tells_it(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        await storage.run_cycle()
        transport = httpx.ASGITransport(make_app(storage, dict, Tokens(storage.settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for written in (path, path.replace("/", "%2F")):
                found = (await client.get(f"/api/v1/tiered/segments/{written}/history")).json()["events"]
                assert [event["event"] for event in found] == ["copied", "evicted"]
            assert (await client.get("/api/v1/tiered/segments/orders-0/history")).status_code == 400


@pytest.mark.long
def test_the_command_tells_the_same_with_and_without_a_daemon(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    settings = directory_settings(broker, tmp_path / "store")
    assert command(settings, "run", "--once").returncode == 0
    alone = json.loads(command(settings, "history", path, "--json").stdout)
    assert [event["event"] for event in alone["events"]] == ["copied", "evicted"]
    with daemon(settings, tmp_path / "daemon.log") as running:
        running.wait_serving()
        assert json.loads(command(settings, "history", path, "--json").stdout) == alone
        table = command(settings, "history", path).stdout
    assert alone["events"][0]["correlation_id"] in table
    refused = command(settings, "history", "orders-7/00000000000000000000.log")
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert command(settings, "history", "nonsense").returncode == 1


async def test_what_a_scan_sees_is_told(broker: Broker, tmp_path: Path) -> None:
    """Other bytes in the place of what was archived, damage in them, and files that are gone too early."""
    changed, early = broker.segments("orders-0", 2)[0], broker.segments("warm-0", 1, age_hours=WARM)[0]
    settings = directory_settings(broker, tmp_path / "store", archive_mode="copy")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        assert await told(storage, changed) == ["copied"]
        data = bytearray(broker.files[changed])
        data[-1] ^= 1
        broker.overwrite(changed, bytes(data))
        (broker.root / early).unlink()
        for _ in range(3):
            await storage.run_cycle()
        assert await told(storage, changed) == ["copied", "changed", "copied", "damaged"]
        found = await storage.history(changed)
        assert found[2].detail.startswith("generation 2,")
        assert "CRC" in found[3].detail
        assert [(event.event, event.verb) for event in await storage.history(early)] == [("forgotten", "cycle")]


async def test_a_change_and_its_event_are_one_transaction(
    broker: Broker, tmp_path: Path, at_point: AtPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broker.segments("orders-0", 1)[0]
    settings = directory_settings(broker, tmp_path / "store")

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    async def nothing() -> None:
        """A process that was killed writes nothing more."""

    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        await storage.restore_segment(path)
        hit = at_point("catalog.writing", kill)
        with pytest.raises(Killed):
            await storage.restore_segment(path, by="alice")
        assert hit
        monkeypatch.setattr(storage._catalog, "flush", nothing)
    async with TieredStorage.open(settings) as storage:
        # Of the lease that was not committed there is neither.
        assert storage.segment(path).lease_by == ""
        assert await told(storage, path) == ["copied", "evicted", "restored"]
