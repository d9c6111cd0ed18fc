"""What an outage, a stop, a proxy, a restored table and a run in the middle of others leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from takhin_tiered import TieredStorage, machine
from takhin_tiered.aws.dynamodb import open_dynamodb
from takhin_tiered.aws.outcomes import TransactionCancelled
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import open_journal
from takhin_tiered.config import Settings
from takhin_tiered.errors import HeldElsewhere, TableUnavailable
from takhin_tiered.fleet.local import node_entity
from takhin_tiered.fleet.migration import Migrator
from takhin_tiered.fleet.quotas import Quotas
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.rollback import Rollback
from takhin_tiered.fleet.service import facts_of, identity_of, open_fleet
from takhin_tiered.fleet.transforms import table_key
from takhin_tiered.fleet.verification import verify
from tests.faults.proxy import Fault, Kind, proxy
from tests.fleet.catalogs import archived, deviations, everything, fill, migrate, node_of
from tests.fleet.test_sync import NODE, fleet_settings, shared, synced
from tests.support import REGION, Broker, Bucket
from tests.tables import Dynamo


@pytest.mark.long
@pytest.mark.parametrize("operation", ["Query", "TransactWriteItems"])
async def test_reads_that_an_outage_broke_off_are_not_counted(
    broker: Broker, bucket: Bucket, table: Table, operation: str
) -> None:
    broker.segments("orders-0", 2)
    quotas = Quotas(table, NODE)
    async with proxy(bucket.endpoint) as between:
        settings = fleet_settings(broker, bucket, table, fleet_endpoint=between.endpoint)
        async with shared(settings) as (_, fleet):
            between.faults = [Fault(Kind.DENIED, key=operation)]
            for _attempt in range(3):
                assert await fleet.sync() is None
            assert await quotas.used("read") == 0
            between.faults = []
            assert (await synced(fleet)).has_read
            assert await quotas.used("read") == 1


@pytest.mark.long
async def test_a_table_that_is_another_one_is_named(dynamo: Dynamo, broker: Broker, bucket: Bucket) -> None:
    """By a daemon, whose archive goes on."""
    broker.segments("orders-0", 2)
    name = dynamo.create()
    async with shared(fleet_settings(broker, bucket, name, fleet_endpoint=dynamo.endpoint)) as (storage, fleet):
        assert (await storage.run_cycle()).archived == 2
        assert await fleet.sync() is None
        assert f"the table {name} is not the fleet's: its keys are not PK and SK" in fleet.problem


@pytest.mark.long
async def test_a_sync_that_is_stopped_does_not_wait_for_the_table(broker: Broker, bucket: Bucket, table: Table) -> None:
    await fill(fleet_settings(broker, bucket, table), 300)
    async with proxy(bucket.endpoint) as between:
        settings = fleet_settings(broker, bucket, table, fleet_endpoint=between.endpoint)
        async with TieredStorage.open(settings) as storage, open_fleet(storage) as fleet:
            hanging = Fault(Kind.HANG, key="TransactWriteItems", skip=2)
            between.faults = [hanging, Fault(Kind.HANG, key="BatchWriteItem")]
            syncing = asyncio.create_task(fleet.sync())
            async with asyncio.timeout(20):
                while not hanging.hits:
                    await asyncio.sleep(0.02)
            syncing.cancel()
            done, _ = await asyncio.wait({syncing}, timeout=5)
            assert done == {syncing}
            between.faults = []


@pytest.mark.long
async def test_a_table_that_was_restored_from_a_backup_is_caught_up(
    broker: Broker, bucket: Bucket, table: Table
) -> None:
    broker.segments("orders-0", 2)
    settings = fleet_settings(broker, bucket, table)
    async with shared(settings) as (storage, fleet):
        await synced(fleet)
        backup = await everything(table)
        await storage.run_cycle()
        await synced(fleet)
        now = await everything(table)
        await table.database.batch_write(table.name, deletes=[table_key(item) for item in now.values()])
        await table.database.batch_write(table.name, puts=list(backup.values()))
        assert (await synced(fleet)).has_read
        assert not (await synced(fleet)).has_read
        assert [each async for each in verify(table, storage, node_of(storage))] == []


@asynccontextmanager
async def answering(status: int, kind: str, body: bytes) -> AsyncIterator[str]:
    """An HTTP server with one answer to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                lengths = [int(line.split(b":")[1]) for line in head if line.startswith(b"content-length")]
                await reader.readexactly(lengths[0])
                first = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(first.encode() + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (502, "text/html; charset=iso-8859-1", "<!DOCTYPE html>Störung".encode("latin-1")),
        (200, "text/html", b"<html>please log in</html>"),
        (200, "application/x-amz-json-1.0", b"[]"),
        (200, "application/x-amz-json-1.0", b""),
        (502, "application/json", b"null"),
    ],
)
async def test_a_page_of_a_proxy_is_an_outage(
    broker: Broker, bucket: Bucket, table: Table, status: int, kind: str, body: bytes
) -> None:
    broker.segments("orders-0", 1)
    async with answering(status, kind, body) as endpoint:
        settings = fleet_settings(broker, bucket, table, fleet_endpoint=endpoint)
        async with shared(settings) as (_, fleet):
            assert await fleet.sync() is None
            assert "does not answer as DynamoDB does" in fleet.problem


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        # Else a write that nobody did would be acknowledged.
        (b"", "put_item"),
        (b"", "transact_write_items"),
        (b"{}", "describe_table"),
        (b"{}", "query"),
        (b"{}", "scan"),
    ],
)
async def test_a_success_with_nothing_in_it_is_an_outage(body: bytes, operation: str) -> None:
    async with (
        answering(200, "application/x-amz-json-1.0", body) as endpoint,
        open_dynamodb(REGION, endpoint, deadline=0.1) as database,
    ):
        with pytest.raises(TableUnavailable, match="does not answer as DynamoDB does"):
            await database.call(operation, TableName="any")


