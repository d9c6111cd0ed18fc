"""Wrong use of hybrid tables: an error says what is wrong, and nothing is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered.hybrid import HybridTable, HybridTables, PlainItem
from tests.integration.test_hybrid_odd import counted
from tests.tables import Dynamo, described, hybrid_settings, item

Orders = tuple[HybridTable[PlainItem], list[str], str]


@pytest.fixture
async def orders(dynamo: Dynamo, tmp_path: Path) -> AsyncIterator[Orders]:
    """A table with one archived item, the operations that are sent, and the table's name."""
    name = dynamo.create()
    dynamo.put(name, item("c", "1", text="t"))
    async with HybridTables.open(hybrid_settings(tmp_path, dynamo, [described(name)])) as tables:
        assert (await tables.archive_old_data()).items_archived == 1
        yield tables.table(name), counted(tables), name


WRONG: list[tuple[Callable[[HybridTable[PlainItem]], Awaitable[Any]], str]] = [
    (lambda table: table.put(PlainItem(pk="c", text="t")), "has no attribute 'sk', which is of its key"),
    (lambda table: table.put(PlainItem(sk="1")), "has no attribute 'pk', which is of its key"),
    (lambda table: table.update("c", "1"), "nothing to be changed"),
    (lambda table: table.update("c", "1", text="new", remove=["text"]), "'text' is to be changed twice"),
    (lambda table: table.update("c", "1", remove=["num", "num"]), "'num' is to be changed twice"),
    (lambda table: anext(aiter(table.query("c", between=("1",)))), "between has 2 values, not 1"),
]


@pytest.mark.parametrize(("use", "words"), WRONG)
async def test_what_cannot_be_done_is_refused_before_it_is_sent(
    orders: Orders, dynamo: Dynamo, use: Callable[[HybridTable[PlainItem]], Awaitable[Any]], words: str
) -> None:
    table, calls, name = orders
    with pytest.raises(ValueError, match=words):
        await use(table)
    assert calls == []
    # It did not come back for that.
    assert len(dynamo.pointers(name)) == 1
