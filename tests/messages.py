"""Random messages of Kafka's protocol, made from the declarations of their fields."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Sequence
from typing import Any

from takhin_tiered.bulk import FileRange
from takhin_tiered.kafka.apis import APIS, Api
from takhin_tiered.kafka.codec import Array, Binary, Number, Part, RecordData, Struct, Text, Type
from takhin_tiered.kafka.errors import ErrorCode

_BITS = {"b": 7, "h": 15, "i": 31, "q": 63}
# Kafka's definitions allow null in some fields from a later version on than the first.
_NULL_SINCE = {("MetadataRequest", "topics"): 1, ("OffsetFetchRequest", "topics"): 2}


def versions() -> list[tuple[Api, int]]:
    return [(api, version) for api in APIS.values() for version in range(api.first, api.last + 1)]


def random_message(cls: Any, version: int, chance: random.Random) -> Any:
    """One with every field of this version filled."""
    types = {field.name: field.metadata["wire"].type for field in dataclasses.fields(cls)}
    values = {}
    for name in names(cls, version):
        may_be_null = version >= _NULL_SINCE.get((cls.__name__, name), 0)
        values[name] = _random_value(types[name], name, version, chance, may_be_null)
    return cls(**values)


def _random_value(kind: Type, name: str, version: int, chance: random.Random, may_be_null: bool = False) -> Any:
    if may_be_null and getattr(kind, "_nullable", False) and not isinstance(kind, RecordData) and chance.random() < 0.2:
        return None
    match kind:
        case Number():
            return _random_number(kind, name, chance)
        case Text():
            return "".join(chance.choices("aZ9-_.ü€𝄞", k=chance.choice((0, 1, 7, 200))))
        case Binary():
            return chance.randbytes(chance.choice((0, 1, 300)))
        case RecordData():
            return tuple(chance.randbytes(chance.randrange(1, 50)) for _ in range(chance.randrange(3)))
        case Array():
            return [_random_value(kind._of, name, version, chance) for _ in range(_random_count(kind._of, chance))]
        case Struct():
            return random_message(kind._cls, version, chance)
    raise AssertionError(kind)


def _random_count(of: Type, chance: random.Random) -> int:
    has_arrays = isinstance(of, Struct) and any(
        isinstance(field.metadata["wire"].type, Array) for field in dataclasses.fields(of._cls)
    )
    # Some have more than fits into the first byte of a variable-length number, where that does not multiply.
    return chance.choice((0, 1, 2) if has_arrays else (0, 1, 1, 2, 2, 2, 2, 130))


def _random_number(kind: Number, name: str, chance: random.Random) -> Any:
    form = kind._struct.format[1:]
    if form == "?":
        return chance.random() < 0.5
    if name == "error_code":
        return int(chance.choice(list(ErrorCode)))
    if name.endswith("_ms"):
        # Others take these for durations and times, not all of which they can express.
        return chance.randrange(1 << 31)
    return chance.choice((0, -1, chance.randrange(-1 << _BITS[form], 1 << _BITS[form]), (1 << _BITS[form]) - 1))


def joined(parts: Sequence[Part]) -> bytes:
    """As they would be sent."""
    return b"".join(
        os.pread(part.file, part.size, part.start) if isinstance(part, FileRange) else bytes(part) for part in parts
    )


def plain(value: Any, version: int) -> Any:
    """A message as dictionaries and lists, with the fields of this version; record data joined."""
    if dataclasses.is_dataclass(value):
        return {name: plain(getattr(value, name), version) for name in names(type(value), version)}
    if isinstance(value, tuple):
        return joined(value)
    return [plain(each, version) for each in value] if isinstance(value, list) else value


def names(cls: Any, version: int) -> list[str]:
    """The fields that this version has."""
    declared = [(field.name, field.metadata["wire"]) for field in dataclasses.fields(cls)]
    return [name for name, wire in declared if wire.since <= version <= wire.until]
