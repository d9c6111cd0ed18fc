"""Ownership where the store, the machine or another process fails in the middle of it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import HeldElsewhere, TakhinError, TieredStorage
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.errors import ClaimGone, ObjectExists, ObjectMissing, OwnerSilent, StoreError, StoreUnavailable
from takhin_tiered.store import DirectoryStore
from takhin_tiered.vault import challenging, claim
from takhin_tiered.vault.identity import Identity
from takhin_tiered.vault.ownership import Owned, Ownership
from tests.integration.test_ownership import Words, challenged, claim_of, fast, party, watched
from tests.support import AtPoint, Broker, daemon, directory_settings, wait_until

OWNER, LAST = "takhin-tiered.owner.json", "takhin-tiered.last-owner.json"
CHALLENGE, ANSWER = "takhin-tiered.challenge.json", "takhin-tiered.answer.json"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


class Broken(DirectoryStore):
    """The first write of a key is answered with an error: before it is done, or ``after`` it."""

    def __init__(self, root: Path, key: str, error: StoreError, *, after: bool = False) -> None:
        super().__init__(root)
        self._key, self._error, self._after = key, error, after
        self.hits = 0

    async def put(self, key: str, *args: Any, **kwargs: Any) -> Any:
        breaks = key == self._key and not self.hits
        self.hits += breaks
        if breaks and not self._after:
            raise self._error
        found = await super().put(key, *args, **kwargs)
        if breaks:
            raise self._error
        return found


def ownership(store: DirectoryStore, data: Path) -> Ownership:
    words = Words()
    data.mkdir()
    return Ownership(store, Identity(store, words, Catalog(None), "", may_write=True), words, DataDirs.open([data]))


async def test_a_claim_that_breaks_off_after_its_record_is_taken_and_answered_for(root: Path, tmp_path: Path) -> None:
    mine = ownership(Broken(root, LAST, StoreUnavailable("503")), tmp_path / "data")
    with pytest.raises(StoreUnavailable):
        await mine.own()
    try:
        owned, known = await mine.own()
        assert known is Owned.ANEW
        _, known = await mine.own()
        assert known is Owned.ALREADY
        await owned.require()
        assert isinstance(await challenged(claim_of(DirectoryStore(root), party("b"))), HeldElsewhere)
    finally:
        await mine.close()
    with pytest.raises(ClaimGone):
        await owned.delete(["orders-0/00000000000000000000.log"])


async def test_a_record_that_was_stored_and_refused_at_the_retry_is_our_own(root: Path) -> None:
    words, mine = Words(), party("a")
    await claim_of(DirectoryStore(root), mine, words).take()
    store = Broken(root, OWNER, ObjectExists("412 at the retry"), after=True)
    (root / OWNER).unlink()
    await claim_of(store, mine, words).take()
    assert store.hits == 1
    # And where it takes the place of a dead one's, which is there at the first try.
    again = Broken(root, OWNER, ObjectExists("412 at the retry"), after=True)
    again.hits = -1
    await claim_of(again, mine, words).take()


async def test_an_outage_for_both_is_no_silence_of_the_owner(root: Path) -> None:
    """Whoever asks first when the store is back has to ask once more."""
    down = False

    class Outage(DirectoryStore):
        async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
            if down:
                raise StoreUnavailable("down")
            return await super().read(key, limit=limit)

    owner, challenger = claim_of(Outage(root), party("a")), claim_of(Outage(root), party("b"))
    await owner.take()
    with pytest.raises(OwnerSilent):
        await challenger.take()
    down = True
    async with watched(owner):
        await asyncio.sleep(challenging.SILENT_AFTER + 0.2)
        down = False
        with pytest.raises(HeldElsewhere):
            await challenger.take()


async def test_a_late_answer_overwrites_no_next_owner(root: Path) -> None:
    """The owner is paused between its look and its answer, and comes back when it was taken over."""
    gate, waiting = asyncio.Event(), asyncio.Event()

    class Paused(DirectoryStore):
        async def put(self, key: str, *args: Any, **kwargs: Any) -> Any:
            if key == ANSWER:
                waiting.set()
                await gate.wait()
            return await super().put(key, *args, **kwargs)

    old, new = claim_of(Paused(root), party("a")), claim_of(DirectoryStore(root), party("b"))
    await old.take()
    async with watched(old):
        assert await challenged(new) is None
        assert waiting.is_set()
        gate.set()
        await asyncio.sleep(4 * claim.LOOK_EVERY)
        await new.require(fresh=True)
        with pytest.raises(HeldElsewhere):
            await old.require(fresh=True)


@pytest.mark.parametrize("key", [CHALLENGE, ANSWER])
@pytest.mark.parametrize("data", [b"[" * 200_000, b"\xff", b"{}", b'{"pid": 1099511627776}'])
async def test_no_record_ends_the_watch(root: Path, key: str, data: bytes) -> None:
    store = DirectoryStore(root)
    mine = claim_of(store, party("a"))
    await mine.take()
    await challenging.put(store, key, data, if_absent=False)
    async with watched(mine) as watch:
        await asyncio.sleep(10 * claim.LOOK_EVERY)
        assert not watch.done()
        if key == ANSWER:
            assert isinstance(await challenged(claim_of(store, party("b"))), HeldElsewhere)


async def test_a_watch_that_ends_for_a_fault_of_ours_is_told(root: Path, tmp_path: Path) -> None:
    class Faulty(DirectoryStore):
        async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
            if key == CHALLENGE:
                raise ZeroDivisionError("a fault")
            return await super().read(key, limit=limit)

    mine = ownership(Faulty(root), tmp_path / "data")
    await mine.own()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(mine.wait_lost(), 10)
    await mine.close()
    assert not (root / OWNER).exists()


async def test_without_a_name_of_the_boot_a_command_by_cron_takes_over_in_the_end(root: Path) -> None:
    words, nameless = Words(), replace(party("a"), boot="", machine="", directories=())
    await claim_of(DirectoryStore(root), nameless, words).take()
    with pytest.raises(OwnerSilent):
        await claim_of(DirectoryStore(root), nameless, words).take()
    await asyncio.sleep(challenging.SILENT_AFTER)
    await claim_of(DirectoryStore(root), nameless, words).take()


async def test_a_record_that_is_not_to_be_read_yet_is_tried_again(root: Path) -> None:
    class Late(DirectoryStore):
        late = True

        async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
            if key == OWNER and self.late:
                self.late = False
                raise ObjectMissing("not yet", key=key)
            return await super().read(key, limit=limit)

    mine = claim_of(Late(root), party("a"))
    with pytest.raises(StoreUnavailable):
        await mine.take()
    await mine.take()
    await mine.require(fresh=True)


async def test_of_two_that_find_the_same_dead_process_one_removes_and_overwrites(root: Path) -> None:
    dead = replace(party("x"), machine="m/pid", pid=2**22 - 1, started=1)
    await claim_of(DirectoryStore(root), dead).take()
    arrived, gate = asyncio.Event(), asyncio.Event()

    class Slow(DirectoryStore):
        async def delete(self, keys: Any) -> None:
            arrived.set()
            await gate.wait()
            await super().delete(keys)

    first, second = (replace(party(name), machine="m/pid") for name in ("b", "c"))
    fast_one, slow_one = claim_of(DirectoryStore(root), first), claim_of(Slow(root), second)
    late = asyncio.create_task(slow_one.take())
    # Both have found the dead one's record by then.
    await arrived.wait()
    await fast_one.take()
    gate.set()
    await asyncio.gather(late, return_exceptions=True)
    owners = 0
    for each in (fast_one, slow_one):
        with suppress(HeldElsewhere, ClaimGone):
            await each.require(fresh=True)
            owners += 1
    assert owners == 1


async def test_keys_that_may_not_delete_own_challenge_and_take_over(root: Path) -> None:
    class NoDelete(DirectoryStore):
        async def delete(self, keys: Any) -> None:
            raise StoreUnavailable(f"no permission to delete {keys}")

    store, words, mine = NoDelete(root), Words(), party("a")
    first = claim_of(store, mine, words)
    await first.take()
    await first.release()
    await claim_of(store, mine, words).take()
    assert await challenged(claim_of(store, party("b"))) is None
    third = claim_of(store, party("c"))
    assert await challenged(third) is None
    async with watched(third):
        assert isinstance(await challenged(claim_of(store, party("d"))), HeldElsewhere)
        # The challenge that stands there answered is not taken for a new one by anybody.
        assert isinstance(await challenged(claim_of(store, party("e"))), HeldElsewhere)


async def test_nothing_is_unlinked_once_the_prefix_is_anothers(
    broker: Broker, tmp_path: Path, at_point: AtPoint
) -> None:
    """Paused by a hypervisor: no time has passed for the owner, and the next one has written the same keys."""
    (path,) = broker.segments("orders-0", 1)
    store = tmp_path / "store"

    def taken() -> None:
        (store / OWNER).write_bytes(party("b").dump())
        for name in broker.triple(path):
            (store / name).write_bytes(b"the other broker's bytes")

    seen = at_point("archive.journaled", taken)
    async with TieredStorage.open(directory_settings(broker, store)) as storage:
        with suppress(TakhinError):
            await storage.run_cycle()
    assert seen
    assert broker.is_whole(path)


async def test_no_manifest_is_written_over_the_next_owners(broker: Broker, tmp_path: Path, at_point: AtPoint) -> None:
    store = tmp_path / "store"
    manifest = store / "orders-0" / f"{0:020d}.manifest.json"
    async with TieredStorage.open(directory_settings(broker, store, archive_mode="copy")) as storage:
        (path,) = broker.segments("orders-0", 1)
        await storage.run_cycle()
        broker.overwrite(path, b"x" * 100)
        await storage.run_cycle()
        theirs = json.dumps(json.loads(manifest.read_text()) | {"generation": 7})

        def taken() -> None:
            (store / OWNER).write_bytes(party("b").dump())
            manifest.write_text(theirs)

        seen = at_point("archive.before.manifest", taken)
        with suppress(TakhinError):
            await storage.run_cycle()
        assert seen
        assert manifest.read_text() == theirs


@pytest.mark.long
def test_a_daemon_answers_and_stops_in_order(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", archive_interval_minutes=0.02)
    closed = broker.segments("orders-0", 1)
    store = tmp_path / "store"
    with daemon(settings, tmp_path / "log") as running:
        wait_until(lambda: not broker.on_disk(closed[0]))
        (store / CHALLENGE).write_bytes(b"[" * 200_000)
        before = (store / OWNER).read_bytes()
        challenge = party("b")
        (store / CHALLENGE).write_bytes(challenge.dump())

        def answered() -> bool:
            running.require_alive()
            return (store / ANSWER).exists() and json.loads((store / ANSWER).read_text())["answered"] == challenge.nonce

        wait_until(answered, seconds=20, what="an answer to the challenge")
        assert (store / OWNER).read_bytes() == before
        assert running.stop() == 0
    assert not (store / OWNER).exists()


async def test_a_moved_data_directory_is_not_ready_while_the_next_cycle_asks_the_store(
    broker: Broker, tmp_path: Path
) -> None:
    broker.segments("orders-0", 1)
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        broker.root.rename(tmp_path / "moved")
        broker.root.mkdir()
        with pytest.raises(TakhinError):
            await storage.run_cycle()
        cycle = asyncio.create_task(storage.run_cycle())
        deadline = time.monotonic() + 20
        while not cycle.done() and time.monotonic() < deadline:
            assert storage.last_cycle_code == "disk"
            await asyncio.sleep(0)
        with pytest.raises(TakhinError):
            await cycle
