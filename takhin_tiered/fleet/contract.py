"""The contract of the fleet's table: one JSON document says what stands in it and under which keys.

The table's definition, the form of its items and the page about it are made from it. Other programs may read the same
document: it is also ``configs/fleet-contract.json``, with its JSON Schema beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FILE_NAME = "fleet-contract.json"

AttributeType = Literal["string", "integer", "decimal", "boolean", "map"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class IndexSpec(_Part):
    partition_key: str
    sort_key: str
    projection: Literal["ALL", "KEYS_ONLY"]
    description: str


class TableSpec(_Part):
    billing_mode: Literal["PAY_PER_REQUEST"]
    stream_view: str
    partition_key: str
    sort_key: str
    ttl_attribute: str
    entity_attribute: str
    write_attribute: str
    indexes: dict[str, IndexSpec]

    @property
    def own_attributes(self) -> set[str]:
        """Those that are not of an entity."""
        return {self.ttl_attribute, self.entity_attribute, self.write_attribute, *self.key_attributes}

    @property
    def key_attributes(self) -> list[str]:
        """The keys of the table, then those of its indexes."""
        keys = [self.partition_key, self.sort_key]
        for index in self.indexes.values():
            keys += [index.partition_key, index.sort_key]
        return keys


class AttributeSpec(_Part):
    """``name`` is the short one, in the table. ``source`` is where a local catalog has the value."""

    name: str
    type: AttributeType
    description: str
    source: str = ""


class TtlSpec(_Part):
    """An item ends so many days after the time in the field ``since``, which has milliseconds since the epoch."""

    days: int
    since: str = Field(alias="from")


class EntitySpec(_Part):
    """``keys`` are templates over the fields; those of an index are absent where the entity is not in it."""

    description: str
    keys: dict[str, str]
    ttl: TtlSpec | None = None
    attributes: dict[str, AttributeSpec]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, template in self.keys.items():
            if unknown := set(_fields_of(template)) - set(self.attributes):
                raise ValueError(f"{name} is made of {min(unknown)}, which is no attribute")
        names = [attribute.name for attribute in self.attributes.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two attributes have the name {min(twice)}")
        if self.ttl is not None and self.ttl.since not in self.attributes:
            raise ValueError(f"the ttl begins at {self.ttl.since}, which is no attribute")
        return self


class Contract(_Part):
    schema_: str = Field("", alias="$schema")
    version: Literal[1]
    table: TableSpec
    entities: dict[str, EntitySpec]

    @model_validator(mode="after")
    def _check(self) -> Self:
        table = self.table
        for entity, spec in self.entities.items():
            if unknown := set(spec.keys) - set(table.key_attributes):
                raise ValueError(f"{entity} has the key {min(unknown)}, which the table lacks")
            if {table.partition_key, table.sort_key} - set(spec.keys):
                raise ValueError(f"{entity} lacks a key of the table")
            for index in table.indexes.values():
                if (index.partition_key in spec.keys) != (index.sort_key in spec.keys):
                    raise ValueError(f"{entity} has one of two keys of an index")
            if clash := table.own_attributes & {attribute.name for attribute in spec.attributes.values()}:
                raise ValueError(f"{entity} has an attribute {min(clash)}, which is the table's own")
        return self


@cache
def load_contract() -> Contract:
    """The contract of this release."""
    return Contract.model_validate_json(files(__package__).joinpath(FILE_NAME).read_bytes())


def table_definition(contract: Contract, name: str) -> dict[str, Any]:
    """The arguments of ``create_table``."""
    table = contract.table
    return {
        "TableName": name,
        "BillingMode": table.billing_mode,
        "StreamSpecification": {"StreamEnabled": True, "StreamViewType": table.stream_view},
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in table.key_attributes],
        "KeySchema": _schema(table.partition_key, table.sort_key),
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index,
                "KeySchema": _schema(spec.partition_key, spec.sort_key),
                "Projection": {"ProjectionType": spec.projection},
            }
            for index, spec in table.indexes.items()
        ],
    }


def deviations(contract: Contract, description: dict[str, Any]) -> Iterator[str]:
    """In what a table, as ``describe_table`` has it, is not what the contract says."""
    wanted = table_definition(contract, "")
    if description.get("KeySchema") != wanted["KeySchema"]:
        yield "its keys are not PK and SK"
    found = {index["IndexName"]: index for index in description.get("GlobalSecondaryIndexes", ())}
    for index in wanted["GlobalSecondaryIndexes"]:
        name = index["IndexName"]
        if name not in found:
            yield f"it has no index {name}"
        elif found[name].get("KeySchema") != index["KeySchema"]:
            yield f"the keys of its index {name} are others"
        elif found[name].get("Projection", {}).get("ProjectionType") != index["Projection"]["ProjectionType"]:
            yield f"its index {name} does not project {index['Projection']['ProjectionType']}"
    stream = description.get("StreamSpecification") or {}
    if stream.get("StreamViewType") != contract.table.stream_view or not stream.get("StreamEnabled"):
        yield f"it has no stream of {contract.table.stream_view}"
    # A table that was made without a mode is billed by its provisioned capacity, which this one needs not.
    mode = (description.get("BillingModeSummary") or {}).get("BillingMode", "PROVISIONED")
    if mode != contract.table.billing_mode:
        yield f"its billing mode is {mode}, not {contract.table.billing_mode}"


def describe(contract: Contract) -> str:
    """The tables of docs/fleet.md."""
    lines = ["| index | keys | projection | |", "|---|---|---|---|"]
    table = contract.table
    lines.append(f"| (table) | `{table.partition_key}`, `{table.sort_key}` | | |")
    for name, index in table.indexes.items():
        keys = f"`{index.partition_key}`, `{index.sort_key}`"
        lines.append(f"| {name} | {keys} | {index.projection} | {index.description} |")
    for name, entity in contract.entities.items():
        ends = f" Ends after {entity.ttl.days} days (`{table.ttl_attribute}`)." if entity.ttl else ""
        lines += ["", f"### {name}", "", f"{entity.description}{ends}", "", "| key | |", "|---|---|"]
        lines += [f"| `{key}` | `{template}` |" for key, template in entity.keys.items()]
        lines += ["", "| attribute | field | type | |", "|---|---|---|---|"]
        for field, attribute in entity.attributes.items():
            lines.append(f"| `{attribute.name}` | `{field}` | {attribute.type} | {attribute.description} |")
    return "\n".join(lines) + "\n"


def _fields_of(template: str) -> Iterator[str]:
    return (field for _, field, _, _ in Formatter().parse(template) if field)


def _schema(partition_key: str, sort_key: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": partition_key, "KeyType": "HASH"},
        {"AttributeName": sort_key, "KeyType": "RANGE"},
    ]
