"""The local catalog in the fleet's table: after each cycle, by difference, whatever happens to the table meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.aws.dynamodb import open_dynamodb
from takhin_tiered.config import Settings
from takhin_tiered.fleet.entities import Node, Segment
from takhin_tiered.fleet.initialise import initialise
from takhin_tiered.fleet.overview import segments_of
from takhin_tiered.fleet.repositories import Repository, Table
from takhin_tiered.fleet.service import Fleet, open_fleet
from takhin_tiered.fleet.sync import Synced
from takhin_tiered.fleet.transforms import to_item
from takhin_tiered.fleet.written import FILE_NAME
from tests.support import REGION, Broker, Bucket, parts, pass_time, store_settings

NODE = "broker-1"


def fleet_settings(broker: Broker, bucket: Bucket, table: Table | str, **more: Any) -> Settings:
    given = {
        "fleet_table": table.name if isinstance(table, Table) else table,
        "fleet_endpoint": bucket.endpoint,
        "fleet_node": NODE,
        "fleet_mode": "dual",
        **more,
    }
    return store_settings(broker, bucket, **given)


@asynccontextmanager
async def shared(settings: Settings) -> AsyncIterator[tuple[TieredStorage, Fleet]]:
    async with TieredStorage.open(settings) as storage, open_fleet(storage) as fleet:
        yield storage, fleet


async def in_table(table: Table, node: str = NODE) -> dict[str, Segment]:
    return {each.path: each async for each in segments_of(table, node)}


async def synced(fleet: Fleet) -> Synced:
    done = await fleet.sync()
    assert done is not None, fleet.problem
    return done


async def test_the_table_follows_the_cycles(broker: Broker, bucket: Bucket, table: Table) -> None:
    closed = broker.segments("orders-0", 3)
    async with shared(fleet_settings(broker, bucket, table)) as (storage, fleet):
        first = await synced(fleet)
        assert first == Synced(written=4, deleted=0, has_read=True)
        assert {each.state for each in (await in_table(table)).values()} == {"local"}
        await storage.run_cycle()
        assert await synced(fleet) == Synced(written=3, deleted=0, has_read=False)
        found = await in_table(table)
        for path in closed:
            info, item = storage.segment(path), found[path]
            assert (item.state, item.stored_size, item.generation) == ("archived", info.archived_size_bytes, 1)
            assert item.size == sum(len(broker.files[name]) for name in broker.triple(path))
        (active,) = [each for each in found.values() if each.active]
        assert (active.size, active.modified_at) == (None, None)
        # Nothing changed, and what was only read is no change.
        storage.update_access_time(closed[0])
        assert await synced(fleet) == Synced(0, 0, has_read=False)
        # The active segment grows with each record, and its item says nothing of that.
        broker.append(next(path for path in broker.files if path.endswith(".log") and path not in closed))
        await storage.run_cycle()
        assert await synced(fleet) == Synced(0, 0, has_read=False)

        await storage.restore_segment(closed[0])
        assert (await synced(fleet)).written == 1
        restored = (await in_table(table))[closed[0]]
        assert restored.state == "copied"
        assert restored.lease_until is not None
        node = await Repository(table, Node).get(node=NODE)
        assert node is not None
        assert (node.segments, node.archived_segments, node.mode) == (4, 2, "dual")
        assert node.store == storage.store_address


@pytest.mark.long
async def test_a_restart_writes_nothing_again(broker: Broker, bucket: Bucket, table: Table) -> None:
    broker.segments("orders-0", 3)
    settings = fleet_settings(broker, bucket, table)
    async with shared(settings) as (storage, fleet):
        await storage.run_cycle()
        assert (await synced(fleet)).written == 4
    async with shared(settings) as (storage, fleet):
        await storage.run_cycle()
        assert await synced(fleet) == Synced(0, 0, has_read=False)


@pytest.mark.parametrize("damage", ["lost", pytest.param("damaged", marks=pytest.mark.long)])
async def test_without_its_notes_it_reads_its_part_of_the_table(
    broker: Broker, bucket: Bucket, table: Table, damage: str
) -> None:
    broker.segments("orders-0", 3)
    settings = fleet_settings(broker, bucket, table)
    async with shared(settings) as (storage, fleet):
        await storage.run_cycle()
        await synced(fleet)
        before = await in_table(table)
    # Another node's items are none of its business.
    other = replace(next(iter(before.values())), node="broker-2")
    stray = replace(other, node=NODE, topic="gone")
    wrong = replace(next(iter(before.values())), state="local")
    await Repository(table, Segment).put_all([other, stray, wrong])
    for path in settings.state_dir.glob(f"{FILE_NAME}*"):
        if damage == "lost":
            path.unlink()
        else:
            path.write_bytes(b"no database" * 1000)
    async with shared(settings) as (storage, fleet):
        await storage.run_cycle()
        assert await synced(fleet) == Synced(written=1, deleted=1, has_read=True)
        assert await in_table(table) == before
        assert list((await in_table(table, "broker-2")).values()) == [other]


async def test_what_left_everywhere_leaves_the_table(broker: Broker, bucket: Bucket, table: Table) -> None:
    first, *_ = broker.segments("orders-0", 3)
    broker.segments("payments-0", 1)
    async with shared(fleet_settings(broker, bucket, table, enabled=False)) as (storage, fleet):
        assert (await synced(fleet)).written == 6
        for name in broker.triple(first):
            (broker.root / name).unlink()
        for path in (broker.root / "payments-0").iterdir():
            path.unlink()
        await storage.run_cycle()
        assert await synced(fleet) == Synced(written=0, deleted=3, has_read=False)
        assert {path.split("/")[0] for path in await in_table(table)} == {"orders-0"}
        assert first not in await in_table(table)


@pytest.mark.long
async def test_a_topic_created_again_has_items_of_its_own(broker: Broker, bucket: Bucket, table: Table) -> None:
    first, second = "1HPDq9KPTmqeRsGSyBUSuA", "2HPDq9KPTmqeRsGSyBUSuB"
    (path,) = broker.segments("orders-0", 1)
    metadata = broker.root / "orders-0" / "partition.metadata"
    metadata.write_text(f"version: 0\ntopic_id: {first}")
    async with shared(fleet_settings(broker, bucket, table)) as (storage, fleet):
        await storage.run_cycle()
        await synced(fleet)
        for name in list((broker.root / "orders-0").iterdir()):
            name.unlink()
        broker.next_offset.clear()
        broker.segments("orders-0", 1, size=5_000)
        metadata.write_text(f"version: 0\ntopic_id: {second}")
        await storage.run_cycle()
        await synced(fleet)
        items = [
            item
            async for page in table.database.pages("scan", TableName=table.name)
            for item in page["Items"]
            if item["e"] == {"S": "Segment"} and item["o"] == {"N": "0"}
        ]
        assert {(item["i"]["S"], item["s"]["S"]) for item in items} == {(first, "archived"), (second, "archived")}
        assert len([info for info in storage.segments() if info.segment_path == path]) == 2


@pytest.mark.long
async def test_another_daemon_of_the_same_name_is_kept_out(
    broker: Broker, bucket: Bucket, table: Table, tmp_path: Any
) -> None:
    broker.segments("orders-0", 1)
    other = Broker(tmp_path / "other")
    other.root.mkdir()
    other.segments("payments-0", 1)
    async with shared(fleet_settings(broker, bucket, table)) as (_, first):
        await synced(first)
        before = await in_table(table)
        async with shared(fleet_settings(other, bucket, table, s3_prefix="other")) as (storage, second):
            assert await second.sync() is None
            assert "writes to the fleet's table as node broker-1" in second.problem
            assert "another daemon" in storage.notes()["fleet"]
            status = storage.status().fleet
            assert status is not None
            assert (status.problem_since is None, status.synced_at) == (False, None)
            assert await in_table(table) == before
        assert await synced(first) == Synced(0, 0, has_read=False)
    # It stopped in order: nobody has to wait for its lease.
    async with shared(fleet_settings(other, bucket, table, s3_prefix="other")) as (_, second):
        assert (await synced(second)).has_read
        assert {path.split("/")[0] for path in await in_table(table)} == {"payments-0"}


@pytest.mark.long
async def test_one_whose_lease_was_taken_writes_nothing(
    broker: Broker, bucket: Bucket, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.segments("orders-0", 2)
    async with shared(fleet_settings(broker, bucket, table)) as (storage, fleet):
        await synced(fleet)
        before = await in_table(table)
        # It slept, and another one took over.
        key = {"PK": {"S": f"L#node/{NODE}"}, "SK": {"S": "L"}}
        await table.database.call(
            "update_item", TableName=table.name, Key=key, UpdateExpression="SET f = :f, h = :h",
            ExpressionAttributeValues={":f": {"N": "99"}, ":h": {"S": "another"}},
        )  # fmt: skip
        await storage.run_cycle()
        assert await fleet.sync() is None
        assert "as node broker-1" in fleet.problem
        assert await in_table(table) == before


async def test_a_new_state_directory_takes_leases_from_the_table(broker: Broker, bucket: Bucket, table: Table) -> None:
    first, second, *_ = broker.segments("orders-0", 3)
    settings = fleet_settings(broker, bucket, table, fleet_mode="dynamodb")
    async with shared(settings) as (storage, fleet):
        await storage.run_cycle()
        await storage.restore_segment(first)
        await synced(fleet)
        until = storage.segment(first).lease_until
        assert until is not None
    for path in settings.state_dir.iterdir():
        if path.is_file():
            path.unlink()
    async with TieredStorage.open(settings, scan=False) as storage, open_fleet(storage) as fleet:
        await fleet.begin()
        found = storage.segment(first).lease_until
        assert found is not None
        # The table has milliseconds.
        assert abs(datetime.fromisoformat(found) - datetime.fromisoformat(until)) < timedelta(milliseconds=2)
        await storage.run_cycle()
        assert broker.is_whole(first)
        # It is a lease like any other.
        passed = 25 * 3600.0
        pass_time(storage, lambda: passed)
        await storage.run_cycle()
        assert not broker.on_disk(first)
        assert storage.segment(first).state == "archived"
        assert not broker.on_disk(second)
        assert parts(storage).catalog.quarantined == 0


@pytest.mark.long
async def test_items_of_others_stay(broker: Broker, bucket: Bucket, table: Table) -> None:
    broker.segments("orders-0", 1)
    foreign = {"PK": {"S": "X"}, "SK": {"S": "Y"}, "GSI1PK": {"S": f"N#{NODE}#3"}, "GSI1SK": {"S": "S#what"}}
    await table.database.call("put_item", TableName=table.name, Item=foreign)
    async with shared(fleet_settings(broker, bucket, table)) as (_, fleet):
        assert (await synced(fleet)).written == 2
        assert await table.get({name: foreign[name] for name in ("PK", "SK")}) == foreign
        assert to_item(Node(node=NODE))["PK"] == {"S": f"N#{NODE}"}


@pytest.mark.long
async def test_a_table_that_is_made_later(broker: Broker, bucket: Bucket, s3_endpoint: str, table_name: str) -> None:
    broker.segments("orders-0", 1)
    async with shared(fleet_settings(broker, bucket, table_name)) as (storage, fleet):
        assert await fleet.sync() is None
        assert "takhin-tiered fleet init" in fleet.problem
        # No cycle needs it.
        assert not (await storage.run_cycle()).failed
        async with open_dynamodb(REGION, s3_endpoint) as database:
            await initialise(Table(database, table_name))
        assert (await synced(fleet)).written == 2
        assert fleet.problem == ""
