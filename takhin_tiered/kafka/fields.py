"""How a message's fields are declared, for the codec.

Each function gives what `dataclasses.field` gives, under the field's own type. ``since`` and ``until`` are the versions
of the API that have the field.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from takhin_tiered.kafka.codec import Array, Binary, Number, RecordData, Records, Struct, Text, Type, Wire

Message = TypeVar("Message")
Value = TypeVar("Value")
_NEWEST = 1 << 15


def boolean(default: bool = False, *, since: int = 0, until: int = _NEWEST) -> bool:
    return _declare(Number("?"), since, until, default)


def int8(default: int = 0, *, since: int = 0, until: int = _NEWEST) -> int:
    return _declare(Number("b"), since, until, default)


def int16(default: int = 0, *, since: int = 0, until: int = _NEWEST) -> int:
    return _declare(Number("h"), since, until, default)


def int32(default: int = 0, *, since: int = 0, until: int = _NEWEST) -> int:
    return _declare(Number("i"), since, until, default)


def int64(default: int = 0, *, since: int = 0, until: int = _NEWEST) -> int:
    return _declare(Number("q"), since, until, default)


def string(default: str = "", *, since: int = 0, until: int = _NEWEST) -> str:
    return _declare(Text(), since, until, default)


def nullable_string(default: str | None = None, *, since: int = 0, until: int = _NEWEST) -> str | None:
    return _declare(Text(nullable=True), since, until, default)


def never_compact_nullable_string() -> str | None:
    """The client's name in a request's header, which has the old form in every version."""
    return _declare(Text(nullable=True, ever_compact=False), 0, _NEWEST, None)


def binary(default: bytes = b"", *, since: int = 0, until: int = _NEWEST) -> bytes:
    return _declare(Binary(), since, until, default)


def records(*, since: int = 0, until: int = _NEWEST) -> Records:
    """None on the wire is decoded as no records."""
    return _declare(RecordData(), since, until, ())


def array(of: type[Message], *, since: int = 0, until: int = _NEWEST) -> list[Message]:
    return _declare_list(Array(Struct(of)), since, until)


def nullable_array(of: type[Message], *, since: int = 0, until: int = _NEWEST) -> list[Message] | None:
    return _declare(Array(Struct(of), nullable=True), since, until, None)


def int32s(*, since: int = 0, until: int = _NEWEST) -> list[int]:
    return _declare_list(Array(Number("i")), since, until)


def strings(*, since: int = 0, until: int = _NEWEST) -> list[str]:
    return _declare_list(Array(Text()), since, until)


def nullable_strings(*, since: int = 0, until: int = _NEWEST) -> list[str] | None:
    return _declare(Array(Text(), nullable=True), since, until, None)


def _declare(kind: Type, since: int, until: int, default: Value) -> Value:
    return dataclasses.field(default=default, metadata={"wire": Wire(kind, since, until)})


def _declare_list(kind: Type, since: int, until: int) -> list[Any]:
    return dataclasses.field(default_factory=list, metadata={"wire": Wire(kind, since, until)})
