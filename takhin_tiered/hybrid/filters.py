"""Conditions on whole items, as DynamoDB evaluates filter expressions. Pure.

A filter may be about an attribute that has moved to the store, so that DynamoDB cannot evaluate it: it is done here,
after an item is complete. ``Attr("status").eq("open") & Attr("total").gt(10)`` is written as in boto3; boto3's own
conditions are taken too. Source: Amazon DynamoDB Developer Guide, "Condition and filter expressions".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.hybrid.typed import Value, is_same, to_typed

_ORDERED = {"S", "N", "B"}
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Condition:
    """``test`` says whether a whole item fulfils it."""

    test: Callable[[Item], bool]

    def __and__(self, other: Condition) -> Condition:
        return Condition(lambda item: self.test(item) and other.test(item))

    def __or__(self, other: Condition) -> Condition:
        return Condition(lambda item: self.test(item) or other.test(item))

    def __invert__(self) -> Condition:
        return Condition(lambda item: not self.test(item))


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute by its path: ``address.city``, ``lines[0].price``."""

    name: str

    def eq(self, value: Any) -> Condition:
        wanted = to_typed(value)
        return self._is(lambda found: found is not None and is_same(found, wanted))

    def ne(self, value: Any) -> Condition:
        """True as well where there is no such attribute, as in DynamoDB."""
        return ~self.eq(value)

    def lt(self, value: Any) -> Condition:
        return self._compared(value, lambda found, wanted: found < wanted)

    def lte(self, value: Any) -> Condition:
        return self._compared(value, lambda found, wanted: found <= wanted)

    def gt(self, value: Any) -> Condition:
        return self._compared(value, lambda found, wanted: found > wanted)

    def gte(self, value: Any) -> Condition:
        return self._compared(value, lambda found, wanted: found >= wanted)

    def between(self, low: Any, high: Any) -> Condition:
        """Both bounds included."""
        return self.gte(low) & self.lte(high)

    def is_in(self, values: Sequence[Any]) -> Condition:
        wanted = [to_typed(value) for value in values]
        return self._is(lambda found: found is not None and any(is_same(found, each) for each in wanted))

    def exists(self) -> Condition:
        return self._is(lambda found: found is not None)

    def not_exists(self) -> Condition:
        return ~self.exists()

    def begins_with(self, value: str | bytes) -> Condition:
        kind = "S" if isinstance(value, str) else "B"
        return self._is(lambda found: found is not None and kind in found and found[kind].startswith(value))

    def contains(self, value: Any) -> Condition:
        """A part of a text or of bytes, a member of a set, an element of a list."""
        wanted = to_typed(value)
        return self._is(lambda found: found is not None and wanted is not None and _contains(found, wanted))

    def attribute_type(self, kind: str) -> Condition:
        return self._is(lambda found: found is not None and kind in found)

    def size(self) -> Attr:
        """Of texts and bytes their length, of others the number of members: to be compared."""
        return Attr(f"size({self.name})")

    def _compared(self, value: Any, holds: Callable[[Any, Any], bool]) -> Condition:
        typed = to_typed(value)

        def test(found: Value | None) -> bool:
            if found is None or typed is None:
                return False
            ((kind, inner),), ((wanted, bound),) = found.items(), typed.items()
            if kind != wanted or kind not in _ORDERED:
                return False
            return holds(_ordered(kind, inner), _ordered(kind, bound))

        return self._is(test)

    def _is(self, test: Callable[[Value | None], bool]) -> Condition:
        name = self.name
        if name.startswith("size(") and name.endswith(")"):
            return Condition(lambda item: test(_size_of(_found(item, name[5:-1]))))
        return Condition(lambda item: test(_found(item, name)))


def condition_of(given: Any) -> Condition | None:
    """Ours, or one of boto3's, by what it tells of itself; None for anything else."""
    if isinstance(given, Condition):
        return given
    if not hasattr(given, "get_expression"):
        return None
    expression = given.get_expression()
    operator, values = expression["operator"], expression["values"]
    if operator in {"AND", "OR"}:
        one, other = (condition_of(value) for value in values)
        assert one is not None
        assert other is not None
        return one & other if operator == "AND" else one | other
    if operator == "NOT":
        inner = condition_of(values[0])
        assert inner is not None
        return ~inner
    attr = _attr_of(values[0])
    rest = [getattr(value, "value", value) for value in values[1:]]
    return _OPERATORS[operator](attr, *rest)


def _attr_of(given: Any) -> Attr:
    if hasattr(given, "get_expression"):
        return _attr_of(given.get_expression()["values"][0]).size()
    return Attr(given.name)


_OPERATORS: dict[str, Callable[..., Condition]] = {
    "=": Attr.eq, "<>": Attr.ne, "<": Attr.lt, "<=": Attr.lte, ">": Attr.gt, ">=": Attr.gte,
    "BETWEEN": Attr.between, "IN": Attr.is_in, "begins_with": Attr.begins_with, "contains": Attr.contains,
    "attribute_exists": Attr.exists, "attribute_not_exists": Attr.not_exists, "attribute_type": Attr.attribute_type,
}  # fmt: skip


def _ordered(kind: str, inner: Any) -> Any:
    # DynamoDB compares texts by their bytes in UTF-8.
    return Decimal(inner) if kind == "N" else inner.encode() if kind == "S" else bytes(inner)


def _found(item: Item, path: str) -> Value | None:
    if path in item:
        return item[path]
    at: Mapping[str, Any] | None = {"M": item}
    for name, number in _STEP.findall(path):
        inner = at.get("M" if name else "L") if at else None
        if inner is None or (number and int(number) >= len(inner)):
            return None
        at = inner.get(name) if name else inner[int(number)]
    return None if at is None else dict(at)


def _contains(found: Value, wanted: Value) -> bool:
    ((kind, inner),), ((member, value),) = found.items(), wanted.items()
    if kind == member and kind in {"S", "B"}:
        return value in inner
    if kind == "L":
        return any(is_same(each, wanted) for each in inner)
    return kind == f"{member}S" and any(is_same({member: each}, wanted) for each in inner)


def _size_of(found: Value | None) -> Value | None:
    if found is None:
        return None
    ((kind, inner),) = found.items()
    if kind in {"N", "BOOL", "NULL"}:
        return None
    # Of a text DynamoDB counts units of UTF-16.
    return {"N": str(len(inner.encode("utf-16-le")) // 2 if kind == "S" else len(inner))}
