"""Items with attributes of a pointer that no archive of ours gave them: each write ends at once, and names the item."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import ObjectMissing
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import TableRejected
from takhin_tiered.hybrid import HybridTable, HybridTables
from tests.support import Bucket
from tests.tables import Dynamo, described, hybrid_settings, item, n, s

AT = "2024-01-01T00:00:00.000000+00:00"
KEYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (n(5), s(AT)), ({"BOOL": True}, s(AT)), ({"B": b"k"}, s(AT)), ({"NULL": True}, n(1)), (s("orders/a.json.gz"), n(1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("s3_key", "archived_at"), [KEYS[0], *(pytest.param(*each, marks=pytest.mark.long) for each in KEYS[1:])]
)
async def test_what_only_looks_like_a_pointer_is_refused_at_once(
    dynamo: Dynamo, tmp_path: Path, s3_key: dict[str, Any], archived_at: dict[str, Any]
) -> None:
    name = dynamo.create()
    odd = item("c", "1", s3Key=s3_key, archivedAt=archived_at, text="t")
    dynamo.put(name, odd)
    async with HybridTables.open(hybrid_settings(tmp_path, dynamo, [described(name)])) as tables:
        calls = counted(tables)
        table = tables.table(name, typed=True)
        assert await table.load("c", "1") == odd
        assert not await table.unarchive("c", "1")
        writes: list[Callable[[], Awaitable[Any]]] = [
            lambda: table.put(item("c", "1")),
            lambda: table.update("c", "1", text=s("new")),
            lambda: table.delete("c", "1"),
        ]
        for write in writes:
            calls.clear()
            with pytest.raises(TableRejected, match=f"the item {name} c 1 has both attributes of a pointer"):
                await write()
            # The write, and where the server does not tell what stands there a look at it.
            assert len(calls) <= 2
        assert (await tables.archive_old_data()).items_archived == 0
    assert dynamo.get(name, {"pk": s("c"), "sk": s("1")}) == odd


@pytest.mark.long
@pytest.mark.parametrize("store", ["directory", "s3"])
@pytest.mark.parametrize(
    "s3_key", ["nowhere", "../../etc/hosts", "/", "", "takhin-tiered.tables", f"x.g{'9' * 5000}.json.gz", "a\x00b"]
)
async def test_a_key_that_no_template_gives_is_an_error_of_its_item(
    dynamo: Dynamo, bucket: Bucket, tmp_path: Path, s3_key: str, store: str
) -> None:
    """What needs no object of it is done."""
    name = dynamo.create()
    pointers = [item("c", each, s3Key=s(s3_key), archivedAt=s(AT)) for each in ("1", "2")]
    dynamo.put(name, *pointers)
    settings = hybrid_settings(tmp_path, dynamo, [described(name)], bucket if store == "s3" else None)
    async with HybridTables.open(settings) as tables, asyncio.timeout(30):
        table: HybridTable[Item] = tables.table(name, typed=True)
        calls = counted(tables)
        reads: list[Callable[[], Awaitable[Any]]] = [
            lambda: table.load("c", "1"),
            lambda: table.unarchive("c", "1"),
            lambda: table.update("c", "1", text=s("new")),
        ]
        for read in reads:
            calls.clear()
            with pytest.raises(ObjectMissing) as error:
                await read()
            assert f"{name} c 1" in str(error.value)
            assert len(calls) <= 5
        assert [each.key for each in (await tables.verify()).bad] == [s3_key, s3_key]
        whole = item("c", "1", text="new")
        await table.put(whole)
        assert await table.load("c", "1") == whole
        assert await table.delete("c", "2")
        result = await tables.archive_old_data(sweep=True)
        assert (result.items_archived, result.errors) == (0, [])
        assert (await tables.verify()).bad == []


def counted(tables: HybridTables) -> list[str]:
    """The operations that are sent from now on."""
    calls: list[str] = []
    tables.db._listener = lambda call: calls.append(call.operation)
    return calls
