"""``ls --partitions``: which offsets of each partition stand where."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.output import print_json, print_table
from takhin_tiered.config import Settings
from takhin_tiered.segments.coverage import written
from takhin_tiered.segments.names import PLAIN


async def list_partitions(settings: Settings, *, glob: str, as_json: bool) -> None:
    """Those whose directory's name, such as ``orders-0``, matches."""
    async with open_view(settings) as access:
        every = await access.partitions()
    found = [each for each in every if fnmatchcase(_directory(each), glob) or fnmatchcase(each["topic"], glob)]
    if as_json:
        print_json({"partitions": found})
        return
    rows = [
        (
            _directory(each),
            each["incarnation"] or each["topic_id"] or PLAIN,
            "yes" if each["current"] else "no",
            *(written(map(tuple, each[name])) for name in ("local", "archived", "holes", "overlaps")),
        )
        for each in found
    ]
    print_table(("PARTITION", "INCARNATION", "CURRENT", "LOCAL", "ARCHIVED", "HOLES", "OVERLAPS"), rows)


def _directory(found: dict[str, Any]) -> str:
    return f"{found['topic']}-{found['partition']}"
