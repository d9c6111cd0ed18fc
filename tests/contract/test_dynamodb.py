"""The client of DynamoDB, on a real server with faults between."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from takhin_tiered.aws import parsing
from takhin_tiered.aws.breaker import Breaker, Circuit
from takhin_tiered.aws.dynamodb import Call, DynamoDB, open_dynamodb
from takhin_tiered.aws.outcomes import ConditionFailed, Item, TransactionCancelled
from takhin_tiered.errors import TableMissing, TableRejected, TableThrottled, TableUnavailable
from tests.faults.proxy import Fault, Kind, Proxy, proxy
from tests.support import REGION, free_port, ministack
from tests.tables import Dynamo, of_every_type

NEW = "attribute_not_exists(id)"


@pytest.fixture(scope="module")
def dynamodb_endpoint() -> Iterator[str]:
    """A server of its own: the store that the tests run on may be one of S3 alone."""
    with ministack() as endpoint:
        yield endpoint


@asynccontextmanager
async def table_at(endpoint: str, **more: Any) -> AsyncIterator[tuple[DynamoDB, str]]:
    async with open_dynamodb(REGION, endpoint, **more) as database:
        name = f"takhin-{uuid4().hex[:12]}"
        await database.call(
            "create_table",
            TableName=name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield database, name


@asynccontextmanager
async def faulty(endpoint: str, **more: Any) -> AsyncIterator[tuple[Proxy, DynamoDB, str]]:
    async with proxy(endpoint) as between, table_at(between.endpoint, **more) as (database, table):
        yield between, database, table


def item(key: str, **more: dict[str, Any]) -> Item:
    return {"id": {"S": key}, **more}


async def test_numbers_sets_and_bytes_are_exact(dynamodb_endpoint: str) -> None:
    async with table_at(dynamodb_endpoint) as (database, table):
        given = item("x", n={"N": "12345678901234567890123456789012345678"}, b={"B": b"\x00\xff"}, s={"NS": ["1", "2"]})
        await database.call("put_item", TableName=table, Item=given)
        found = (await database.call("get_item", TableName=table, Key=item("x"), ConsistentRead=True))["Item"]
        assert sorted(found.pop("s")["NS"]) == sorted(given.pop("s")["NS"])
        assert found == given


async def test_answers_are_those_of_the_sdk(dynamodb_endpoint: str) -> None:
    """Items are not read by the SDK's parser: each way by which they come gives what it gives."""
    chance = random.Random(7)
    async with table_at(dynamodb_endpoint) as (database, table):
        for number in range(20):
            await database.call("put_item", TableName=table, Item=item(f"{number}", **of_every_type(chance)))
        keys = [item(f"{number}") for number in range(20)]
        plain = Dynamo(dynamodb_endpoint)
        calls: dict[str, dict[str, Any]] = {
            "scan": {"TableName": table, "Limit": 5},
            "query": {
                "TableName": table, "KeyConditionExpression": "id = :x", "ExpressionAttributeValues": {":x": {"S": "3"}}
            },
            "get_item": {"TableName": table, "Key": keys[0]},
            "batch_get_item": {"RequestItems": {table: {"Keys": keys}}},
            "transact_get_items": {"TransactItems": [{"Get": {"TableName": table, "Key": key}} for key in keys]},
            "put_item": {"TableName": table, "Item": item("3", b={"BS": [b"\x00"]}), "ReturnValues": "ALL_OLD"},
            "delete_item": {"TableName": table, "Key": keys[3], "ReturnValues": "ALL_OLD"},
        }  # fmt: skip
        for operation, parameters in calls.items():
            if operation in {"put_item", "delete_item"}:
                expected: Any = {"Attributes": plain.get(table, keys[3])}
            else:
                expected = getattr(plain.client, operation)(**parameters)
            found = await database.call(operation, **parameters)
            for name in ("Items", "Item", "Responses", "Attributes", "LastEvaluatedKey"):
                assert found.get(name) == expected.get(name)
        plain.client.close()


