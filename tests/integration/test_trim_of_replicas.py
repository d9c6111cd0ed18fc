"""Before a broker is asked to delete what replicas share, the archived copy is held anew. None is needed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.vault import replicas
from tests.integration.test_splicing import Pair, cycle, pair
from tests.replicas import Shared, replicas_of, settings_of
from tests.support import Broker, parts

__all__ = ["pair"]


async def proven(storage: TieredStorage) -> tuple[list[Segment], str]:
    """All that is archived and stands on the disk too, as far as it could be trimmed."""
    owned, found = await storage.prepare(), parts(storage).catalog
    run = [segment for segment in found.log_of(("orders", 0)) if segment.archive and segment.archive.held]
    return await parts(storage).broker._trimmer.prove_run(owned, run)


def remove(shared: Shared, infix: str) -> list[str]:
    """Remove adoption records, as a removal that arrives late does."""
    keys = shared.keys()
    found = [key for key in keys if infix in key]
    for key in found:
        (shared.root / key).unlink()
    return found


async def test_a_record_that_is_gone_stands_before_the_proof(broker: Broker, tmp_path: Path) -> None:
    paths, shared = broker.segments("orders-0", 2), Shared(tmp_path / "store")
    first, second = replicas_of(broker, 2)
    async with TieredStorage.open(settings_of(first, shared.root, archive_mode="copy")) as storage:
        assert (await storage.run_cycle()).copied == 2
        assert len(remove(shared, ".adopted.")) == 2
        going, problem = await proven(storage)
        assert ([segment.id.path for segment in going], problem) == (paths, "")
    # What is over for another replica stays for this one, whose broker deletes its files.
    for path in paths:
        for name in first.triple(path):
            (first.root / name).unlink()
    async with TieredStorage.open(settings_of(second, shared.root)) as storage:
        assert (await storage.run_cycle()).evicted == 2
    async with TieredStorage.open(settings_of(second, shared.root, retention_hours=1.0)) as storage:
        assert (await storage.run_cycle()).expired == 2
    assert shared.lost([first]) == []


async def test_what_another_replica_just_removes_is_not_trimmed(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "LOOK_EVERY", 0.01)
    lower, upper = broker.segments("orders-0", 2)
    shared = Shared(tmp_path / "store")
    first, second = replicas_of(broker, 2)
    async with (
        TieredStorage.open(settings_of(first, shared.root, archive_mode="copy")) as storage,
        TieredStorage.open(settings_of(second, shared.root, archive_mode="copy")) as other,
    ):
        assert (await storage.run_cycle()).copied == 2
        async with (await other.prepare())._marked(SegmentId.parse(upper), relies=False):  # type: ignore[attr-defined]
            going, problem = await proven(storage)
        assert [segment.id.path for segment in going] == [lower]
        assert "another replica is changing" in problem


async def test_records_for_parts_stand_before_the_proof(pair: Pair) -> None:
    pair.one.write()
    pair.other.write()
    async with TieredStorage.open(pair.settings(pair.one)) as storage:
        await cycle(storage)
    async with TieredStorage.open(pair.settings(pair.other, archive_mode="copy")) as storage:
        await cycle(storage)
        gone = remove(Shared(pair.home / "store"), "-parts.json")
        going, problem = await proven(storage)
        assert going
        assert problem == ""
    assert pair.records_for_parts() == gone
    assert gone
