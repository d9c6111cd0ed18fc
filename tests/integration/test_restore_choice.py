"""Restore by partition, offsets and times, as a person asks for it; and what is refused beside Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from takhin_tiered import SegmentNotFound, SegmentRefused, Settings, State, TieredStorage
from takhin_tiered.segments.choice import Wanted
from tests.support import Broker

START = 1_700_000_000_000


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "store").mkdir()
    return Broker(data)


def settings_of(broker: Broker, *, kafka: bool = True) -> Settings:
    if kafka:
        (broker.root / "meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
    store = broker.root.parent / "store"
    return Settings(data_dir=broker.root, enabled=True, directory_path=store, archive_mode="move")


def base(path: str) -> int:
    return int(Path(path).stem)


async def chosen(storage: TieredStorage, *paths: str, **how: object) -> list[str]:
    choice = await storage.choose_restore(Wanted(paths, **how))  # type: ignore[arg-type]  # by name
    assert not choice.problems
    return sorted(segment.id.path for segment in choice.segments)


async def test_by_path_partition_glob_offsets_and_times(broker: Broker) -> None:
    paths = broker.segments(count=4, size=20_000)
    others = broker.segments("payments-0", count=2)
    async with TieredStorage.open(settings_of(broker, kafka=False)) as storage:
        await storage.run_cycle()
        assert await chosen(storage, "orders-0") == paths
        assert await chosen(storage, "*") == [*paths, *others]
        assert await chosen(storage, "orders-*") == paths
        assert await chosen(storage, paths[1], "payments-0/*") == [paths[1], *others]
        middle = base(paths[1]) + 5
        assert await chosen(storage, "orders-0", offsets=(middle, middle)) == [paths[1]]
        assert await chosen(storage, "orders-0", offsets=(middle, None)) == paths[1:]
        assert await chosen(storage, "orders-0", offsets=(None, middle)) == paths[:2]
        # Every sample segment begins at the same time, one record a millisecond.
        length = base(paths[1])
        assert await chosen(storage, "orders-0", times=(START + length - 1, None)) == paths
        # The active one is on the disk, and was modified after that.
        assert await chosen(storage, "orders-0", times=(START + length, None)) == []
        with pytest.raises(SegmentNotFound, match="offsets or times"):
            await chosen(storage, "orders-0", times=(None, START - 1))


async def test_a_gap_is_refused_beside_kafka_only(broker: Broker) -> None:
    paths = broker.segments(count=3)
    async with TieredStorage.open(settings_of(broker)) as storage:
        await storage.run_cycle()
        choice = await storage.choose_restore(Wanted((paths[1],)))
        assert choice.segments == []
        assert f"offsets {base(paths[2])}-" in choice.problems[0]
        with pytest.raises(SegmentRefused, match=r"--offsets .*--force"):
            await storage.restore_segment(paths[1])
        assert storage.segment(paths[1]).state == State.ARCHIVED
        assert await chosen(storage, paths[2]) == [paths[2]]
        assert await chosen(storage, "orders-0", offsets=(base(paths[1]), None)) == paths[1:]
        await storage.restore_segment(paths[1], force=True, lease=60)
        assert broker.is_whole(paths[1])
        # Nothing else is refused for that gap.
        assert await chosen(storage, "orders-0") == [paths[0], paths[2]]


async def test_below_kafkas_log_start_is_refused(broker: Broker) -> None:
    paths = broker.segments(count=3)
    (broker.root / "log-start-offset-checkpoint").write_text(f"0\n1\norders 0 {base(paths[1]) + 3}\n")
    async with TieredStorage.open(settings_of(broker)) as storage:
        await storage.run_cycle()
        choice = await storage.choose_restore(Wanted(("orders-0",)))
        assert paths[0] in choice.problems[0]
        assert "log start" in choice.problems[0]
        assert await chosen(storage, "orders-0", offsets=(base(paths[1]) + 3, None)) == paths[1:]
        assert await chosen(storage, "orders-0", force=True) == paths


async def test_ranges_holes_and_overlaps_of_partitions(broker: Broker) -> None:
    paths = broker.segments(count=3)
    settings = settings_of(broker)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        (found,) = await storage.partitions()
        end = broker.next_offset["orders-0"]
        active = found.local[0][0]
        assert (found.local, found.archived) == ([[active, end - 1]], [[0, active - 1]])
        assert (found.holes, found.overlaps, found.current) == ([], [], True)
        for kind in ("log", "index", "timeindex", "manifest.json"):
            (settings.directory_path / paths[1].replace("log", kind)).unlink()  # type: ignore[operator]  # it is set
    async with TieredStorage.open(settings.model_copy(update={"state_path": broker.root.parent / "new"})) as storage:
        await storage.rebuild()
        (found,) = await storage.partitions()
        assert found.holes == [[base(paths[1]), base(paths[2]) - 1]]
        await storage.run_cycle()
        storage.update_metrics()
        assert "tiered_storage_partitions_with_holes 1.0" in storage.metrics.render().decode()


async def test_its_form_is_stable(broker: Broker) -> None:
    broker.segments(count=1)
    async with TieredStorage.open(settings_of(broker)) as storage:
        (found,) = await storage.partitions()
    document = json.loads(json.dumps({name: getattr(found, name) for name in found.__dataclass_fields__}))
    assert {"topic", "partition", "topic_id", "current", "local", "archived", "holes", "overlaps"} <= document.keys()
