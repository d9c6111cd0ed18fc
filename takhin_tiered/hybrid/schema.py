"""What DynamoDB says of a table: its keys, its indexes, and what of an item a pointer keeps. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.errors import ConfigError
from takhin_tiered.hybrid.typed import Value, canonical_number, number_text

ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Index:
    """``projection`` is ``ALL``, ``KEYS_ONLY`` or ``INCLUDE``."""

    name: str
    partition_key: str
    sort_key: str
    projection: str
    is_global: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """``kept``: attributes that stay in the table. ``types``: of key attributes, ``S``, ``N`` or ``B``.

    ``read_units`` and ``write_units`` are provisioned ones a second, 0 for a table on demand.
    """

    table: str
    arn: str
    partition_key: str
    sort_key: str
    types: Mapping[str, str]
    indexes: Mapping[str, Index]
    kept: frozenset[str]
    timestamp: str
    read_units: float
    write_units: float
    items: int
    size: int

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.partition_key, self.sort_key) if self.sort_key else (self.partition_key,)

    def key_of(self, item: Item) -> Item:
        return {name: item[name] for name in self.keys}

    def key(self, partition: Any, sort: Any = None) -> Item:
        """From plain values. `TypeError` where one is missing or too many."""
        if (sort is not None) != bool(self.sort_key):
            wants = "a partition key and a sort key" if self.sort_key else "a partition key alone"
            raise TypeError(f"the items of {self.table} have {wants}")
        found = {self.partition_key: self.value(self.partition_key, partition)}
        return found | ({self.sort_key: self.value(self.sort_key, sort)} if self.sort_key else {})

    def value(self, name: str, value: Any) -> Value:
        """A plain value as the type that the table's key attribute has."""
        kind = self.types[name]
        if kind == "S" and isinstance(value, str):
            return {"S": value}
        if kind == "S" and hasattr(value, "isoformat"):
            if name == self.timestamp and isinstance(value, datetime) and value.tzinfo is None:
                # As a class writes it.
                value = value.replace(tzinfo=UTC)
            return {"S": value.isoformat()}
        if kind == "N" and not isinstance(value, str | bytes | bool):
            return {"N": number_text(value)}
        if kind == "B" and isinstance(value, bytes | bytearray):
            return {"B": bytes(value)}
        if kind == "S":
            return {"S": str(value)}
        raise TypeError(f"{name} of {self.table} is of type {kind}, and {value!r} is not")

    def identity(self, item: Item) -> tuple[Any, ...]:
        """The same for the same item, however its number is spelt."""
        return tuple(
            canonical_number(inner) if kind == "N" else inner
            for name in self.keys
            for kind, inner in (item[name].items())
        )

    def described(self, item: Item) -> str:
        """The item's key, for people."""
        values = [next(iter(item[name].values())) for name in self.keys]
        return f"{self.table} " + " ".join(value if isinstance(value, str) else repr(value) for value in values)


def schema_of(description: Mapping[str, Any], table: HybridTableSettings) -> Schema:
    """`ConfigError` where the table has other keys than the settings say."""
    partition, sort = _keys(description["KeySchema"])
    if (partition, sort) != (table.partition_key, table.sort_key):
        raise ConfigError(
            f"the DynamoDB table {table.name} has the keys {_words(partition, sort)}, and not "
            f"{_words(table.partition_key, table.sort_key)}, as it is configured",
            hint="Correct partition_key and sort_key",
        )
    indexes = {}
    kept = {*filter(None, (partition, sort)), table.timestamp}
    for group, is_global in (("GlobalSecondaryIndexes", True), ("LocalSecondaryIndexes", False)):
        for each in description.get(group) or ():
            kind = each.get("Projection", {}).get("ProjectionType", ALL)
            indexes[each["IndexName"]] = Index(each["IndexName"], *_keys(each["KeySchema"]), kind, is_global)
            kept |= {key["AttributeName"] for key in each["KeySchema"]}
            kept |= set(each.get("Projection", {}).get("NonKeyAttributes") or ())
    provisioned = description.get("ProvisionedThroughput") or {}
    return Schema(
        table=table.name,
        arn=description.get("TableArn", ""),
        partition_key=partition,
        sort_key=sort,
        types={each["AttributeName"]: each["AttributeType"] for each in description["AttributeDefinitions"]},
        indexes=indexes,
        kept=frozenset(kept),
        timestamp=table.timestamp,
        read_units=float(provisioned.get("ReadCapacityUnits") or 0),
        write_units=float(provisioned.get("WriteCapacityUnits") or 0),
        items=int(description.get("ItemCount") or 0),
        size=int(description.get("TableSizeBytes") or 0),
    )


def _keys(schema: Any) -> tuple[str, str]:
    hashes = [key["AttributeName"] for key in schema if key["KeyType"] == "HASH"]
    ranges = [key["AttributeName"] for key in schema if key["KeyType"] == "RANGE"]
    return hashes[0], ranges[0] if ranges else ""


def _words(partition: str, sort: str) -> str:
    return f"{partition} and {sort}" if sort else partition
