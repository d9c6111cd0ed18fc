"""Committed offsets of topics that are on the disk and in the archive, from one start of the daemon to the next."""

from __future__ import annotations

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.kafka.commits import Committed, Unavailable, open_commits
from takhin_tiered.kafka.errors import ErrorCode
from tests.integration.test_records import served
from tests.partitions import make_partition
from tests.support import Broker

PLACE = ("orders", 0)


@pytest.mark.long
@pytest.mark.parametrize("place", ["local", "archived"])
async def test_commits_are_not_taken_for_none_before_the_topic_is_known(broker: Broker, place: str) -> None:
    """The catalog is lost. A consumer that is told of no commits begins anew, or at the end."""
    made = make_partition("orders-0", 8)
    async with served(broker, made, place=place) as (storage, _):
        settings = storage.settings
        async with open_commits(settings.state_dir, storage.logs.incarnation, storage.clock) as commits:
            assert await commits.commit("readers", {PLACE: Committed(7)}) == {PLACE: ErrorCode.NONE}
    for file in settings.state_dir.glob("catalog*"):
        file.unlink()
    (broker.root / "orders-0").rename(broker.root.parent / "away")
    async with (
        TieredStorage.open(settings, scan=False) as storage,
        open_commits(settings.state_dir, storage.logs.incarnation, storage.clock) as commits,
    ):
        with pytest.raises(Unavailable):
            await commits.fetch("readers", [PLACE])
        answers = await commits.commit("readers", {PLACE: Committed(8)})
        assert answers == {PLACE: ErrorCode.COORDINATOR_NOT_AVAILABLE}
        if place == "local":
            (broker.root.parent / "away").rename(broker.root / "orders-0")
        await storage.run_cycle()
        assert await commits.fetch("readers", [PLACE]) == {PLACE: Committed(7)}


async def test_commits_stay_when_a_topic_gets_its_id(broker: Broker) -> None:
    """Brokers before topic IDs did not write any; an upgrade does."""
    made = make_partition("orders-0", 8)
    async with served(broker, made, place="local") as (storage, _):
        state_dir = storage.settings.state_dir
        async with open_commits(state_dir, storage.logs.incarnation, storage.clock) as commits:
            await commits.commit("readers", {PLACE: Committed(7)})
            metadata = broker.root / "orders-0" / "partition.metadata"
            metadata.write_text("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ")
            assert await commits.fetch("readers") == {PLACE: Committed(7)}
            assert storage.logs.catalog.lineage(PLACE).get("").topic_id == "AAAAAAAAAAAAAAAAAAAAAQ"
            # Another topic from here on.
            await commits.commit("readers", {PLACE: Committed(8)})
            metadata.unlink()
            metadata.write_text("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAg")
            assert await commits.fetch("readers") == {}
