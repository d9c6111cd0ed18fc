"""The parameters of a query, from plain values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from takhin_tiered.hybrid.schema import Index, Schema

_COMPARED = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


@dataclass(frozen=True, slots=True)
class SortKey:
    """A condition on the sort key: what is compared how, with one value or two."""

    how: str
    values: tuple[Any, ...]

    @classmethod
    def of(cls, **given: Any) -> SortKey | None:
        """By the names of the comparisons. None where there is no condition; `ValueError` where there are several."""
        found = [(how, value) for how, value in given.items() if value is not None]
        if len(found) > 1:
            raise ValueError(f"one condition on the sort key, not {' and '.join(how for how, _ in found)}")
        if not found:
            return None
        ((how, value),) = found
        if how == "between":
            if len(value) != len(("low", "high")):
                raise ValueError(f"between has 2 values, not {len(value)}")
            return cls(how, tuple(value))
        return cls(how, (value,))


def query_parameters(
    schema: Schema, by: Index, index: str, partition: Any, sort: SortKey | None, *, descending: bool
) -> dict[str, Any]:
    """``by`` has the keys that are looked for, the table's own or those of ``index``."""
    names = {"#p": by.partition_key}
    values = {":p": schema.value(by.partition_key, partition)}
    condition = "#p = :p"
    if sort is not None:
        if not by.sort_key:
            raise ValueError(f"{index or schema.table} has no sort key")
        names["#s"] = by.sort_key
        for number, value in enumerate(sort.values):
            values[f":s{number}"] = schema.value(by.sort_key, value)
        condition += " AND " + _condition(sort.how)
    found: dict[str, Any] = {
        "TableName": schema.table,
        "KeyConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ScanIndexForward": not descending,
    }
    return found | ({"IndexName": index} if index else {})


def _condition(how: str) -> str:
    if how == "begins_with":
        return "begins_with(#s, :s0)"
    if how == "between":
        return "#s BETWEEN :s0 AND :s1"
    return f"#s {_COMPARED[how]} :s0"
