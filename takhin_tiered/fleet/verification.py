"""Compare the table with the local catalog, segment by segment. Changes nothing.

What stands in the table is read consistently, partition by partition. Only which partitions there are besides those of
the local catalog is known from an index, which may be late: one that it does not show at all is not seen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.concurrency import in_thread
from takhin_tiered.fleet.comparing import (
    Difference,
    LocalCatalog,
    differences,
    entries_of,
    name_of_place,
    scopes_of,
)
from takhin_tiered.fleet.contract import load_contract
from takhin_tiered.fleet.entities import Node, Segment
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.fleet.together import side_by_side
from takhin_tiered.fleet.transforms import digest, key_of, name_of, spec_of, to_item
from takhin_tiered.fleet.written import Name, Written, open_written
from takhin_tiered.segments.names import Place

_SIDE_BY_SIDE = 8
_PASSING = ("seen_at", "epoch", "run")
"""What an item of a node says of its writing, and not of the node."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """``kind``: ``missing`` in the table, ``extra`` there, or ``different``; ``detail`` says in what."""

    path: str
    incarnation: str
    kind: str
    detail: str


async def verify(
    table: Table, local: LocalCatalog, node: Node, progress: Callable[[int], None] = lambda _: None
) -> AsyncGenerator[Deviation, None]:
    """Each difference. ``node`` is what the node is now, by itself."""
    async for deviation in _of_node(table, local, node):
        yield deviation
    async with open_written(None) as written:
        await _read(table, local, node.node, written, progress)
        async with aclosing(differences(local, node.node, written)) as found:
            async for some in found:
                for deviation in await _confirmed(table, [each for each in some if not each.is_same]):
                    yield deviation


async def _of_node(table: Table, local: LocalCatalog, node: Node) -> AsyncGenerator[Deviation, None]:
    stands = await table.get(key_of(Node, {"node": node.node}))
    if stands is None:
        yield Deviation(node.node, "", "missing", "the node itself has no item")
        return
    passing = {spec_of(Node).attributes[field].name for field in _PASSING} | {load_contract().table.write_attribute}
    here, there = (
        {name: value for name, value in item.items() if name not in passing} for item in (to_item(node), stands)
    )
    bytes_name = spec_of(Node).attributes["local_bytes"].name
    if here != there and bytes_name in there:
        # A broker writes to its active segments all the time: when the item was written, they had less.
        growing = sum([await in_thread(_active_bytes, local, place) for place in local.places()])
        known = _number(there[bytes_name])
        if known is not None and node.local_bytes - growing <= known <= node.local_bytes:
            here[bytes_name] = there[bytes_name]
    if here != there:
        yield Deviation(node.node, "", "different", _compared(Node, here, there))


def _active_bytes(local: LocalCatalog, place: Place) -> int:
    packed = local.packed(place)
    segments = map(packed.segment, packed.rows)
    return sum(segment.local.size for segment in segments if segment.active)


def _number(value: dict[str, Any]) -> int | None:
    text = str(value.get("N", ""))
    return int(text) if text.isdecimal() else None


async def _read(
    table: Table, local: LocalCatalog, node: str, written: Written, progress: Callable[[int], None]
) -> None:
    """Take what the table has of a node for what was written."""
    count, repository = 0, Repository(table, Segment)

    async def read(name: Name) -> None:
        nonlocal count
        fields = {"topic": name.topic, "partition": name.partition, "incarnation": name.incarnation, "node": node}
        partition = key_of(Segment, fields | {"base_offset": 0})[load_contract().table.partition_key]["S"]
        async for items in repository.items(Scope(partition, "S#")):
            entries = list(entries_of(items))
            await written.note(entries)
            count += len(entries)
            progress(count)

    names = {name_of_place(place, local.incarnation(place)) for place in local.places()}
    for scope in scopes_of(node):
        async for listed in repository.items(scope):
            names.update(entry.name for entry in entries_of(listed))
    await side_by_side(map(read, names), at_once=_SIDE_BY_SIDE)


async def _confirmed(table: Table, found: list[Difference]) -> list[Deviation]:
    items = {name_of(item): item for item in await table.database.batch_get(table.name, [each.key for each in found])}
    deviations = []
    for each in found:
        stands, wanted = items.get(name_of(each.key)), each.item
        if wanted is None and stands is not None:
            deviations.append(_deviation(each, "extra", "it is not in the local catalog"))
        elif wanted is not None and stands is None:
            deviations.append(_deviation(each, "missing", "it is not in the table"))
        elif wanted is not None and stands is not None and digest(Segment, wanted) != digest(Segment, stands):
            deviations.append(_deviation(each, "different", _compared(Segment, wanted, stands)))
    return deviations


def _deviation(difference: Difference, kind: str, detail: str) -> Deviation:
    return Deviation(difference.path, difference.name.incarnation, kind, detail)


def _compared(kind: type[Any], here: Item, there: Item) -> str:
    """The fields that differ, with both values; attributes that are no field by their own names."""
    fields = {attribute.name: field for field, attribute in spec_of(kind).attributes.items() if field != "run"}
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    told = [
        f"{fields[name]} is {_value(here, name)} here and {_value(there, name)} there"
        for name in names
        if name in fields
    ]
    return "; ".join(told) or f"its {', '.join(names)} differ"


def _value(item: Item, name: str) -> str:
    return "absent" if name not in item else str(next(iter(item[name].values())))
