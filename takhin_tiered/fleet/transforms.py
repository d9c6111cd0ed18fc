"""Entities to items of the table and back, as the contract says. Pure.

A number is exact text in an item. What is absent in an entity is absent in its item; attributes that this release does
not know are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import TableRejected
from takhin_tiered.fleet.contract import AttributeType, EntitySpec, load_contract

Entity = TypeVar("Entity")

_TYPES: dict[AttributeType, str] = {"string": "S", "integer": "N", "decimal": "N", "boolean": "BOOL", "map": "M"}
_READERS: dict[AttributeType, Callable[[Any], Any]] = {
    "string": str, "integer": int, "decimal": Decimal, "boolean": bool, "map": dict,
}  # fmt: skip
# Who wrote an item is not a part of what it says.
_NOT_CONTENT = ("run",)


def spec_of(kind: type[Any]) -> EntitySpec:
    return load_contract().entities[kind.__name__]


def keys_of(kind: type[Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Every key of an entity, of the table and of the indexes, from its fields."""
    filled = _Filled(values)
    return {name: template.format_map(filled) for name, template in spec_of(kind).keys.items()}


def key_of(kind: type[Any], values: Mapping[str, Any]) -> Item:
    """The table's key; the other fields may be missing."""
    filled, spec, table = _Filled(values), spec_of(kind), load_contract().table
    return {name: {"S": spec.keys[name].format_map(filled)} for name in (table.partition_key, table.sort_key)}


class _Filled(dict[str, Any]):
    """A number that is not known counts as 0, in a key that is ordered by it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({name: 0 if value is None else value for name, value in values.items()})


def values_of(entity: Any) -> dict[str, Any]:
    return {each.name: getattr(entity, each.name) for each in fields(entity)}


def to_item(entity: Any) -> Item:
    kind = type(entity)
    spec, table, values = spec_of(kind), load_contract().table, values_of(entity)
    item: Item = {name: {"S": key} for name, key in keys_of(kind, values).items()}
    item[table.entity_attribute] = {"S": kind.__name__}
    for field, attribute in spec.attributes.items():
        value = values[field]
        # Zero is a value, where nothing is not one.
        if value is None or value == "" or value is False or value == {}:
            continue
        item[attribute.name] = {_TYPES[attribute.type]: str(value) if _TYPES[attribute.type] == "N" else value}
    if spec.ttl is not None:
        ends = values[spec.ttl.since] // 1000 + spec.ttl.days * 86400
        item[table.ttl_attribute] = {"N": str(ends)}
    return item


def from_item(kind: type[Entity], item: Item) -> Entity:
    """`TableRejected` where the item is none of that kind."""
    values: dict[str, Any] = {}
    try:
        for field, (name, tag, read) in _layout(kind.__name__).items():
            if name in item:
                values[field] = read(item[name][tag])
        return kind(**values)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise TableRejected(
            f"the item is no {kind.__name__} of this contract: {error}",
            key=name_of(item),
            hint="Another program may have written it. takhin-tiered fleet verify compares the table with this node",
        ) from error


@cache
def _layout(kind: str) -> dict[str, tuple[str, str, Callable[[Any], Any]]]:
    return {
        field: (attribute.name, _TYPES[attribute.type], _READERS[attribute.type])
        for field, attribute in load_contract().entities[kind].attributes.items()
    }


def attribute(kind: type[Any], field: str) -> str:
    """The name of a field in the table."""
    return spec_of(kind).attributes[field].name


def from_local(kind: type[Entity], local: object, **more: Any) -> Entity:
    """An entity of what a local catalog has: the contract maps its fields to attributes of ``local``."""
    sources = _sources(kind.__name__)
    return kind(**{field: getattr(local, source) for field, source in sources}, **more)


@cache
def _sources(kind: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (field, spec.source) for field, spec in load_contract().entities[kind].attributes.items() if spec.source
    )


def digest(kind: type[Any], item: Item) -> bytes:
    """Of what an item says, whoever wrote it."""
    spec, table = spec_of(kind), load_contract().table
    left_out = {
        table.write_attribute,
        *(spec.attributes[name].name for name in _NOT_CONTENT if name in spec.attributes),
    }
    said = {name: value for name, value in item.items() if name not in left_out}
    return blake2b(json.dumps(said, sort_keys=True, default=str).encode(), digest_size=8).digest()


def name_of(item: Item) -> str:
    """The key of an item, for people and as a name."""
    table = load_contract().table
    return " ".join(str(item.get(name, {}).get("S", "?")) for name in (table.partition_key, table.sort_key))


def table_key(item: Item) -> Item:
    table = load_contract().table
    return {name: item[name] for name in (table.partition_key, table.sort_key)}
