"""A daemon of replicas that share a prefix, killed at every named point: the others lose nothing, and all goes on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from takhin_tiered import TieredStorage, points, tiered_storage
from takhin_tiered.engine.assembly import Assembly, assemble
from takhin_tiered.engine.report import CycleReport
from takhin_tiered.errors import SegmentBusy, StoreUnavailable
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import ObjectStore
from takhin_tiered.vault import releases, replicas
from tests.faults.test_kill_matrix import ARCHIVE, EVICT
from tests.replicas import Shared, replicas_of
from tests.support import AtPoint, Broker, to_point

HOLD = ["replicas.adopting", "replicas.adopted"]
MARK = ["replicas.marked", "replicas.looked", "replicas.deleted", "replicas.unmarked"]
EXPIRE = ["expire.intended", "replicas.released", "expire.released"]
REMOVE = ["expire.manifest.deleted", "expire.objects.deleted", "expire.journaled"]
SCENARIOS = {
    "first": ["claim.written", "replicas.opening", "replicas.opened", *HOLD, *ARCHIVE, *EVICT],
    "had an owner": ["replicas.recorded", "replicas.opening", "replicas.opened", "replicas.outdated"],
    "adopts": [*HOLD, "archive.committed", "archive.journaled", *EVICT],
    "expires the last": [*EXPIRE, *MARK, *REMOVE],
    "expires one of two": [*EXPIRE, *(point for point in MARK if point != "replicas.deleted"), "expire.journaled"],
}
ONCE = {"claim.written", "replicas.opening", "replicas.opened", "replicas.outdated"}
CASES = [
    (scenario, point, nth)
    for scenario, points in SCENARIOS.items()
    for point in points
    for nth in ((1,) if point in ONCE else (1, 2))
]
FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
CHOSEN = CASES if FULL else [*CASES[3::9], ("had an owner", "replicas.recorded", 2)]
EXPIRED = {"retention_hours": 100.0}
pytestmark = pytest.mark.usefixtures("fast_replicas")


async def cycle(broker: Broker, shared: Shared, **changes: Any) -> CycleReport:
    async with TieredStorage.open(shared.settings_of(broker, **changes)) as storage:
        return await storage.run_cycle()


def kill(broker: Broker, shared: Shared, point: str, nth: int, **changes: Any) -> None:
    ended = to_point(shared.settings_of(broker, **changes), "run", "--once", point=point, nth=nth)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.fixture(params=["directory", "s3"] if FULL else ["directory"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    is_s3 = request.param == "s3"
    return Shared(tmp_path / "store", request.getfixturevalue("bucket") if is_s3 else None)


@pytest.mark.long
@pytest.mark.parametrize(("scenario", "point", "nth"), CHOSEN)
async def test_the_others_lose_nothing_and_all_goes_on(
    broker: Broker, shared: Shared, scenario: str, point: str, nth: int
) -> None:
    broker.transactional = True
    closed = broker.segments("orders-0", 2, size=3000)
    victim, other, third = replicas_of(broker, 3)
    expires: dict[str, Any] = {}
    relying = [victim, other]
    if scenario == "had an owner":
        await cycle(victim, shared, fleet_replicas="own")
    elif scenario == "adopts":
        await cycle(other, shared)
    elif scenario == "expires the last":
        await cycle(victim, shared)
        expires, relying = EXPIRED, [other]
    elif scenario == "expires one of two":
        await cycle(victim, shared)
        await cycle(other, shared)
        expires, relying = EXPIRED, [other]
    kill(victim, shared, point, nth, **expires)
    assert shared.lost(relying) == []
    # Another one archives, adopts and evicts meanwhile. The dead one's marks do not hold it up.
    assert (await cycle(other, shared)).failures == []
    assert all(other.on_disk(path) == [] for path in closed)
    assert shared.lost(relying) == []
    # A third one adopts, and its retention ends.
    assert (await cycle(third, shared)).failures == []
    assert (await cycle(third, shared, **EXPIRED)).failures == []
    assert shared.lost(relying) == []
    # The dead one is back.
    for _ in range(2):
        assert (await cycle(victim, shared, **expires)).failures == []
    assert shared.lost(relying) == []
    for each in relying:
        async with TieredStorage.open(shared.settings_of(each, restore_lease_hours=0.0)) as storage:
            await storage.restore_segment(closed[0])
            assert each.is_whole(closed[0])
            assert (await storage.run_cycle()).failures == []
        assert each.on_disk(closed[0]) == []
    assert shared.marks() == []
    # In the end nobody relies on it any more, and nothing is left.
    for each in (victim, other, third):
        async with TieredStorage.open(shared.settings_of(each, **EXPIRED)) as storage:
            for _ in range(2):
                assert (await storage.run_cycle()).failures == []
    assert shared.keys() == []


def test_every_point_of_what_replicas_share_is_among_those_tried() -> None:
    source = Path(__file__).parents[2] / "takhin_tiered"
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    points = set(re.findall(r'reached\("(replicas\.[^"]+|expire\.released)"\)', text))
    assert points
    assert points <= {point for _, point, _ in CASES}


BETWEEN = [
    *((False, point) for point in [*HOLD, *ARCHIVE, *EVICT]),
    *((True, point) for point in [*EXPIRE, *MARK, *REMOVE]),
]


@pytest.mark.long
@pytest.mark.parametrize(("expires", "point"), BETWEEN if FULL else BETWEEN[1::5])
async def test_another_one_does_all_of_its_work_in_between(
    broker: Broker, tmp_path: Path, at_point: AtPoint, monkeypatch: pytest.MonkeyPatch, expires: bool, point: str
) -> None:
    """One of them stands still at a point of its work, while another one archives or removes the same segment."""
    monkeypatch.setattr(replicas, "LOOK_EVERY", 0.01)
    broker.transactional = True
    (path,) = broker.segments("orders-0", 1, size=3000)
    one, other = replicas_of(broker, 2)
    shared = Shared(tmp_path / "store")
    await cycle(other, shared, auto_archive_enabled=False)
    if expires:
        await cycle(one, shared)
    else:
        # The other one has archived it before, and gives it up in between.
        await cycle(other, shared)
    # What the one at rest runs with, and the one in between.
    changes = {True: EXPIRED if expires else {}, False: {} if expires else EXPIRED}

    def all_of_its_work() -> None:
        thread = threading.Thread(target=lambda: asyncio.run(cycle(other, shared, **changes[False])))
        thread.start()
        thread.join()

    seen = at_point(point, all_of_its_work)
    report = await cycle(one, shared, **changes[True])
    if not expires and point in ARCHIVE and point not in {"archive.committed", "archive.journaled"}:
        # It adopts: nothing is stored.
        assert seen == []
        return
    assert seen == [point]
    keeps = other if expires else one
    assert shared.lost([keeps]) == []
    if not expires:
        assert report.failures == []
    for _ in range(2):
        assert (await cycle(keeps, shared)).failures == []
        assert (await cycle(other if keeps is one else one, shared, **EXPIRED)).failures == []
    assert shared.lost([keeps]) == []
    assert keeps.on_disk(path) == []
    assert shared.objects() == shared.named()
    assert shared.marks() == []
    assert (await cycle(keeps, shared, **EXPIRED)).failures == []
    assert shared.keys() == []


async def test_objects_that_an_upload_is_about_to_name_are_not_removed(broker: Broker, tmp_path: Path) -> None:
    """The manifest is gone, and the objects are about to go, when another one finds them and is about to commit."""
    (path,) = broker.segments("orders-0", 1, size=3000)
    one, other = replicas_of(broker, 2)
    shared = Shared(tmp_path / "store")
    await cycle(one, shared)
    is_about_to_commit, is_removed = threading.Event(), threading.Event()
    reports: list[CycleReport] = []

    def upload() -> None:
        reports.append(asyncio.run(cycle(other, shared)))

    uploading = threading.Thread(target=upload)

    def hook(point: str) -> None:
        if point == "expire.manifest.deleted":
            uploading.start()
            assert is_about_to_commit.wait(30)
        if point == "archive.before.manifest":
            is_about_to_commit.set()
            assert is_removed.wait(30)

    points.hook = hook
    try:
        report = await cycle(one, shared, **EXPIRED)
        is_removed.set()
        await asyncio.to_thread(uploading.join)
    finally:
        points.hook = None
    assert [failed for failed, _ in report.failures] == [path]
    assert reports[0].failures == []
    assert other.on_disk(path) == []
    assert shared.lost([other]) == []
    # What is left to be done by the one that expired it is done by its next cycle.
    assert (await cycle(one, shared, **EXPIRED)).failures == []
    assert shared.lost([other]) == []
    assert len(shared.adopters(path)) == 1


class Late:
    """A store that says nothing to a delete of such keys, and does it later."""

    def __init__(self, store: ObjectStore, keys: str) -> None:
        self._store, self._keys = store, keys
        self.late: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def delete(self, keys: Sequence[str]) -> None:
        if any(self._keys in key for key in keys):
            self.late += keys
            raise StoreUnavailable("no answer came")
        await self._store.delete(keys)

    async def arrive(self) -> None:
        await self._store.delete(self.late)


async def test_a_delete_that_arrives_late_takes_nothing_that_another_one_relies_on(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "LOOK_EVERY", 0.01)
    (path,) = broker.segments("orders-0", 1, size=3000)
    one, other = replicas_of(broker, 2)
    shared = Shared(tmp_path / "store")
    await cycle(one, shared)
    stores: list[Late] = []

    def late(*arguments: Any, store: ObjectStore, **named: Any) -> Assembly:
        stores.append(Late(store, ".log"))
        return assemble(*arguments, store=cast("ObjectStore", stores[0]), **named)

    with monkeypatch.context() as patched:
        for module in (releases, replicas):
            patched.setattr(module, "LATE_AFTER", 300.0)
        patched.setattr(tiered_storage, "assemble", late)
        async with TieredStorage.open(shared.settings_of(one, **EXPIRED)) as storage:
            patched.setattr(tiered_storage, "assemble", assemble)
            assert [failed for failed, _ in (await storage.run_cycle()).failures] == [path]
            assert len(shared.marks()) == 1
            # Neither another one, nor the next process of the same replica, takes the objects for its own.
            assert [failed for failed, _ in (await cycle(other, shared)).failures] == [path]
        assert [failed for failed, _ in (await cycle(other, shared)).failures] == [path]
        assert other.is_whole(path)
        await stores[0].arrive()
    # Minutes later.
    assert (await cycle(other, shared)).failures == []
    assert other.on_disk(path) == []
    assert shared.lost([other]) == []
    assert shared.marks() == []


async def test_a_record_whose_removal_may_arrive_late_is_not_relied_on(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = broker.segments("orders-0", 1, size=3000)
    shared = Shared(tmp_path / "store")
    await cycle(broker, shared)

    def late(*arguments: Any, store: ObjectStore, **named: Any) -> Assembly:
        return assemble(*arguments, store=cast("ObjectStore", Late(store, ".adopted.")), **named)

    for module in (releases, replicas):
        monkeypatch.setattr(module, "LATE_AFTER", 300.0)
    monkeypatch.setattr(tiered_storage, "assemble", late)
    async with TieredStorage.open(shared.settings_of(broker)) as storage:
        with pytest.raises(StoreUnavailable):
            await (await storage.prepare()).release(SegmentId.parse(path))
        assert len(shared.adopters(path)) == 1
        with pytest.raises(SegmentBusy):
            await (await storage.prepare()).hold(SegmentId.parse(path))
