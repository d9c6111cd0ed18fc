"""What the tests of hybrid tables share: a table on a real server, items of every type, the plain SDK beside ours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import botocore.session
from botocore.config import Config

from takhin_tiered import Settings
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid import HybridTable, HybridTables
from takhin_tiered.hybrid.typed import canonical_number
from tests.support import REGION, Bucket

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=400)
POINTER = {"s3Key", "archivedAt"}


@dataclass
class OpenTable:
    """A table with keys ``pk`` and ``sk``, opened, and all that it is made of."""

    dynamo: Dynamo
    name: str
    settings: Settings
    root: Path
    tables: HybridTables
    table: HybridTable[Item]


def in_another_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """To its end, in a thread, as another process would do it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result(60)


class Dynamo:
    """An independent look at DynamoDB: the plain SDK, no code of ours."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = botocore.session.get_session().create_client(
            "dynamodb",
            region_name=REGION,
            endpoint_url=endpoint,
            config=Config(retries={"mode": "standard"}, read_timeout=60),
        )
        self.made: list[str] = []

    def create(self, *, name: str = "", sort: str = "S", partition: str = "S", indexes: bool = False) -> str:
        """A table with the keys ``pk`` and ``sk``; ``sort`` empty: without a sort key."""
        name = name or f"t-{uuid4().hex[:12]}"
        keys = [{"AttributeName": "pk", "KeyType": "HASH"}]
        types = {"pk": partition}
        if sort:
            keys.append({"AttributeName": "sk", "KeyType": "RANGE"})
            types["sk"] = sort
        more: dict[str, Any] = {}
        if indexes:
            types |= {"status": "S", "total": "N"}
            more["GlobalSecondaryIndexes"] = [
                index("by_status", "status", "total"),
                index("by_status_keys", "status", "total", projection="KEYS_ONLY"),
                index("by_status_some", "status", "total", projection="INCLUDE", included=["note"]),
            ]
            more["LocalSecondaryIndexes"] = [index("by_total", "pk", "total")]
        self.client.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=keys,
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind} for key, kind in types.items()],
            **more,
        )
        self.made.append(name)
        return name

    def put(self, table: str, *items: Item) -> None:
        for item in items:
            self.client.put_item(TableName=table, Item=item)

    def put_all(self, table: str, items: Sequence[Item]) -> None:
        for at in range(0, len(items), 25):
            requests = [{"PutRequest": {"Item": item}} for item in items[at : at + 25]]
            while requests:
                answer = self.client.batch_write_item(RequestItems={table: requests})
                requests = answer.get("UnprocessedItems", {}).get(table, [])

    def get(self, table: str, key: Item) -> Item | None:
        found: Item | None = self.client.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
        return found

    def scan(self, table: str) -> list[Item]:
        return self.all("scan", TableName=table, ConsistentRead=True)

    def all(self, operation: str, **parameters: Any) -> list[Item]:
        pages = self.client.get_paginator(operation).paginate(**parameters)
        return [item for page in pages for item in page["Items"]]

    def pointers(self, table: str) -> list[Item]:
        return [item for item in self.scan(table) if set(item) >= POINTER]

    def close(self) -> None:
        for name in self.made:
            self.client.delete_table(TableName=name)
        self.client.close()


def index(
    name: str, partition: str, sort: str, *, projection: str = "ALL", included: Sequence[str] = ()
) -> dict[str, Any]:
    keys = [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]
    more = {"NonKeyAttributes": list(included)} if included else {}
    return {"IndexName": name, "KeySchema": keys, "Projection": {"ProjectionType": projection, **more}}


def described(table: str, *, sort: bool = True, **more: Any) -> dict[str, Any]:
    """As in the configuration."""
    keys = {"sort_key": "sk"} if sort else {}
    return {"name": table, "partition_key": "pk", "timestamp": "at", **keys, **more}


def hybrid_settings(
    root: Path, dynamo: Dynamo, tables: Sequence[dict[str, Any]], bucket: Bucket | None = None, **more: Any
) -> Settings:
    """Settings for these tables with a bucket, or with a directory store."""
    data = root / "data"
    data.mkdir(exist_ok=True)
    if bucket is None:
        (root / "store").mkdir(exist_ok=True)
        store: dict[str, Any] = {"directory_path": root / "store"}
    else:
        store = {"s3_bucket": bucket.name, "s3_endpoint": bucket.endpoint}
    return Settings(
        **{
            "data_dir": data,
            "enabled": True,
            "api_port": 0,
            "fleet_endpoint": dynamo.endpoint,
            "hybrid_tables": list(tables),
            **store,
            **more,
        }
    )


def s(value: str) -> dict[str, Any]:
    return {"S": value}


def n(value: object) -> dict[str, Any]:
    return {"N": str(value)}


def item(pk: str, sk: str = "", *, age_days: float = 400.0, **more: Any) -> Item:
    """An item that is so old; other attributes are typed values, or texts."""
    at = (NOW - timedelta(days=age_days)).isoformat()
    typed = {name: value if isinstance(value, dict) else s(value) for name, value in more.items()}
    return {"pk": s(pk), **({"sk": s(sk)} if sk else {}), "at": s(at), **typed}


WORDS = ["", "plain", "a/b", "..", ".", "ä ö", "100%", "%2F", "x.g2", "new\nline", "日本", "\U0001f40d", "a=b", "~"]
NUMBERS = ["0", "1", "-1", "1.5", "-0.001", "1E100", "1E-100", "12345678901234567890123456789012345678", "1000000"]


def of_every_type(chance: random.Random) -> Item:
    """Some attributes of every type of DynamoDB, nested ones too."""
    found: Item = {
        "text": s(chance.choice(WORDS) * chance.randint(1, 20)),
        "number": n(canonical_number(chance.choice(NUMBERS))),
        "bytes": {"B": chance.randbytes(chance.randint(0, 60))},
        "yes": {"BOOL": chance.random() < 0.5},
        "nothing": {"NULL": True},
        "words": {"SS": sorted({chance.choice(WORDS[1:]) for _ in range(4)})},
        "numbers": {"NS": sorted({canonical_number(chance.choice(NUMBERS)) for _ in range(4)})},
        "blobs": {"BS": sorted({chance.randbytes(4) for _ in range(3)})},
        "note": s(f"note {chance.randint(0, 99)}"),
    }
    found["list"] = {"L": [found["text"], found["number"], {"L": []}, {"M": {"inner": found["bytes"]}}]}
    found["map"] = {"M": {"city": s(chance.choice(["Berlin", "Rome"])), "no": {"NULL": True}, "set": found["words"]}}
    # No two items have the same attributes.
    return {name: value for name, value in found.items() if chance.random() < 0.8}


def many(count: int, chance: random.Random, *, partitions: int = 20) -> Iterator[Item]:
    """Items of which a third is old, in ages of every form."""
    for number in range(count):
        is_old = number % 3 == 0
        moment = (OLD if is_old else NOW) + timedelta(seconds=chance.randint(-10_000, 0))
        forms = [
            s(moment.isoformat()),
            s(moment.isoformat().replace("+00:00", "Z")),
            n(int(moment.timestamp())),
            n(int(moment.timestamp() * 1000)),
        ]
        yield {
            "pk": s(f"CUST_{number % partitions}"),
            "sk": s(f"{chance.choice(['ORDER', 'BILL'])}_{number:06}{chance.choice(WORDS)}"),
            "at": chance.choice(forms),
            "status": s(chance.choice(["open", "paid", "sent"])),
            "total": n(chance.randint(0, 500)),
            **of_every_type(chance),
        }


def normal(found: Item) -> Any:
    """For comparing: sets have no order, numbers one spelling."""
    return {name: _normal(value) for name, value in found.items()}


def _number(text: str) -> tuple[int, str, int]:
    """Sign, digits and exponent, without zeros at the end: exact, and by no code of ours."""
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    written = "".join(map(str, digits)).lstrip("0")
    kept = written.rstrip("0")
    return (sign, kept, exponent + len(written) - len(kept)) if kept else (0, "", 0)


def _normal(value: dict[str, Any]) -> Any:
    ((kind, inner),) = value.items()
    if kind == "N":
        return kind, _number(inner)
    if kind == "NS":
        return kind, frozenset(map(_number, inner))
    if kind in {"SS", "BS"}:
        return kind, frozenset(inner)
    if kind == "L":
        return kind, [_normal(each) for each in inner]
    if kind == "M":
        return kind, {name: _normal(each) for name, each in inner.items()}
    return kind, inner
