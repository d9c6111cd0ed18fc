"""Hybrid tables, beside the bare client: ``python -m benchmarks.tables_worker ENDPOINT ITEMS WORK`` prints seconds."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import aioboto3
from aiobotocore.config import AioConfig

from benchmarks.delay import delayed
from takhin_tiered import Settings, lifecycle, logs
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid import HybridTables
from takhin_tiered.hybrid.archiving import BATCH

REGION, BUCKET = "us-east-1", "takhin-tables"
POINTERS, LIVE = 50, 100
LATENCY = 0.1
_OLD = (datetime.now(UTC) - timedelta(days=400)).isoformat()


def made(number: int, at: str, pk: str = "") -> Item:
    """About a KiB, in ten attributes."""
    return {
        "pk": {"S": pk or f"CUST_{number % 97}"},
        "sk": {"S": f"ORDER_{number:08}"},
        "at": {"S": at},
        "status": {"S": "delivered"},
        "total": {"N": f"{number}.95"},
        "note": {"S": f"order {number} of somebody, to be left at the door. " * 10},
        "lines": {"L": [{"M": {"sku": {"S": f"sku-{line}"}, "count": {"N": "2"}}} for line in range(8)]},
        "tags": {"SS": ["one", "three", "two"]},
        "address": {"M": {"city": {"S": "Berlin"}, "street": {"S": "Unter den Linden 1"}}},
        "paid": {"BOOL": True},
    }


async def main(endpoint: str, count: int, work: str) -> None:
    async with AsyncExitStack() as stack:
        session = aioboto3.Session()
        config = AioConfig(max_pool_connections=BATCH + 5, parameter_validation=False)
        how: dict[str, Any] = {"region_name": REGION, "endpoint_url": endpoint, "config": config}
        dynamo = await stack.enter_async_context(session.client("dynamodb", **how))
        s3 = await stack.enter_async_context(session.client("s3", **how))
        bench = Tables(endpoint, Path(work), dynamo, s3)
        await bench.reading()
        await bench.archiving(count)
        print(json.dumps(bench.seconds))


class Tables:
    def __init__(self, endpoint: str, work: Path, dynamo: Any, s3: Any) -> None:
        self._endpoint, self._work, self._dynamo, self._s3 = endpoint, work, dynamo, s3
        self.seconds: dict[str, float] = {}

    async def _table(self, items: Sequence[Item]) -> str:
        name = f"bench-{uuid4().hex[:10]}"
        kinds = {"pk": "HASH", "sk": "RANGE"}
        await self._dynamo.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in kinds.items()],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in kinds],
        )
        for at in range(0, len(items), 25):
            puts = [{"PutRequest": {"Item": item}} for item in items[at : at + 25]]
            await self._dynamo.batch_write_item(RequestItems={name: puts})
        return name

    def _settings(self, table: str, bucket: str, s3_endpoint: str = "") -> Settings:
        data = self._work / "data"
        data.mkdir(exist_ok=True)
        described = {"name": table, "partition_key": "pk", "sort_key": "sk", "timestamp": "at"}
        return Settings(
            data_dir=data,
            enabled=True,
            s3_bucket=bucket,
            s3_region=REGION,
            s3_endpoint=s3_endpoint or self._endpoint,
            fleet_endpoint=self._endpoint,
            hybrid_tables=[described],
        )

    async def _bucket(self) -> str:
        name = f"{BUCKET}-{uuid4().hex[:10]}"
        await self._s3.create_bucket(Bucket=name)
        return name

    async def reading(self) -> None:
        """Pointers whose store is far away, once from there and then from the cache; items that are in the table."""
        now = datetime.now(UTC).isoformat()
        items = [made(number, _OLD, "old") for number in range(POINTERS)]
        items += [made(number, now, "new") for number in range(LIVE)]
        table, bucket = await self._table(items), await self._bucket()
        async with HybridTables.open(self._settings(table, bucket)) as tables:
            assert (await tables.archive_old_data()).items_archived == POINTERS
        async with delayed(self._endpoint, LATENCY) as far:
            far_away = self._settings(table, bucket, far)
            async with HybridTables.open(far_away) as tables:
                # The connections of a process that has run for a while.
                await tables.archive_old_data(dry_run=True)
                handle = tables.table(table, typed=True)

                async def old() -> None:
                    assert len([item async for item in handle.query("old")]) == POINTERS

                self.seconds["pointers"] = await timed(old)
                self.seconds["cached"] = median([await timed(old) for _ in range(40)])
        async with HybridTables.open(self._settings(table, bucket)) as tables:
            handle, plain = tables.table(table, typed=True), tables.table(table)

            async def ours() -> None:
                assert len([item async for item in handle.query("new")]) == LIVE

            async def ours_plain() -> None:
                assert len([item async for item in plain.query("new")]) == LIVE

            async def bare() -> None:
                found = await self._dynamo.query(
                    TableName=table,
                    KeyConditionExpression="pk = :p",
                    ExpressionAttributeValues={":p": {"S": "new"}},
                    ConsistentRead=True,
                )
                assert len(found["Items"]) == LIVE

            # In turn, so that what else runs on the machine meets all of them.
            calls = [("live", ours), ("live plain", ours_plain), ("live bare", bare)]
            samples: dict[str, list[float]] = {name: [] for name, _ in calls}
            for _ in range(60):
                for name, call in calls:
                    samples[name].append(await timed(call))
            self.seconds |= {name: median(values) for name, values in samples.items()}
            self.seconds |= {f"{name} cpu": await self._processor(call) for name, call in calls}

    @staticmethod
    async def _processor(call: Callable[[], Awaitable[None]]) -> float:
        """Seconds of a processor: what else runs on the machine counts less."""
        began = time.process_time()
        for _ in range(50):
            await call()
        return (time.process_time() - began) / 50

    async def archiving(self, count: int) -> None:
        """All of a table, and the bare calls for as many items that need not be read, as many at a time."""
        items = [made(number, _OLD) for number in range(count)]
        table, bucket, other = await self._table(items), await self._bucket(), await self._table(items)
        await self._bare(other, items[: BATCH * 4], bucket, "warm")
        began = time.perf_counter()
        await self._bare(other, items, bucket, "bare")
        self.seconds["bare"] = time.perf_counter() - began
        async with HybridTables.open(self._settings(table, bucket)) as tables:
            await tables.archive_old_data(dry_run=True)
            began = time.perf_counter()
            result = await tables.archive_old_data()
            self.seconds["archive"] = time.perf_counter() - began
            assert (result.items_archived, result.errors) == (count, [])

    async def _bare(self, table: str, items: Sequence[Item], bucket: str, prefix: str) -> None:
        waiting = iter(items)
        removed = [name for name in items[0] if name not in {"pk", "sk", "at"}]
        update = "SET s3Key = :k, archivedAt = :a REMOVE " + ", ".join(f"#{name}" for name in removed)
        names = {f"#{name}": name for name in removed}

        async def worker() -> None:
            for item in waiting:
                key = f"{prefix}/{item['pk']['S']}/{item['sk']['S']}.json.gz"
                body = gzip.compress(json.dumps(item).encode(), 6)
                await self._s3.put_object(Bucket=bucket, Key=key, Body=body)
                await self._dynamo.update_item(
                    TableName=table,
                    Key={"pk": item["pk"], "sk": item["sk"]},
                    UpdateExpression=update,
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues={":k": {"S": key}, ":a": {"S": _OLD}},
                )

        await asyncio.gather(*(worker() for _ in range(BATCH)))


async def timed(call: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


if __name__ == "__main__":
    logs.configure("error", "text")
    lifecycle.run_in_loop(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
