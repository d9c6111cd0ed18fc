"""What a killed replica uploaded, and another one was faster to archive, is removed; nothing else ever is.

Encrypted bytes are other ones each time: the faster replica stores another generation, and its manifest names nothing
of the killed one's.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.engine.report import CycleReport
from takhin_tiered.errors import ObjectExists
from takhin_tiered.segments.model import Intent
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import DirectoryStore, ReadableStore
from takhin_tiered.store.s3 import S3Store
from tests.decoding import keys_in
from tests.faults.test_kill_matrix import ARCHIVE, EVICT
from tests.faults.test_replica_kills import HOLD, MARK
from tests.replicas import Shared, replicas_of
from tests.support import AtPoint, Broker, parts, to_point

FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
# Killed before its manifest is there: another one archives the segment afterwards.
IN_VAIN = [(point, nth) for point in [*HOLD, *ARCHIVE[:-2]] for nth in (1, 2)]
# Another one archives the segment while this one is about to commit its manifest. Killed afterwards.
OUTRUN = ["archive.outrun", *MARK, "archive.committed", "archive.journaled", *EVICT]
EXPIRED = {"retention_hours": 100.0}
pytestmark = pytest.mark.usefixtures("fast_replicas")


class Scene:
    """Replicas that encrypt, unless ``changes`` say otherwise."""

    def __init__(self, broker: Broker, shared: Shared, home: Path, count: int, segments: int = 1) -> None:
        broker.transactional = True
        self.closed, self.shared = broker.segments("orders-0", segments), shared
        self.brokers = replicas_of(broker, count)
        key_file = home / "keys"
        key_file.write_text(f"first {base64.b64encode(os.urandom(32)).decode()}\n")
        self.changes: dict[str, Any] = {"encryption_key_file": key_file}
        self.keys = keys_in(key_file)

    def kill(self, broker: Broker, point: str, nth: int = 1, **how: Any) -> None:
        settings = self.shared.settings_of(broker, **self.changes)
        ended = to_point(settings, "run", "--once", point=point, nth=nth, **how)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    async def cycle(self, broker: Broker, **changes: Any) -> CycleReport:
        async with TieredStorage.open(self.shared.settings_of(broker, **self.changes | changes)) as storage:
            report = await storage.run_cycle()
            assert report.failures == []
            return report

    async def archive(self, broker: Broker) -> None:
        async with TieredStorage.open(self.shared.settings_of(broker, **self.changes)) as storage:
            await storage.archive_segment(self.closed[0])

    async def require_in_order(self) -> None:
        """All that stands there is named and held by somebody, and goes with the last who relies on it."""
        shared = self.shared
        assert shared.lost(self.brokers, self.keys) == []
        assert shared.objects() == shared.named()
        assert shared.marks() == []
        for each in self.brokers:
            assert all(each.on_disk(path) == [] for path in self.closed)
            async with TieredStorage.open(shared.settings_of(each, **self.changes)) as storage:
                for path in self.closed:
                    await storage.restore_segment(path, lease=0)
                    assert each.is_whole(path)
                assert (await storage.run_cycle()).failures == []
        for each in self.brokers:
            await self.cycle(each, **EXPIRED)
        assert shared.keys() == []


@pytest.fixture(params=["directory", "s3"] if FULL else ["directory"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    is_s3 = request.param == "s3"
    return Shared(tmp_path / "store", request.getfixturevalue("bucket") if is_s3 else None)


@pytest.mark.long
@pytest.mark.parametrize(("point", "nth"), IN_VAIN if FULL else [*IN_VAIN[5::5], ("archive.before.manifest", 2)])
async def test_what_was_uploaded_in_vain_is_removed_by_the_next_cycle(
    broker: Broker, shared: Shared, tmp_path: Path, point: str, nth: int
) -> None:
    scene = Scene(broker, shared, tmp_path, 2, segments=2)
    victim, other = scene.brokers
    scene.kill(victim, point, nth)
    left = shared.objects()
    await scene.cycle(other)
    # What it left is not the other one's to remove.
    assert left <= shared.objects()
    assert shared.lost([victim, other], scene.keys) == []
    await scene.cycle(victim)
    await scene.require_in_order()


@pytest.mark.long
@pytest.mark.parametrize("point", OUTRUN if FULL else ["archive.outrun", "replicas.looked"])
async def test_who_is_killed_when_its_manifest_came_second_leaves_nothing(
    broker: Broker, shared: Shared, tmp_path: Path, point: str
) -> None:
    scene = Scene(broker, shared, tmp_path, 2)
    victim, other = scene.brokers
    # By hand, it waits for nobody.
    faster = shared.settings_of(other, **scene.changes)
    scene.kill(victim, point, between=("archive.before.manifest", faster, ["archive", *scene.closed]))
    assert shared.lost([victim, other], scene.keys) == []
    if point == "archive.outrun":
        assert len(shared.objects() - shared.named()) == len(victim.triple(scene.closed[0]))
    await scene.cycle(other)
    await scene.cycle(victim)
    await scene.require_in_order()


@pytest.mark.long
@pytest.mark.parametrize("has_manifest", [False, True])
async def test_what_another_one_is_uploading_stays(
    broker: Broker, shared: Shared, tmp_path: Path, at_point: AtPoint, has_manifest: bool
) -> None:
    """The same bytes under the same keys as the killed one meant to store, which finds them when it is back."""
    scene = Scene(broker, shared, tmp_path, 2)
    scene.changes = {}
    victim, other = scene.brokers
    scene.kill(victim, "archive.intended")
    assert shared.objects() == set()
    # Its broker's retention was faster: nothing waits for the next archive there.
    for name in victim.triple(scene.closed[0]):
        (victim.root / name).unlink()
    await scene.cycle(other, auto_archive_enabled=False)

    def back() -> None:
        thread = threading.Thread(target=lambda: asyncio.run(look()))
        thread.start()
        thread.join()

    seen: list[set[str]] = []

    async def look() -> None:
        seen.append(shared.objects())
        await scene.cycle(victim)
        seen.append(shared.objects())

    at_point("archive.committed" if has_manifest else "archive.before.manifest", back)
    await scene.cycle(other)
    before, after = seen
    assert before
    assert before == after
    assert shared.lost([other]) == []
    assert other.on_disk(scene.closed[0]) == []


@pytest.mark.parametrize("replicas", ["own", "adopt"])
@pytest.mark.parametrize("is_earlier", [False, True])
async def test_of_a_lower_generation_only_what_nobody_names_goes(
    broker: Broker, shared: Shared, tmp_path: Path, is_earlier: bool, replicas: str
) -> None:
    """A superseded manifest names it; or it is gone, and an earlier release may have written the intent."""
    scene = Scene(broker, shared, tmp_path, 1)
    scene.changes = {"archive_mode": "copy", "fleet_replicas": replicas}
    (path,) = scene.closed
    await scene.cycle(broker)
    broker.append(path)
    broker.overwrite_time(path)
    for _ in range(2):
        await scene.cycle(broker)
    superseded = path.replace(".log", ".g1.manifest.json")
    assert {path, superseded} < shared.objects()
    async with TieredStorage.open(shared.settings_of(broker, **scene.changes)) as storage:
        catalog = parts(storage).catalog
        intent = Intent(path, SegmentId.parse(path), 0, "", 0, 1.0, is_earlier=is_earlier)
        stays = []
        for _ in range(2):
            catalog.intend([intent])
            await storage.run_cycle()
            assert catalog.intents() == []
            stays.append(path in shared.objects())
            if superseded in shared.objects():
                shared.view.delete(superseded)
    assert stays == [True, is_earlier]


async def test_a_manifest_that_cannot_be_read_may_name_it(broker: Broker, shared: Shared, tmp_path: Path) -> None:
    """Then it stays, with its intent; those of other segments are removed."""
    scene = Scene(broker, shared, tmp_path, 1, segments=2)
    scene.changes = {"archive_mode": "copy"}
    await scene.cycle(broker)
    left = [path.replace(".log", ".g3.log") for path in scene.closed]
    superseded = scene.closed[0].replace(".log", ".g2.manifest.json")
    shared.view.write(superseded, b"no manifest")
    async with TieredStorage.open(shared.settings_of(broker, **scene.changes)) as storage:
        catalog = parts(storage).catalog
        intents = [
            Intent(key, SegmentId.parse(path), 0, "", 0, 1.0) for key, path in zip(left, scene.closed, strict=True)
        ]
        for key in left:
            shared.view.write(key, b"left")
        catalog.intend(intents)
        await storage.run_cycle()
        assert catalog.intents() == intents[:1]
        assert shared.objects() & {*left} == {left[0]}
        shared.view.delete(superseded)
        await storage.run_cycle()
        assert catalog.intents() == []
    assert shared.objects() == shared.named()


async def test_an_object_that_goes_while_an_upload_counts_on_it(
    broker: Broker, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica had the same bytes there, and removed them as its manifest came second."""
    scene = Scene(broker, shared, tmp_path, 2)
    slow, fast = scene.brokers
    kind = S3Store if shared.is_s3 else DirectoryStore
    original: Any = kind.put
    left = [*scene.closed]

    async def put(store: ReadableStore, key: str, *args: Any, **options: Any) -> Any:
        if key not in left:
            return await original(store, key, *args, **options)
        left.clear()
        await original(store, key, *args, **options)
        # The other one is faster: it stores other bytes, as another generation.
        await scene.archive(fast)
        with pytest.raises(ObjectExists) as raised:
            await original(store, key, *args, **options)
        shared.view.delete(key)
        raise raised.value

    monkeypatch.setattr(kind, "put", put)
    report = await scene.cycle(slow)
    assert (left, report.archived) == ([], 1)
    await scene.cycle(fast)
    await scene.require_in_order()
