"""Between the steps of an archive, and of a write to an archived item, somebody else does something.

A second process is an instance of its own, in an event loop of its own, in a thread that the first one waits for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import points
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid import HybridTable, HybridTables, judging
from tests.faults.proxy import Fault, Kind, proxy
from tests.support import AtPoint
from tests.tables import Dynamo, OpenTable, described, hybrid_settings, in_another_loop, item, n, s

KEY = {"pk": s("c"), "sk": s("1")}
WHOLE = item("c", "1", text="t", num=n("1.5"), map={"M": {"inner": n(1)}})
Use = Callable[[HybridTables, HybridTable[Item]], Awaitable[Any]]


class Scene(OpenTable):
    def elsewhere(self, use: Use) -> Any:
        """What another process does meanwhile, to its end."""

        async def work() -> Any:
            async with HybridTables.open(self.settings) as tables:
                return await use(tables, tables.table(self.name, typed=True))

        return in_another_loop(work())

    @property
    def objects(self) -> list[str]:
        store = self.root / "store"
        return sorted(path.name for path in (store / self.name).rglob("*") if path.is_file())

    def raw(self) -> Item | None:
        return self.dynamo.get(self.name, KEY)

    async def require_whole(self, expected: Item | None) -> None:
        """For whoever reads, now and after everything was cleaned up."""
        for tidy in (False, True):
            if tidy:
                assert (await self.tables.verify()).bad == []
            assert await self.table.load("c", "1") == expected
        named = [pointer["s3Key"]["S"].rpartition("/")[2] for pointer in self.dynamo.pointers(self.name)]
        assert self.objects == sorted(named)


@pytest.fixture
async def scene(dynamo: Dynamo, tmp_path: Path) -> AsyncIterator[Scene]:
    name = dynamo.create()
    dynamo.put(name, WHOLE)
    settings = hybrid_settings(tmp_path, dynamo, [described(name)])
    async with HybridTables.open(settings) as tables:
        yield Scene(dynamo, name, settings, tmp_path, tables, tables.table(name, typed=True))


def plain_update(scene: Scene, expression: str, **values: Any) -> None:
    more = {"ExpressionAttributeValues": {f":{name}": value for name, value in values.items()}} if values else {}
    scene.dynamo.client.update_item(TableName=scene.name, Key=KEY, UpdateExpression=expression, **more)


EXTENDED = {**WHOLE, "added": s("x")}
CHANGES: dict[str, tuple[Callable[[Scene], object], Item | None]] = {
    "changed": (lambda at: plain_update(at, "SET num = :v", v=n(2)), {**WHOLE, "num": n(2)}),
    "an attribute less": (
        lambda at: plain_update(at, "REMOVE num"), {name: value for name, value in WHOLE.items() if name != "num"}
    ),
    "extended": (lambda at: plain_update(at, "SET added = :v", v=s("x")), EXTENDED),
    "replaced": (lambda at: at.dynamo.put(at.name, item("c", "1", other="o")), item("c", "1", other="o")),
    "deleted": (lambda at: at.dynamo.client.delete_item(TableName=at.name, Key=KEY), None),
}  # fmt: skip
CHANGES["changed inside"] = (
    lambda at: at.dynamo.client.update_item(
        TableName=at.name, Key=KEY, UpdateExpression="SET #m.#i = :v",
        ExpressionAttributeNames={"#m": "map", "#i": "inner"}, ExpressionAttributeValues={":v": n(2)},
    ),
    {**WHOLE, "map": {"M": {"inner": n(2)}}},
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "point"),
    [
        (what, point)
        for what in CHANGES
        for point in ("hybrid.archive.registered", "hybrid.archive.stored", "hybrid.archive.pointed")
        # The server refuses a plain writer's change inside of what is not in the table.
        if (what, point) != ("changed inside", "hybrid.archive.pointed")
    ],
)
async def test_an_item_that_a_writer_changes_meanwhile_is_as_the_writer_left_it(
    scene: Scene, at_point: AtPoint, point: str, what: str
) -> None:
    change, expected = CHANGES[what]
    seen = at_point(point, lambda: change(scene))
    result = await scene.tables.archive_old_data()
    assert seen == [point]
    assert result.errors == []
    if point == "hybrid.archive.stored":
        assert (result.items_archived, result.skipped) == (0, {judging.CHANGED: 1})
        assert scene.raw() == expected
    if point == "hybrid.archive.pointed" and what == "an attribute less":
        # A plain writer cannot remove what is not in the table; our own brings the item back first.
        expected = WHOLE
    await scene.require_whole(expected)


async def archive(tables: HybridTables, _: Any) -> Any:
    return await tables.archive_old_data()


async def archive_and_unarchive(tables: HybridTables, table: HybridTable[Item]) -> None:
    assert (await tables.archive_old_data()).items_archived == 1
    assert await table.unarchive("c", "1")


@pytest.mark.long
async def test_an_object_that_two_runs_share_outlives_the_item_that_comes_back_between(
    scene: Scene, at_point: AtPoint
) -> None:
    """The first run has stored the object; another one takes it over, points to it, and the item comes back: it is then
    what the first run has read, so that its pointer is accepted.
    """
    seen = at_point("hybrid.archive.stored", lambda: scene.elsewhere(archive_and_unarchive))
    assert (await scene.tables.archive_old_data()).items_archived == 1
    assert seen
    assert scene.objects == ["1.json.gz"]
    await scene.require_whole(WHOLE)


@pytest.mark.long
@pytest.mark.parametrize("point", ["hybrid.announced", "hybrid.unpointed", "hybrid.object.before.delete"])
@pytest.mark.parametrize("how", ["unarchive", "delete", "put"])
async def test_a_late_removal_takes_no_object_of_a_later_archive(
    scene: Scene, at_point: AtPoint, point: str, how: str
) -> None:
    """Another process archives the same bytes again, wherever the first one is."""
    await scene.tables.archive_old_data()

    def again() -> None:
        if how == "delete" and point != "hybrid.announced":
            scene.dynamo.put(scene.name, WHOLE)
        result = scene.elsewhere(archive)
        assert result.errors == []

    seen = at_point(point, again)
    if how == "unarchive":
        assert await scene.table.unarchive("c", "1")
    elif how == "delete":
        assert await scene.table.delete("c", "1")
    else:
        await scene.table.put(WHOLE)
    assert seen
    await scene.require_whole(None if (how, point) == ("delete", "hybrid.announced") else WHOLE)


@pytest.mark.long
async def test_two_who_bring_an_item_back_and_one_who_deletes_it(scene: Scene, at_point: AtPoint) -> None:
    await scene.tables.archive_old_data()

    async def delete(_: Any, table: HybridTable[Item]) -> None:
        assert await table.delete("c", "1")

    seen = at_point("hybrid.announced", lambda: scene.elsewhere(delete))
    assert not await scene.table.unarchive("c", "1") or scene.raw() is None
    assert seen
    assert scene.raw() is None
    await scene.require_whole(None)


@pytest.mark.long
async def test_a_read_of_a_pointer_whose_item_came_back_gives_the_item(scene: Scene) -> None:
    await scene.tables.archive_old_data()
    hydrator = scene.table.parts.shared.hydrator
    schema = await scene.table.parts.schema()
    pointer = scene.raw()
    assert pointer is not None
    scene.elsewhere(lambda _, table: table.unarchive("c", "1"))
    row = await hydrator.row(pointer, schema)
    assert row is not None
    assert row.item == WHOLE
    scene.elsewhere(lambda _, table: table.delete("c", "1"))
    assert await hydrator.row(pointer, schema) is None


@pytest.mark.long
async def test_an_update_without_an_answer_keeps_its_object(dynamo: Dynamo, tmp_path: Path) -> None:
    """It may still arrive: nobody removes what it would name, as long as the run is not over for certain."""
    name = dynamo.create()
    dynamo.put(name, WHOLE)
    async with proxy(dynamo.endpoint) as between:
        settings = hybrid_settings(tmp_path, dynamo, [described(name)], fleet_endpoint=between.endpoint)
        async with HybridTables.open(settings) as tables:
            scene = Scene(dynamo, name, hybrid_settings(tmp_path, dynamo, [described(name)]), tmp_path, tables,
                          tables.table(name, typed=True))  # fmt: skip

            def break_the_answers() -> None:
                between.faults = [Fault(Kind.CUT_RESPONSE, "POST", "")]
                points.hook = None

            points.hook = lambda point: break_the_answers() if point == "hybrid.archive.stored" else None
            try:
                result = await tables.archive_old_data()
            finally:
                points.hook = None
            assert result.failed == 1
            between.faults = []
            # It had arrived.
            assert scene.raw() != WHOLE
            assert await scene.table.load("c", "1") == WHOLE
            assert await scene.table.unarchive("c", "1")
            # So might another one: the object stays.
            assert scene.objects == ["1.json.gz"]
            assert (await tables.verify()).waiting == 1
            assert scene.objects == ["1.json.gz"]
            for run in (tmp_path / f"store/takhin-tiered.tables/{name}").glob("run-*"):
                run.unlink()
            await tables.verify()
            assert scene.objects == []


@pytest.mark.long
async def test_a_run_that_breaks_off_goes_on_where_it_was(dynamo: Dynamo, tmp_path: Path) -> None:
    name = dynamo.create()
    items = [item(f"p{number:03}", "1", text="x" * 30_000) for number in range(120)]
    dynamo.put_all(name, items)
    settings = hybrid_settings(tmp_path, dynamo, [described(name)])
    async with HybridTables.open(settings) as tables:
        done = 0

        def stop_soon(point: str) -> None:
            nonlocal done
            done += point == "hybrid.archive.pointed"
            if done == 40:
                tables.stopping.set()

        points.hook = stop_soon
        try:
            first = await tables.archive_old_data()
        finally:
            points.hook = None
        assert not first.is_complete
        assert 40 <= first.items_archived < 120
        tables.stopping.clear()
        second = await tables.archive_old_data()
        assert second.is_complete
        # What was begun of a page is looked at again.
        assert first.items_archived + second.items_archived == 120
        assert second.items_processed < 120
        third = await tables.archive_old_data()
        assert (third.items_processed, third.skipped) == (120, {judging.ARCHIVED: 120})
