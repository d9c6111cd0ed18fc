"""The table compared with this node: its segments, by what stands there and not by what an index shows, and itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.config import Settings
from takhin_tiered.fleet.entities import Node, Segment
from takhin_tiered.fleet.repositories import Repository, Table
from takhin_tiered.fleet.transforms import key_of, to_item
from takhin_tiered.fleet.verification import Deviation
from tests.fleet.catalogs import deviations, everything, fill, migrate, node_of
from tests.support import Broker

NODE = "broker-1"
pytestmark = pytest.mark.long


async def node_in(table: Table) -> Node:
    found = await Repository(table, Node).get(node=NODE)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"host": "elsewhere"}, "host is {here} here and elsewhere there"),
        ({"version": "0.0.1"}, "version is {here} here and 0.0.1 there"),
        ({"mode": "dynamodb"}, "mode is {here} here and dynamodb there"),
        ({"store": ""}, "store is {here} here and absent there"),
        ({"segments": 5}, "segments is 3 here and 5 there"),
        ({"archived_segments": 0}, "archived_segments is 3 here and 0 there"),
        ({"archived_bytes": 1}, "archived_bytes is {here} here and 1 there"),
        ({"local_bytes": 1}, "local_bytes is 0 here and 1 there"),
    ],
)
async def test_the_node_is_compared_with_what_it_is(
    settings: Settings, table: Table, changes: dict[str, Any], told: str
) -> None:
    await fill(settings, 3)
    await migrate(settings, table)
    # Who wrote it, and when, is not a part of what it says.
    node = replace(await node_in(table), run="", seen_at=5, epoch="another")
    await Repository(table, Node).put_all([node])
    assert await deviations(settings, table) == []
    await Repository(table, Node).put_all([replace(node, **changes)])
    here = getattr(node, next(iter(changes)))
    assert await deviations(settings, table) == [Deviation(NODE, "", "different", told.format(here=here))]


async def test_an_item_of_something_else_in_the_place_of_the_node(settings: Settings, table: Table) -> None:
    await fill(settings, 3)
    await migrate(settings, table)
    await table.database.batch_write(table.name, puts=[{**key_of(Node, {"node": NODE}), "c": {"S": "many"}}])
    (found,) = await deviations(settings, table)
    assert (found.path, found.kind) == (NODE, "different")
    assert "segments is 3 here and many there" in found.detail
    assert "host is" in found.detail


async def test_an_active_segment_that_grows_makes_no_difference(
    settings: Settings, table: Table, broker: Broker
) -> None:
    broker.segments("orders-0", 2)
    # One that is closed, and still young.
    broker.segments("payments-0", 1, age_hours=0.1)
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        assert node_of(storage).archived_segments == 2
    await migrate(settings, table)
    active = f"orders-0/{max(int(path.stem) for path in (broker.root / 'orders-0').glob('*.log')):020d}.log"
    broker.append(active, b"x" * 1000)
    assert await deviations(settings, table) == []
    node = await node_in(table)
    # More than now, or less than the closed ones have, it never was.
    for wrong in (node.local_bytes + 1001, 1):
        await Repository(table, Node).put_all([replace(node, local_bytes=wrong)])
        (found,) = await deviations(settings, table)
        assert f"local_bytes is {node.local_bytes + 1000} here and {wrong} there" in found.detail


async def test_what_an_index_does_not_show_yet_is_seen(settings: Settings, table: Table) -> None:
    """A late index: items that stand in the table, and not in there."""
    await fill(settings, 30)
    await migrate(settings, table)
    items = [item for item in (await everything(table)).values() if item["e"] == {"S": "Segment"}]
    here = items[0]
    (partition,) = [here["p"]["N"]]
    extra = {**here, "SK": {"S": f"S#{777:020d}"}, "o": {"N": "777"}}
    gone = {
        **to_item(Segment(node=NODE, topic="gone", partition=0, incarnation="~0", base_offset=1, shard=0, state="s"))
    }
    shown = {**gone, "SK": {"S": f"S#{2:020d}"}, "o": {"N": "2"}, "GSI1SK": {"S": "S#s#2"}}
    late = [{name: value for name, value in item.items() if not name.startswith("GSI1")} for item in (extra, gone)]
    await table.database.batch_write(table.name, puts=[*late, shown])
    assert {(each.path, each.kind) for each in await deviations(settings, table)} == {
        (f"orders-{partition}/{777:020d}.log", "extra"),
        # Of a partition that is not here at all, the index shows one item, and so all are looked at.
        (f"gone-0/{1:020d}.log", "extra"),
        (f"gone-0/{2:020d}.log", "extra"),
    }
