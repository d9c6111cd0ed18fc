"""The example of docs/tables.md runs as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import yaml

from takhin_tiered.config_tables import HybridTableSettings
from tests.tables import Dynamo, hybrid_settings

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()


async def test_the_example_prints_what_the_page_says(dynamo: Dynamo, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (printed,) = re.findall(r"It prints:\n\n```\n(.*?)```", PAGE, re.DOTALL)
    keys = {"customer_id": "HASH", "order_id": "RANGE"}
    dynamo.client.create_table(
        TableName="orders",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
    )
    dynamo.made.append("orders")
    # Without the future import of this file: pydantic has to find the types.
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(program, "docs/tables.md", "exec", dont_inherit=True), names)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        await names["main"](hybrid_settings(tmp_path, dynamo, []))
    assert output.getvalue() == printed


def test_the_yaml_of_the_page_is_a_table() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (described,) = yaml.safe_load(text)["storage"]["tiered"]["hybrid.tables"]
    found = HybridTableSettings(**described)
    assert (found.name, found.template) == ("orders", "{tableName}/{partitionKey}/{sortKey}")