async def test_a_condition_that_does_not_hold_is_an_answer(dynamodb_endpoint: str) -> None:
    async with table_at(dynamodb_endpoint) as (database, table):
        await database.call("put_item", TableName=table, Item=item("x", v={"S": "1"}), ConditionExpression=NEW)
        with pytest.raises(ConditionFailed) as failed:
            await database.call(
                "put_item",
                TableName=table,
                Item=item("x"),
                ConditionExpression=NEW,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        assert failed.value.item in (None, item("x", v={"S": "1"}))
        put = {"Put": {"TableName": table, "Item": item("x"), "ConditionExpression": NEW}}
        with pytest.raises(TransactionCancelled) as cancelled:
            await database.call(
                "transact_write_items",
                TransactItems=[{"Put": {"TableName": table, "Item": item("y")}}, put],
            )
        assert cancelled.value.reasons == ("None", "ConditionalCheckFailed")
        assert await database.batch_get(table, [item("x"), item("y")]) == [item("x", v={"S": "1"})]


async def test_what_makes_no_sense_has_a_class(dynamodb_endpoint: str) -> None:
    async with table_at(dynamodb_endpoint) as (database, table):
        with pytest.raises(TableMissing, match="absent"):
            await database.call("get_item", TableName="absent", Key=item("x"))
        with pytest.raises(TableRejected):
            await database.call("put_item", TableName=table, Item={"other": {"S": "x"}})


async def test_batches_of_any_length_and_pages(dynamodb_endpoint: str) -> None:
    async with table_at(dynamodb_endpoint) as (database, table):
        items = [item(f"{number:03d}", pad={"S": "x" * 5000}) for number in range(260)]
        await database.batch_write(table, puts=items)
        found = await database.batch_get(table, [item(each["id"]["S"]) for each in items])
        assert sorted(found, key=lambda each: str(each["id"]["S"])) == items
        pages = [page async for page in database.pages("scan", TableName=table, Limit=100)]
        assert sum(len(page["Items"]) for page in pages) == 260
        assert len(pages) >= 3
        await database.batch_write(table, deletes=[item(each["id"]["S"]) for each in items[:200]])
        assert len(await database.batch_get(table, [item(each["id"]["S"]) for each in items])) == 60


async def test_throttling_and_broken_connections_are_tried_again(dynamodb_endpoint: str) -> None:
    calls: list[Call] = []
    async with faulty(dynamodb_endpoint, listener=calls.append) as (between, database, table):
        between.faults += [
            Fault(Kind.THROTTLED, key="PutItem", count=2),
            Fault(Kind.RESET, key="PutItem", count=1),
            Fault(Kind.ERROR_500, key="PutItem", count=1),
        ]
        await database.call("put_item", TableName=table, Item=item("x"))
        assert (calls[-1].operation, calls[-1].table, calls[-1].attempts) == ("put_item", table, 5)
        assert calls[-1].outcome == "ok"
        assert calls[-1].correlation_id


async def test_throttling_has_an_end(dynamodb_endpoint: str) -> None:
    async with faulty(dynamodb_endpoint, deadline=1.0) as (between, database, table):
        between.faults.append(Fault(Kind.THROTTLED, key="GetItem"))
        began = time.monotonic()
        with pytest.raises(TableThrottled):
            await database.call("get_item", TableName=table, Key=item("x"))
        assert time.monotonic() - began < 10
        # It answers: it is not down.
        assert database.breaker.state is Circuit.CLOSED


async def test_while_it_is_down_calls_fail_at_once_and_one_tries(dynamodb_endpoint: str) -> None:
    async with faulty(dynamodb_endpoint, deadline=30.0, breaker=Breaker()) as (between, database, table):
        down = Fault(Kind.RESET)
        between.faults.append(down)

        async def get() -> None:
            await database.call("get_item", TableName=table, Key=item("x"))

        for _ in range(5):
            with pytest.raises(TableUnavailable):
                await get()
        assert database.breaker.state.value == "open"
        hits, began = down.hits, time.monotonic()
        results = await asyncio.gather(*(get() for _ in range(50)), return_exceptions=True)
        assert all(isinstance(result, TableUnavailable) for result in results)
        assert down.hits - hits <= 1
        assert time.monotonic() - began < 10
        between.faults.clear()
        while True:
            try:
                await get()
                break
            except TableUnavailable:
                await asyncio.sleep(0.05)
        assert database.breaker.state is Circuit.CLOSED


async def test_the_sdk_still_asks_our_parser_for_items(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called by a private name of the SDK: where that changes, items are read slowly, and not wrongly."""
    read = parsing._read_map
    seen: list[Item] = []

    def noted(values: Item) -> Item:
        seen.append(values)
        return read(values)

    monkeypatch.setattr(parsing, "_read_map", noted)
    async with table_at(dynamodb_endpoint) as (database, table):
        await database.call("put_item", TableName=table, Item=item("x"))
        assert await database.batch_get(table, [item("x")]) == [item("x")] == seen


async def test_a_server_that_is_not_there_is_named() -> None:
    async with open_dynamodb(REGION, f"http://127.0.0.1:{free_port()}", deadline=0.2) as database:
        with pytest.raises(TableUnavailable, match="orders"):
            await database.call("get_item", TableName="orders", Key=item("x"))
