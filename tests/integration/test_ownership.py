"""One writer for a prefix, whatever the clocks say and whoever has a copy of its state."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from takhin_tiered import HeldElsewhere, TieredStorage, machine
from takhin_tiered.errors import ClaimGone, OwnerSilent
from takhin_tiered.segments.owner import Party
from takhin_tiered.store import DirectoryStore, ObjectStore
from takhin_tiered.vault import challenging, claim
from takhin_tiered.vault.claim import Claim, describe_self
from tests.support import Broker, Bucket, command, daemon, directory_settings, store_settings, wait_until

OWNER = "takhin-tiered.owner.json"


class Words(dict[str, str]):
    """A journal's words, kept in memory: they outlive a claim as a journal does a process."""

    async def get_meta(self, name: str) -> str | None:
        return self.get(name)

    async def set_meta(self, name: str, value: str) -> None:
        self[name] = value


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of minutes."""
    monkeypatch.setattr(claim, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(challenging, "SILENT_AFTER", 1.0)
    monkeypatch.setattr(claim, "SETTLES_IN", 0.1)
    monkeypatch.setattr(challenging, "LAST_ROUND", 0.5)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    (tmp_path / "store").mkdir()
    return DirectoryStore(tmp_path / "store")


def party(name: str) -> Party:
    """A process of another machine, by its name: nothing of ours can tell whether it lives."""
    me = describe_self(name, f"/{name}", [(1, 2)])
    return replace(me, machine=f"{name}/pid", boot=name)


def claim_of(store: ObjectStore, me: Party, words: Words | None = None) -> Claim:
    """A process of its own: each start has a nonce of its own."""
    me = replace(me, nonce=uuid4().hex)
    return Claim(store, Words() if words is None else words, me, asyncio.Event())


@asynccontextmanager
async def owned(store: ObjectStore, me: Party, words: Words | None = None) -> AsyncIterator[Claim]:
    """An owner that lives, and answers."""
    mine = claim_of(store, me, words)
    await mine.take()
    async with watched(mine):
        yield mine


@asynccontextmanager
async def watched(mine: Claim) -> AsyncIterator[asyncio.Task[None]]:
    watch = asyncio.create_task(mine.watch())
    try:
        yield watch
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def challenged(challenger: Claim) -> Exception | None:
    """How it ends to try for the prefix again and again; None if it was taken."""
    while True:
        try:
            await challenger.take()
        except OwnerSilent:
            await asyncio.sleep(0.05)
        except HeldElsewhere as error:
            return error
        else:
            return None


async def test_a_living_owner_is_not_taken_over_whatever_the_clock_says(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owned(store, party("a")) as first:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        error = await challenged(claim_of(store, party("b")))
        assert isinstance(error, HeldElsewhere)
        assert "for /a" in str(error)
        await first.require(fresh=True)


async def test_a_silent_owner_is_taken_over_after_its_time_and_then_writes_nothing_more(store: ObjectStore) -> None:
    silent = claim_of(store, party("a"))
    await silent.take()
    started = machine.uptime()
    assert await challenged(claim_of(store, party("b"))) is None
    assert machine.uptime() - started >= challenging.SILENT_AFTER
    with pytest.raises(HeldElsewhere, match=r"taken over by .* for /b"):
        await silent.require(fresh=True)
    with pytest.raises(HeldElsewhere):
        await silent.require(fresh=False)
    with pytest.raises(HeldElsewhere):
        await silent.take()


async def test_a_challenge_goes_on_in_the_next_process_of_the_challenger(store: ObjectStore) -> None:
    """A command that ends at once is started again later, by cron: the time between counts."""
    words = Words()
    await claim_of(store, party("a")).take()
    with pytest.raises(OwnerSilent) as first:
        await claim_of(store, party("b"), words).take()
    assert 0 < first.value.seconds <= challenging.SILENT_AFTER
    await asyncio.sleep(challenging.SILENT_AFTER)
    await claim_of(store, party("b"), words).take()


async def test_a_challenge_of_another_boot_begins_anew(store: ObjectStore) -> None:
    words = Words()
    await claim_of(store, party("a")).take()
    with pytest.raises(OwnerSilent):
        await claim_of(store, party("b"), words).take()
    await asyncio.sleep(challenging.SILENT_AFTER)
    with pytest.raises(OwnerSilent):
        await claim_of(store, replace(party("b"), boot="next"), words).take()


async def test_an_owner_that_restarts_is_alive(store: ObjectStore) -> None:
    words, mine = Words(), party("a")
    await claim_of(store, mine, words).take()
    challenger = claim_of(store, party("b"))
    with pytest.raises(OwnerSilent):
        await challenger.take()
    await claim_of(store, mine, words).take()
    assert isinstance(await challenged(challenger), HeldElsewhere)


async def test_the_owner_of_an_earlier_release_says_that_it_lives_by_its_renewals(store: ObjectStore) -> None:
    async def renew() -> None:
        record = {"id": "0" * 32, "host": "old", "pid": 1, "machine": "x/y", "data_dir": "/d"}
        at = time.time() + 30 * 86400
        while True:
            data = json.dumps({**record, "renewed_at": at}).encode()
            await challenging.put(store, OWNER, data, if_absent=False)
            await asyncio.sleep(0.2)
            at += 0.2

    renewing = asyncio.create_task(renew())
    await asyncio.sleep(0.1)
    assert "process 1 on old, for /d" in str(await challenged(claim_of(store, party("b"))))
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
    # Dead now: that its clock ran a month ahead locks nobody out.
    assert await challenged(claim_of(store, party("b"))) is None


async def test_a_copy_of_the_state_is_another_owner(store: ObjectStore) -> None:
    """A cloned machine has the same ID, and another boot, or other inodes on the same one."""
    mine = party("a")
    for clone in (replace(mine, boot="b", machine="b/pid"), replace(mine, directories=("1:3",), machine="b/pid")):
        async with owned(store, mine) as first:
            assert isinstance(await challenged(claim_of(store, clone)), HeldElsewhere)
            await first.require(fresh=True)
            await first.release()


async def test_the_same_directory_on_the_same_boot_is_taken_again_at_once(store: ObjectStore) -> None:
    """Its lock is ours, so whoever wrote the record is dead, in whichever container it was."""
    words, mine = Words(), party("a")
    await claim_of(store, mine, words).take()
    assert await claim_of(store, replace(mine, machine="a/other"), words).take()


async def test_two_challengers_of_a_dead_owner_end_with_one(store: ObjectStore) -> None:
    await claim_of(store, party("a")).take()
    claims = [claim_of(store, party(name)) for name in ("b", "c")]
    results = await asyncio.gather(*(challenged(each) for each in claims))
    assert [result is None for result in results].count(True) == 1
    owners = 0
    for each in claims:
        try:
            await each.require(fresh=True)
            owners += 1
        except (HeldElsewhere, ClaimGone):
            continue
    assert owners == 1


async def test_a_record_that_is_gone_stops_writes_until_it_is_claimed_anew(store: ObjectStore) -> None:
    words = Words()
    async with owned(store, party("a"), words) as first:
        await store.delete([OWNER])
        with pytest.raises(ClaimGone):
            await first.require(fresh=True)
        with pytest.raises(ClaimGone):
            await first.require(fresh=False)
        assert await first.take()
        await first.require(fresh=False)


async def test_whether_another_owner_was_there_meanwhile_is_known(store: ObjectStore) -> None:
    words = Words()
    first = claim_of(store, party("a"), words)
    assert not await first.take()
    await first.release()
    assert await first.take()
    await first.release()
    other = claim_of(store, party("b"))
    await other.take()
    await other.release()
    assert not await first.take()


async def test_a_record_that_cannot_be_read_is_challenged_like_any_other(store: ObjectStore) -> None:
    await challenging.put(store, OWNER, b"{", if_absent=False)
    started = machine.uptime()
    assert await challenged(claim_of(store, party("b"))) is None
    assert machine.uptime() - started >= challenging.SILENT_AFTER


async def test_an_idle_owner_only_reads(broker: Broker, bucket: Bucket) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    broker.segments("orders-0", 2)

    def versions() -> int:
        pages = bucket.client.get_paginator("list_object_versions").paginate(Bucket=bucket.name)
        return sum(len(page.get("Versions", ())) + len(page.get("DeleteMarkers", ())) for page in pages)

    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        before = versions()
        for _ in range(5):
            await asyncio.sleep(6 * claim.LOOK_EVERY)
            await storage.check_store()
            await storage.run_cycle()
        assert versions() == before


async def test_what_another_owner_archived_meanwhile_is_learned(broker: Broker, tmp_path: Path) -> None:
    """A copy of the state is behind: it must not take what it remembers for what is there."""
    closed = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store", state_path=tmp_path / "state")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    broker.segment("orders-0")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        assert storage.stats().archived_segments == 3
    other = Broker(tmp_path / "other")
    other.root.mkdir()
    async with TieredStorage.open(
        directory_settings(other, tmp_path / "store", state_path=tmp_path / "copy")
    ) as storage:
        await storage.run_cycle()
        assert storage.stats().archived_segments == 3
        assert storage.is_segment_archived(closed[0])


@pytest.mark.long
def test_a_clone_of_a_running_daemon_deletes_nothing(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store", archive_interval_minutes=0.01)
    with daemon(settings, tmp_path / "log") as first:
        wait_until(lambda: not any(broker.on_disk(path) for path in closed))
        first.stop()
    shutil.copytree(broker.root, tmp_path / "clone")
    shutil.copytree(settings.state_dir, tmp_path / "clone.takhin-tiered")
    copied = Broker(tmp_path / "clone", next_offset=dict(broker.next_offset))
    ours, theirs = broker.segments("orders-0", 1), copied.segments("orders-0", 1, size=9000)
    with daemon(settings, tmp_path / "log") as first:
        wait_until(lambda: not broker.on_disk(ours[0]))
        clone = command(directory_settings(copied, tmp_path / "store"), "run")
        assert clone.returncode == HeldElsewhere.exit_code
        assert f"process {first.process.pid}" in clone.stderr
        first.require_alive()
        assert copied.is_whole(theirs[0])
        for name in broker.triple(ours[0]):
            assert (tmp_path / "store" / name).read_bytes() == broker.files[name]
