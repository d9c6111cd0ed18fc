"""Values of Python, and the typed values of DynamoDB: ``{"S": "x"}``. Pure.

Numbers are text there, exact to 38 digits; here they are `int` where they are whole, else `Decimal`. Source: Amazon
DynamoDB API Reference, AttributeValue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from takhin_tiered.aws.outcomes import Item

Value = dict[str, Any]
"""One typed value."""


def to_typed(value: Any) -> Value | None:
    """None for an empty set, which DynamoDB does not have. `TypeError` for what it has no type for."""
    if isinstance(value, str):
        return {"S": value}
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float | Decimal):
        return {"N": number_text(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"B": bytes(value)}
    if isinstance(value, Mapping):
        return {"M": _typed_map(value)}
    if isinstance(value, list | tuple):
        return {"L": [typed for each in value if (typed := to_typed(each)) is not None]}
    if isinstance(value, set | frozenset):
        return _typed_set(value)
    raise TypeError(f"DynamoDB has no type for {type(value).__name__}")


def _typed_map(value: Mapping[Any, Any]) -> Item:
    found = {str(name): to_typed(each) for name, each in value.items()}
    return {name: each for name, each in found.items() if each is not None}


def _typed_set(value: set[Any] | frozenset[Any]) -> Value | None:
    if not value:
        return None
    if all(isinstance(each, str) for each in value):
        return {"SS": sorted(value)}
    if all(isinstance(each, int | float | Decimal) and not isinstance(each, bool) for each in value):
        return {"NS": sorted(number_text(each) for each in value)}
    if all(isinstance(each, bytes | bytearray) for each in value):
        return {"BS": sorted(bytes(each) for each in value)}
    raise TypeError("a set in DynamoDB has only texts, only numbers or only bytes")


def number_text(value: float | Decimal) -> str:
    """The shortest text that is exactly this number. `ValueError` for infinity and NaN."""
    if not math.isfinite(value):
        raise ValueError(f"DynamoDB has no number {value}")
    return str(value) if isinstance(value, int) else str(Decimal(repr(value)) if isinstance(value, float) else value)


def canonical_number(text: str) -> str:
    """One text for each number, however it is spelt: ``1``, ``1.0`` and ``1E0`` are ``1``."""
    number = Decimal(text)
    # Not by `normalize`, which rounds to 28 digits.
    digits = format(number, "f") if number else "0"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def to_number(text: str) -> int | Decimal:
    return Decimal(text) if "." in text or "E" in text or "e" in text else int(text)


def plain(item: Item) -> dict[str, Any]:
    """All attributes of an item as plain values."""
    found = {}
    for name, value in item.items():
        # Inlined, and without a tuple: this is done for each value of each item that is read.
        for kind, inner in value.items():
            reader = _READERS.get(kind)
            found[name] = inner if reader is None else reader(inner)
    return found


def _plain_list(values: Sequence[Value]) -> list[Any]:
    return [
        inner if (reader := _READERS.get(kind)) is None else reader(inner)
        for value in values
        for kind, inner in value.items()
    ]


# Of the types whose values are not as they are in Python.
_READERS: dict[str, Callable[[Any], Any]] = {
    "N": to_number,
    "NULL": lambda _: None,
    "M": plain,
    "L": _plain_list,
    "SS": set,
    "BS": set,
    "NS": lambda inner: set(map(to_number, inner)),
}


def is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two typed values are equal for DynamoDB: sets without an order, numbers by what they are."""
    return (one is None) == (other is None) and (
        one == other or (one is not None and other is not None and _comparable(one) == _comparable(other))
    )


def is_same_item(one: Item, other: Item) -> bool:
    return one.keys() == other.keys() and all(is_same(value, other[name]) for name, value in one.items())


def _comparable(value: Mapping[str, Any]) -> tuple[str, Any]:
    ((kind, inner),) = value.items()
    if kind == "N":
        return kind, Decimal(inner)
    if kind == "NS":
        return kind, frozenset(map(Decimal, inner))
    if kind in {"SS", "BS"}:
        return kind, frozenset(inner)
    if kind == "L":
        return kind, [_comparable(each) for each in inner]
    if kind == "M":
        return kind, {name: _comparable(each) for name, each in inner.items()}
    return kind, inner


def size_of(item: Item) -> int:
    """Bytes of an item, about as DynamoDB counts them. Source: its Developer Guide, "Item sizes and formats"."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: Mapping[str, Any]) -> int:
    ((kind, inner),) = value.items()
    if kind == "S":
        return len(inner.encode())
    if kind == "B":
        return len(inner)
    if kind == "N":
        return len(inner) // 2 + 1
    if kind == "NS":
        return sum(len(each) // 2 + 1 for each in inner)
    if kind in {"SS", "BS"}:
        return sum(len(each.encode() if isinstance(each, str) else each) for each in inner)
    if kind == "L":
        return 3 + sum(1 + _size(each) for each in inner)
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + _size(each) for name, each in inner.items())
    return 1
