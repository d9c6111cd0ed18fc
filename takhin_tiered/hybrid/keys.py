"""The keys of items' objects, from the items' keys alone. Pure.

No two keys of items give one key of an object: what a value could imitate is percent-encoded, a number begins with
``n=`` and bytes with ``b=``, neither of which a text can have, and a number has one spelling. An item that is archived
again with other bytes gets the next generation: ``.g2``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.errors import ConfigError
from takhin_tiered.hybrid.typed import canonical_number

ENDING = ".json.gz"
_MOST = 1024
"""Bytes of a key in S3, with the store's prefix."""
_GENERATION_ROOM = len(".g1234567890")
_FIELD = re.compile(r"\{(tableName|partitionKey|sortKey)\}")
_LITERAL = re.compile(r"[A-Za-z0-9!_.*'()=/ -]*")
_LIKE_A_GENERATION = re.compile(r"\.(g[0-9]+)$")
_GENERATION = re.compile(r"(.+?)(?:\.g([1-9][0-9]{0,9}))?" + re.escape(ENDING))
_POSSIBLE = re.compile(rf"[ -~]{{1,{_MOST}}}")
_VALUES = {"{partitionKey}", "{sortKey}"}


def encoded(value: Mapping[str, Any]) -> str:
    """One value of an item's key, as a part of a path."""
    ((kind, inner),) = value.items()
    if kind == "N":
        return "n=" + quote(canonical_number(inner), safe="")
    if kind == "B":
        return "b=" + _without_dots(quote(bytes(inner), safe=""))
    return _without_dots(quote(inner, safe=""))


def _without_dots(text: str) -> str:
    """Neither a step in a path, nor the mark of a generation."""
    if text in {".", ".."}:
        return text.replace(".", "%2E")
    return _LIKE_A_GENERATION.sub(r"%2E\1", text)


@dataclass(frozen=True, slots=True)
class Naming:
    """How the objects of one table are called. ``folder`` is what all of their keys begin with.

    ``longest`` and ``longest_part`` are bytes of a key and of what stands between its slashes; 0: as many as it has.
    """

    template: str
    table: str
    partition_key: str
    sort_key: str
    folder: str
    longest: int
    longest_part: int = 0

    def base(self, item: Mapping[str, Mapping[str, Any]]) -> str:
        """The key of the first generation, without its ending. ``item`` may have more attributes than its keys."""
        values = {"{tableName}": quote(self.table, safe=""), "{partitionKey}": encoded(item[self.partition_key])}
        if self.sort_key:
            values["{sortKey}"] = encoded(item[self.sort_key])
        key = _FIELD.sub(lambda match: values[match[0]], self.template)
        too_long = len(key) > self.longest or (
            self.longest_part and any(len(part) > self.longest_part for part in key.split("/"))
        )
        # A value never has an equals sign, so that no other item is called like a digest.
        return f"{self.folder}sha256={hashlib.sha256(key.encode()).hexdigest()}" if too_long else key


def object_key(base: str, generation: int = 1) -> str:
    return base + (f".g{generation}" if generation > 1 else "") + ENDING


def parse_object_key(key: str) -> tuple[str, int] | None:
    """The base and the generation; None for what is no object of an item."""
    match = _GENERATION.fullmatch(key)
    return (match[1], int(match[2] or 1)) if match else None


def is_possible(key: str) -> bool:
    """Whether some template gives such a key. Others may be none that a store can be asked for."""
    steps = key.split("/")
    return _POSSIBLE.fullmatch(key) is not None and key.endswith(ENDING) and not {"", ".", ".."} & set(steps)


def naming_of(table: HybridTableSettings, *, prefix: str, part: int = 0) -> Naming:
    """``prefix`` is the store's; ``part`` the bytes that a file's name may have. `ConfigError` for a bad template."""
    template = table.template
    literal = _FIELD.sub("", template)
    steps = template.split("/")
    if not _LITERAL.fullmatch(literal) or {"", ".", ".."} & set(steps):
        raise _bad(table, "is not a path of letters, digits and !_.*'()=- between its fields")
    for step in steps:
        values = [field for field in _FIELD.findall(step) if field != "tableName"]
        if len(values) > 1:
            raise _bad(table, "has two values between its slashes: two items might share an object")
    if not any(template.endswith(value) for value in _VALUES):
        raise _bad(table, "has something behind the last value: two items might share an object")
    before = min(template.find(value) for value in _VALUES if value in template)
    folder = template[:before].replace("{tableName}", quote(table.name, safe=""))
    folder = folder[: folder.rfind("/") + 1]
    room = _MOST - len(prefix.strip("/").encode()) - 1 - len(ENDING) - _GENERATION_ROOM
    part_room = part - len(ENDING) - _GENERATION_ROOM if part else 0
    return Naming(template, table.name, table.partition_key, table.sort_key, folder, room, part_room)


def require_apart(namings: list[Naming]) -> None:
    """`ConfigError` where two tables could have an object of the same key."""
    for at, one in enumerate(namings):
        for other in namings[:at]:
            if one.folder.startswith(other.folder) or other.folder.startswith(one.folder):
                raise ConfigError(
                    f"storage.tiered.hybrid.tables: the objects of {one.table} and {other.table} would stand in one "
                    f"folder, {min(one.folder, other.folder, key=len) or 'that of the prefix'!r}",
                    hint="Begin each key_template with {tableName}/",
                )


def _bad(table: HybridTableSettings, what: str) -> ConfigError:
    return ConfigError(
        f"storage.tiered.hybrid.tables: key_template {table.template!r} of {table.name} {what}",
        hint="The default is {tableName}/{partitionKey}/{sortKey}",
    )
