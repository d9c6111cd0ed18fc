"""A host that slept through the lease of a run wakes up: nothing that it sends late counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from takhin_tiered.aws.dynamodb import open_dynamodb
from takhin_tiered.config import Settings
from takhin_tiered.errors import HeldElsewhere, TakhinError
from takhin_tiered.fleet import exclusive
from takhin_tiered.fleet.entities import Migration
from takhin_tiered.fleet.overview import segments_of
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.fleet.rollback import Rollback, RunMissing
from tests.faults.proxy import Fault, Kind, proxy
from tests.fleet.catalogs import deviations, everything, fill, migrate
from tests.support import REGION

NODE = "broker-1"
pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody renews a lease: each is as silent as one that sleeps."""
    monkeypatch.setattr(exclusive, "_SECONDS", 0.3)
    monkeypatch.setattr(exclusive, "_RENEW_EVERY", 600.0)


@asynccontextmanager
async def overtaken(
    table: Table,
    endpoint: str,
    work: Callable[[Table], Coroutine[Any, Any, object]],
    *,
    after: int,
    request: str = "WriteItem",
    refused: type[TakhinError] = HeldElsewhere,
    because: str | None = None,
) -> AsyncIterator[None]:
    """A host falls asleep in its work: all of its batches, or other requests, but for some first ones, are held.

    The block is what others do meanwhile. Then the host wakes up, its requests arrive, and it is refused.
    """
    async with proxy(endpoint) as between, open_dynamodb(REGION, between.endpoint) as database:
        late = Fault(Kind.HELD, key=request, skip=after)
        between.faults = [late]
        working = asyncio.create_task(work(Table(database, table.name)))
        try:
            async with asyncio.timeout(10):
                while not late.hits:
                    await asyncio.sleep(0.01)
            yield
            late.released.set()
            with pytest.raises(refused, match=because):
                await working
        finally:
            working.cancel()


async def taking_back(run: str, holder: str, table: Table) -> object:
    return await Rollback(table, run, holder).run()


async def last_run(table: Table) -> str:
    page = await Repository(table, Migration).page(Scope(f"N#{NODE}", "M#", "GSI1"), limit=1, newest=True)
    return page.entities[0].run


async def test_of_a_run_that_another_host_took_back_nothing_comes_late(
    settings: Settings, table: Table, s3_endpoint: str
) -> None:
    await fill(settings, 60)
    migrating = partial(migrate, settings, holder="one", batch_size=10)
    async with overtaken(table, s3_endpoint, migrating, after=2, because="took over the run"):
        assert len([each async for each in segments_of(table, NODE)]) == 20
        taken_back = await Rollback(table, await last_run(table), "two").run()
        assert taken_back.deleted == 20
        assert await everything(table) == {}
    assert await everything(table) == {}


async def test_what_another_host_continued_is_not_written_over_by_the_first_one(
    settings: Settings, table: Table, s3_endpoint: str
) -> None:
    await fill(settings, 60)
    migrating = partial(migrate, settings, holder="one", batch_size=10)
    async with overtaken(table, s3_endpoint, migrating, after=2):
        await fill(settings, 60, generation=2)
        done = await migrate(settings, table, holder="two", resume=True)
        assert done.resumed
        before = await everything(table)
    assert await deviations(settings, table) == []
    assert await everything(table) == before


@pytest.mark.parametrize("after", [0, 1])
async def test_a_rollback_that_was_taken_over_brings_nothing_back(
    settings: Settings, table: Table, s3_endpoint: str, after: int
) -> None:
    """Neither the run itself, nor what a later run kept of it."""
    await fill(settings, 60)
    first = await migrate(settings, table)
    await fill(settings, 60, generation=2)
    second = await migrate(settings, table)
    rolling = partial(taking_back, first.run, "one")
    async with overtaken(table, s3_endpoint, rolling, after=after, because="took over the run"):
        await Rollback(table, first.run, "two").run()
        await Rollback(table, second.run, "two").run()
        assert await everything(table) == {}
    assert await everything(table) == {}


async def test_who_comes_to_a_run_that_was_just_taken_back_leaves_nothing(
    settings: Settings, table: Table, s3_endpoint: str
) -> None:
    """The lease goes with its run: who saw that run before makes another one."""
    await fill(settings, 3)
    run = (await migrate(settings, table)).run
    coming = partial(taking_back, run, "two")
    async with overtaken(table, s3_endpoint, coming, after=1, request="GetItem", refused=RunMissing):
        await Rollback(table, run, "one").run()
    assert await everything(table) == {}
