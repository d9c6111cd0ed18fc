"""The fleet's table on a real server: its definition, its repositories, leases, quotas and the log of operations."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from takhin_tiered.aws.dynamodb import open_dynamodb
from takhin_tiered.aws.outcomes import TransactionCancelled
from takhin_tiered.errors import ObjectMissing, TableMissing, TableRejected
from takhin_tiered.fleet.entities import Lease, Node, Operation, Segment
from takhin_tiered.fleet.initialise import initialise, look_at, telling_what_is_wrong
from takhin_tiered.fleet.leases import Held, HeldByOther, Leases
from takhin_tiered.fleet.local import shard_of
from takhin_tiered.fleet.operations import Calls, OperationLog
from takhin_tiered.fleet.overview import look_at_fleet, segments_of
from takhin_tiered.fleet.quotas import Exhausted, Granted, Quotas
from takhin_tiered.fleet.repositories import AlreadyThere, Created, Repository, Scope, Table
from takhin_tiered.fleet.transforms import to_item
from tests.support import REGION

NODE = "broker-1"


def segment(base: int, **more: Any) -> Segment:
    given = {"node": NODE, "topic": "orders", "partition": 0, "incarnation": "~0", "state": "local", **more}
    return Segment(base_offset=base, shard=shard_of("orders", 0, base), **given)


async def count_of(table: Table) -> int:
    pages = table.database.pages("scan", TableName=table.name, ConsistentRead=True)
    return sum([len(page["Items"]) async for page in pages])


async def test_a_table_is_initialised_once_and_looked_at(s3_endpoint: str, table_name: str) -> None:
    async with open_dynamodb(REGION, s3_endpoint) as database:
        table = Table(database, table_name)
        with pytest.raises(TableMissing):
            await look_at(table)
        first, second = await initialise(table), await initialise(table)
        assert (first.created, first.ttl_enabled) == (True, True)
        assert (second.created, second.ttl_enabled) == (False, False)
        state = await look_at(table)
        assert (state.status, state.ttl, state.problems) == ("ACTIVE", "ENABLED", ())
        described = (await database.call("describe_table", TableName=table_name))["Table"]
        assert described["StreamSpecification"] == {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
        assert {
            index["IndexName"]: index["Projection"]["ProjectionType"] for index in described["GlobalSecondaryIndexes"]
        } == {"GSI1": "ALL", "GSI2": "KEYS_ONLY"}
        ttl = await database.call("describe_time_to_live", TableName=table_name)
        assert ttl["TimeToLiveDescription"]["AttributeName"] == "ttl"


@pytest.mark.long
async def test_several_may_initialise_at_once(s3_endpoint: str, table_name: str) -> None:
    async with open_dynamodb(REGION, s3_endpoint) as database:
        done = await asyncio.gather(*(initialise(Table(database, table_name)) for _ in range(4)))
        assert sum(each.created for each in done) == 1


@pytest.mark.long
async def test_another_table_is_left_as_it_is(s3_endpoint: str, table_name: str) -> None:
    async with open_dynamodb(REGION, s3_endpoint) as database:
        await database.call(
            "create_table",
            TableName=table_name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        with pytest.raises(TableRejected, match="its keys are not PK and SK"):
            await initialise(Table(database, table_name))
        assert "it has no index GSI1" in (await look_at(Table(database, table_name))).problems
        # Whoever asks anything of it is told why it is refused.
        with pytest.raises(TableRejected, match=r"query failed.* is not the fleet's: its keys are not PK and SK"):
            async with telling_what_is_wrong(Table(database, table_name)):
                await look_at_fleet(Table(database, table_name))


async def test_of_many_who_create_an_item_one_does(table: Table) -> None:
    repository = Repository(table, Segment)
    wanted = [segment(5, size=number) for number in range(20)]
    done = await asyncio.gather(*map(repository.create, wanted))
    (stands,) = [each for each, result in zip(wanted, done, strict=True) if result == Created()]
    assert [each for each in done if each != Created()] == [AlreadyThere(stands)] * 19
    found = await repository.get(topic="orders", partition=0, incarnation="~0", node=NODE, base_offset=5)
    assert found == stands


async def test_pages_follow_one_another_by_their_cursors(table: Table) -> None:
    repository = Repository(table, Segment)
    # More than fit one batch.
    wanted = [segment(base, state="archived", modified_at=base) for base in range(60)]
    assert await repository.put_all(wanted) == 60
    scope, cursor = Scope("T#orders-0#I#~0#N#broker-1", "S#"), None
    found: list[Segment] = []
    sizes: list[int] = []
    while True:
        page = await repository.page(scope, limit=25, cursor=cursor)
        found += page.entities
        sizes.append(len(page.entities))
        cursor = page.cursor
        if cursor is None:
            break
    assert (found, sizes[:2]) == (wanted, [25, 25])
    newest = await repository.page(scope, limit=1, newest=True)
    assert newest.entities == (wanted[-1],)
    assert [each async for each in repository.each(scope)] == wanted
    indexed = [each async for each in segments_of(table, NODE, "archived")]
    assert sorted(indexed, key=lambda each: each.base_offset) == wanted
    with pytest.raises(TableRejected, match="no cursor"):
        await repository.page(scope, cursor="nonsense!")
    keys = [{"topic": "orders", "partition": 0, "incarnation": "~0", "node": NODE, "base_offset": b} for b in range(60)]
    assert await repository.delete_all(keys) == 60
    assert await count_of(table) == 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_lease_is_taken_over_once_its_record_stood_still(table: Table) -> None:
    first = Leases(table, "one", "host-1")
    clock = Clock()
    second = Leases(table, "two", clock=clock)
    held = await first.acquire("node/x", 60)
    assert isinstance(held, Held)
    assert held.lease.token == 1
    waiting = await second.acquire("node/x", 60)
    assert isinstance(waiting, HeldByOther)
    assert (waiting.lease.host, waiting.seconds) == ("host-1", 60)
    # However long the holder keeps it: while it renews, nobody takes it.
    for _ in range(3):
        clock.now += 59
        renewed = await first.renew(held.lease)
        assert isinstance(renewed, Held)
        held = renewed
        assert isinstance(await second.acquire("node/x", 60), HeldByOther)
    clock.now += 60
    taken = await second.acquire("node/x", 60)
    assert isinstance(taken, Held)
    assert taken.lease.token == 2
    # The one that was cut off learns of it, whatever it does.
    lost = await first.renew(held.lease)
    assert isinstance(lost, HeldByOther)
    assert lost.lease.holder == "two"
    await first.release(held.lease)
    assert (await second.look("node/x")) == taken.lease


async def test_a_fenced_write_is_refused(table: Table) -> None:
    clock = Clock()
    first, second = Leases(table, "one"), Leases(table, "two", clock=clock)
    held = await first.acquire("r", 10)
    assert isinstance(held, Held)

    async def write(leases: Leases, lease: Lease, base: int) -> None:
        put = {"Put": {"TableName": table.name, "Item": to_item(segment(base))}}
        await table.database.call("transact_write_items", TransactItems=[leases.condition(lease), put])

    await write(first, held.lease, 1)
    await second.acquire("r", 10)
    clock.now += 10
    taken = await second.acquire("r", 10)
    assert isinstance(taken, Held)
    with pytest.raises(TransactionCancelled):
        await write(first, held.lease, 2)
    await write(second, taken.lease, 3)
    scope = Scope("T#orders-0#I#~0#N#broker-1")
    assert [each.base_offset async for each in Repository(table, Segment).each(scope)] == [1, 3]


async def test_a_released_lease_is_free_and_its_tokens_grow(table: Table) -> None:
    first, second = Leases(table, "one"), Leases(table, "two")
    held = await first.acquire("r", 60)
    assert isinstance(held, Held)
    await first.release(held.lease)
    taken = await second.acquire("r", 60)
    assert isinstance(taken, Held)
    assert taken.lease.token == 2
    # The next process of the same holder does not wait either.
    again = await Leases(table, "two").acquire("r", 60)
    assert isinstance(again, Held)
    assert again.lease.token == 3
    assert isinstance(await second.renew(taken.lease), HeldByOther)


async def test_of_many_who_want_a_free_lease_one_gets_it(table: Table) -> None:
    found = await asyncio.gather(*(Leases(table, f"holder-{number}").acquire("r", 60) for number in range(20)))
    assert sum(isinstance(each, Held) for each in found) == 1
    held = next(each for each in found if isinstance(each, Held))
    assert {each.lease for each in found} == {held.lease}


async def test_a_quota_lets_through_what_it_says(table: Table) -> None:
    quotas = Quotas(table, NODE, now=lambda: 1_700_000_000.0)
    done = await asyncio.gather(*(quotas.take("read", 7) for _ in range(20)))
    assert sorted(each.used for each in done if isinstance(each, Granted)) == [1, 2, 3, 4, 5, 6, 7]
    assert [each for each in done if isinstance(each, Exhausted)] == [Exhausted(7)] * 13
    assert await quotas.take("read", 100, 101) == Exhausted(7)
    assert await quotas.take("read", 100, 93) == Granted(100)
    # Another day, another count; and another action.
    assert await Quotas(table, NODE, now=lambda: 1_700_086_400.0).take("read", 1) == Granted(1)
    assert await quotas.take("other", 1) == Granted(1)
    (item,) = [
        item
        async for page in table.database.pages("scan", TableName=table.name)
        for item in page["Items"]
        if (item["PK"], item["SK"]) == ({"S": "N#broker-1#Q#2023-11-14"}, {"S": "read"})
    ]
    assert item["u"] == {"N": "100"}
    assert item["ttl"] == {"N": str(1_699_920_000 + 90 * 86400)}


@pytest.mark.long
async def test_an_operation_is_logged_once_with_its_cost(table: Table, s3_endpoint: str) -> None:
    calls = Calls()
    async with open_dynamodb(REGION, s3_endpoint, listener=calls) as database:
        counted = Table(database, table.name)
        log = OperationLog(counted, NODE, calls)
        async with log.operation("sync") as tally:
            tally.written = await Repository(counted, Segment).put_all([segment(base) for base in range(50)])
        # Nothing was changed: nothing is logged.
        async with log.operation("sync"):
            await counted.get({"PK": {"S": "x"}, "SK": {"S": "x"}})

        async def fail() -> None:
            async with log.operation("migrate") as tally:
                tally.written = 3
                raise ObjectMissing("gone")

        with pytest.raises(ObjectMissing):
            await fail()
        day = None
        async for page in database.pages("scan", TableName=table.name):
            for item in page["Items"]:
                if item["e"] == {"S": "Operation"}:
                    day = item["dy"]["S"]
        assert day is not None
        found = sorted([each async for each in log.of_day(day)], key=lambda each: each.id)
        sync, failed = found
        assert (sync.action, sync.outcome, sync.written, sync.calls, sync.attempts) == ("sync", "ok", 50, 2, 2)
        # How much a server counts is its business.
        assert sync.capacity > 0
        assert len(sync.correlation_id) == 16
        assert (failed.action, failed.outcome) == ("migrate", "object_missing")
        assert sync.correlation_id != failed.correlation_id


async def test_entities_do_not_take_one_another_for_their_own(table: Table) -> None:
    await Repository(table, Segment).put_all([segment(1)])
    await Repository(table, Node).put_all([Node(node=NODE, segments=1)])
    await Repository(table, Operation).put_all(
        [
            Operation(
                node=NODE,
                day="2026-01-01",
                id="01",
                shard=3,
                created_at=0,
                action="a",
                outcome="ok",
                correlation_id="c",
            )
        ]
    )
    assert await Repository(table, Node).get(node=NODE) == Node(node=NODE, segments=1)
    assert [each async for each in segments_of(table, NODE)] == [segment(1)]
    assert [each async for each in Repository(table, Node).each(Scope("NODES", "", "GSI1"))] == [
        replace(Node(node=NODE), segments=1)
    ]
