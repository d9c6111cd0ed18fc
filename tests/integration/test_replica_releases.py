"""Nobody relies on an adoption record whose removal may still arrive, whichever process sent it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from takhin_tiered import TieredStorage, machine
from takhin_tiered.errors import StoreUnavailable
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import DirectoryStore
from takhin_tiered.vault import claim
from takhin_tiered.vault.releases import LATE_AFTER, Releases
from tests.integration.test_ownership import Words
from tests.replicas import Shared, replicas_of, settings_of
from tests.support import Broker

KEY = "a.adopted.b.json"


class Killed(BaseException):
    """The process is no more."""


class Time:
    """Of the machine, which goes on by what a test adds."""

    def __init__(self) -> None:
        self.added, self._uptime = 0.0, machine.uptime

    def __call__(self) -> float:
        return self._uptime() + self.added


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(machine, "uptime", found)
    monkeypatch.setattr(claim, "SETTLES_IN", 0.01)
    return found


class CountedWords(Words):
    writes = 0

    async def set_meta(self, name: str, value: str) -> None:
        # As a database does, it lets others go on.
        await asyncio.sleep(0)
        self.writes += 1
        await super().set_meta(name, value)


async def started(words: Words) -> Releases:
    found = Releases(words)
    await found.load()
    return found


async def test_the_removal_of_a_killed_process_arrives_late(
    broker: Broker, tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process of the same state directory keeps its files until nothing can arrive any more."""
    (path,) = broker.segments("orders-0", 1)
    identity, shared = SegmentId.parse(path), Shared(tmp_path / "store")
    first, second = replicas_of(broker, 2)
    async with TieredStorage.open(settings_of(second, shared.root)) as storage:
        await storage.run_cycle()
    sent: list[str] = []
    arrive = DirectoryStore.delete

    async def delete(self: DirectoryStore, keys: Sequence[str]) -> None:
        if any(".adopted." in key for key in keys):
            sent.extend(keys)
            raise Killed
        await arrive(self, keys)

    with suppress(Killed):
        async with TieredStorage.open(settings_of(first, shared.root)) as storage:
            owned = await storage.prepare()
            await owned.hold(identity)
            with monkeypatch.context() as patch:
                patch.setattr(DirectoryStore, "delete", delete)
                await owned.release(identity)
    assert len(shared.adopters(path)) == 2
    async with TieredStorage.open(settings_of(first, shared.root)) as storage:
        report = await storage.run_cycle()
        assert [(failed, "may still arrive" in why) for failed, why in report.failures] == [(path, True)]
        assert first.is_whole(path)
    await arrive(DirectoryStore(shared.root), sent)
    # Nobody but the other replica relies on it now, and its retention ends.
    async with TieredStorage.open(settings_of(second, shared.root, retention_hours=1.0)) as storage:
        assert (await storage.run_cycle()).expired == 1
    assert shared.lost([first]) == []
    time.added += LATE_AFTER
    async with TieredStorage.open(settings_of(first, shared.root)) as storage:
        report = await storage.run_cycle()
        assert (report.failures, report.evicted) == ([], 1)
    assert len(shared.adopters(path)) == 1
    assert shared.lost([first]) == []


async def test_the_first_start_after_a_kill_begins_the_wait(time: Time) -> None:
    """The dead one may have sent it again until its end; starts that follow do not make the wait longer."""
    words = Words()
    dead = await started(words)
    journal = dict[str, str]()

    async with dead.sending(KEY):
        journal |= words
    words.update(journal)
    time.added += LATE_AFTER + 1
    first = await started(words)
    assert first.may_arrive(KEY)
    time.added += LATE_AFTER / 2
    second = await started(words)
    assert second.may_arrive(KEY)
    time.added += LATE_AFTER / 2
    assert not first.may_arrive(KEY)
    assert not second.may_arrive(KEY)
    assert not (await started(words)).may_arrive(KEY)


async def test_after_another_boot_the_wait_begins_anew(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words()
    with suppress(StoreUnavailable):
        async with (await started(words)).sending(KEY):
            raise StoreUnavailable("no answer", key=KEY)
    assert (await started(words)).may_arrive(KEY)
    time.added -= machine.uptime() - 1
    monkeypatch.setattr(machine, "boot_id", lambda: "another")
    after = await started(words)
    assert after.may_arrive(KEY)
    time.added += LATE_AFTER
    assert not after.may_arrive(KEY)


async def test_an_answer_tells_nothing_of_an_earlier_removal(time: Time) -> None:
    words = Words()
    releases = await started(words)
    with suppress(StoreUnavailable):
        async with releases.sending(KEY):
            raise StoreUnavailable("no answer", key=KEY)
    async with releases.sending(KEY):
        pass
    assert releases.may_arrive(KEY)
    assert (await started(words)).may_arrive(KEY)
    time.added += LATE_AFTER
    assert not releases.may_arrive(KEY)


async def test_many_at_once_are_few_writes() -> None:
    words = CountedWords()
    releases, together = await started(words), asyncio.Barrier(100)

    async def send(number: int) -> None:
        async with releases.sending(f"{KEY}.{number}"):
            assert f"{KEY}.{number}" in json.loads(words["releases"])["until"]
            await together.wait()

    await asyncio.gather(*(send(number) for number in range(100)))
    assert json.loads(words["releases"])["until"] == {}
    assert words.writes <= 6