@pytest.mark.long
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_of_two_runs_nothing_is_left_in_whatever_order_they_are_taken_back(
    settings: Settings, table: Table, order: tuple[int, int]
) -> None:
    await fill(settings, 10)
    first = await migrate(settings, table, "Segment")
    await fill(settings, 10, generation=2)
    runs = [first.run, (await migrate(settings, table, "Segment")).run]
    for at in order:
        await Rollback(table, runs[at]).run()
    assert await everything(table) == {}


@pytest.mark.long
async def test_what_left_the_catalog_before_a_run_goes_on_leaves_the_table(settings: Settings, table: Table) -> None:
    await fill(settings, 60)

    def stop(_: int) -> None:
        raise KeyError

    with pytest.raises(BaseExceptionGroup):
        await migrate(settings, table, batch_size=5, progress=stop)
    async with open_journal(settings.state_dir) as journal:
        assert journal is not None
        catalog = Catalog(journal)
        await catalog.load()
        for number in range(40):
            catalog.remove(archived(number).id)
        await catalog.flush()
        await journal.set_meta("clean", "yes")
    assert (await migrate(settings, table, resume=True)).written == 21
    assert await deviations(settings, table) == []


async def test_what_a_busy_table_refused_in_a_batch_is_deleted_all_the_same(
    settings: Settings, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(settings, 3)
    run = (await migrate(settings, table, "Segment")).run
    call, refused = table.database.call, list[int]()

    async def busy(operation: str, /, **parameters: Any) -> dict[str, Any]:
        actions = parameters.get("TransactItems", ())
        deletes = sum("Delete" in each for each in actions)
        if deletes and len(actions) == deletes + 2 and not refused:
            refused.append(deletes)
            reasons = ("None", "None", "ConditionalCheckFailed", *["TransactionConflict"] * (deletes - 1))
            raise TransactionCancelled(reasons, (None,) * len(reasons))
        return await call(operation, **parameters)

    monkeypatch.setattr(table.database, "call", busy)
    await Rollback(table, run).run()
    assert refused
    assert await everything(table) == {}


def test_disks_alike_on_two_machines_are_not_the_same_holder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = identity_of(tmp_path)
    assert identity_of(tmp_path) == here
    monkeypatch.setattr(machine, "boot_id", lambda: "another")
    assert identity_of(tmp_path) != here


@pytest.mark.long
async def test_a_run_is_not_taken_back_while_another_host_migrates(settings: Settings, table: Table) -> None:
    await fill(settings, 400)
    began = asyncio.Event()
    async with TieredStorage.open(settings, read_only=True) as storage:
        node = node_entity(facts_of(settings, "store"), storage.stats())
        migrator = Migrator(table, storage, node)
        migrating = asyncio.create_task(migrator.run(batch_size=1, progress=lambda _: began.set()))
        await began.wait()
        last = await migrator.last()
        assert last is not None
        try:
            # It waits for a process that ends soon, and is refused by one that goes on.
            await Rollback(table, last.run).run()
        except HeldElsewhere:
            await migrating
            await Rollback(table, last.run).run()
        else:
            assert migrating.done()
        await migrating
    assert await everything(table) == {}
