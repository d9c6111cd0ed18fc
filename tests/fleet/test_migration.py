"""A whole catalog written to the table in a run: continued, verified, taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from takhin_tiered.cli import fleet as cli
from takhin_tiered.config import Settings
from takhin_tiered.errors import CatalogError, HeldElsewhere
from takhin_tiered.fleet.entities import Checkpoint, Migration, Node, Segment
from takhin_tiered.fleet.exclusive import alone
from takhin_tiered.fleet.migration import Migrated, MigrationUnfinished
from takhin_tiered.fleet.overview import segments_of
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.fleet.rollback import Rollback, RolledBack, RunMissing
from takhin_tiered.fleet.transforms import table_key, to_item
from takhin_tiered.fleet.verification import Deviation
from tests.fleet.catalogs import deviations, everything, fill, migrate, without_epoch

NODE = "broker-1"


async def test_migrate_verify_and_rollback(settings: Settings, table: Table) -> None:
    await fill(settings, 130)
    before = await everything(table)
    told = await migrate(settings, table, dry_run=True)
    assert told == Migrated(run="", total=131, written=131, unchanged=0, resumed=False)
    assert await everything(table) == before == {}

    first = await migrate(settings, table)
    assert len([each async for each in segments_of(table, NODE)]) == 130
    assert await deviations(settings, table) == []
    after = await everything(table)
    # Again: nothing is to be written.
    again = await migrate(settings, table)
    assert (again.written, again.unchanged) == (0, 131)
    assert await Rollback(table, again.run).run() == RolledBack(again.run, deleted=0, restored=0, left=0)
    assert without_epoch(await everything(table)) == without_epoch(after)

    assert (await Rollback(table, first.run).run()).deleted == 131
    assert await everything(table) == {}
    with pytest.raises(RunMissing, match=f"has no migration {first.run}"):
        await Rollback(table, first.run).run()


@pytest.mark.long
async def test_rollback_puts_back_what_was_there_and_leaves_what_came_later(settings: Settings, table: Table) -> None:
    await fill(settings, 60)
    first = await migrate(settings, table)
    earlier = await everything(table)
    # The catalog goes on, and is migrated again.
    await fill(settings, 80, generation=2)
    second = await migrate(settings, table)
    images = Scope(f"M#{second.run}", "C#image")
    assert len([each async for each in Repository(table, Checkpoint).each(images)]) == 61
    segments = [each async for each in segments_of(table, NODE)]
    assert {each.generation for each in segments} == {2}
    # The node's daemon writes two of them since: one that was there before, and a new one.
    old, new = min(segments, key=lambda each: each.size or 0), max(segments, key=lambda each: each.size or 0)
    later = [replace(old, run="", state="copied"), replace(new, run="", state="copied")]
    await Repository(table, Segment).put_all(later)

    # Of 20 new ones 19 are still the run's; of 60 that were there before, 59, and the node.
    assert await Rollback(table, second.run).run() == RolledBack(second.run, deleted=19, restored=60, left=1)
    found = await everything(table)
    changed = {name for name in {*found, *earlier} if found.get(name) != earlier.get(name) and "META" not in name}
    assert {found[name]["s"]["S"] for name in changed} == {"copied"}
    assert len(changed) == 2
    await Rollback(table, first.run).run()
    assert {item["e"]["S"] for item in (await everything(table)).values()} == {"Segment"}


async def test_verify_names_each_difference(settings: Settings, table: Table) -> None:
    await fill(settings, 30)
    await migrate(settings, table)
    segments = Repository(table, Segment)
    missing, different, other = [each async for each in segments_of(table, NODE)][:3]
    await segments.write(deletes=[table_key(to_item(missing))])
    await segments.put_all([replace(different, state="copied", size=5), replace(other, topic="gone")])
    found = {each.kind: each for each in await deviations(settings, table)}
    assert found == {
        "missing": Deviation(missing.path, "~0", "missing", "it is not in the table"),
        "extra": Deviation(replace(other, topic="gone").path, "~0", "extra", "it is not in the local catalog"),
        "different": Deviation(different.path, "~0", "different", found["different"].detail),
    }
    detail = found["different"].detail
    assert "state is archived here and copied there" in detail
    assert f"size is {different.size} here and 5 there" in detail
    # Items of another node are not this one's.
    await segments.put_all([replace(missing, node="broker-2")])
    assert len(await deviations(settings, table)) == 3


@pytest.mark.long
async def test_an_entity_by_itself(settings: Settings, table: Table) -> None:
    await fill(settings, 3)
    assert (await migrate(settings, table, "Segment")).written == 3
    assert await deviations(settings, table) == [Deviation(NODE, "", "missing", "the node itself has no item")]
    assert (await migrate(settings, table, "Node")).written == 1
    assert await deviations(settings, table) == []
    node = await Repository(table, Node).get(node=NODE)
    assert node is not None
    assert node.segments == 3


async def test_what_was_not_finished_is_continued_or_taken_back(settings: Settings, table: Table) -> None:
    """As a kill leaves it: the position is behind what was written, and the catalog has gone on."""
    await fill(settings, 100)
    begun = await migrate(settings, table)
    run = await Repository(table, Migration).get(run=begun.run)
    assert run is not None
    await Repository(table, Migration).put_all([replace(run, state="running", ended_at=None)])
    found = [each async for each in segments_of(table, NODE)]
    await Repository(table, Segment).write(deletes=[table_key(to_item(each)) for each in found[60:]])
    position = Checkpoint(run=run.run, name="position", position='["orders", 3, "", 2000]', done=18, written=18)
    await Repository(table, Checkpoint).put_all([position])
    await fill(settings, 100, generation=2)

    with pytest.raises(MigrationUnfinished, match="--resume"):
        await migrate(settings, table)
    # A dry run writes nothing, and may be done.
    assert (await migrate(settings, table, dry_run=True)).written == 100
    done = await migrate(settings, table, resume=True)
    assert (done.run, done.resumed, done.total) == (run.run, True, 101)
    assert await deviations(settings, table) == []
    assert {each.run for each in [each async for each in segments_of(table, NODE)]} == {run.run}
    # An interrupted rollback is continued, and nothing else is.
    await Repository(table, Migration).put_all([replace(run, state="rolling_back")])
    with pytest.raises(MigrationUnfinished, match="is being rolled back"):
        await migrate(settings, table, resume=True)
    await Rollback(table, run.run).run()
    assert await everything(table) == {}


def test_one_at_a_time(tmp_path: Path) -> None:
    again = alone(tmp_path / "state")
    with alone(tmp_path / "state"), pytest.raises(HeldElsewhere, match="another process migrates"):
        again.__enter__()
    with alone(tmp_path / "state"):
        pass


def test_entities_by_their_names() -> None:
    assert cli.entities_named(["nodes", "SEGMENT", "Segment"]) == ["Segment", "Node"]
    with pytest.raises(typer.BadParameter, match="a local catalog has Segment and Node"):
        cli.entities_named(["lease"])


async def test_without_a_catalog_nothing_is_compared(settings: Settings) -> None:
    with pytest.raises(CatalogError, match="there is no catalog"):
        async with cli.open_catalog(settings):
            raise AssertionError
