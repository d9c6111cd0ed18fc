"""The forms of a setting's value in YAML, in the environment and as an argument, and how they are shown."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

_SECRET_NAME = re.compile(r"password|secret|token", re.IGNORECASE)
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_STORAGE_CLASS = re.compile(r"[A-Z][A-Z0-9_]*|")
_ADDRESS = re.compile(r"(?:\[[^\]\s]+\]|[^:,\s\[\]]+):\d{1,5}")


def split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        # YAML reads a topic named 2024 as a number.
        return [str(part) if isinstance(part, int) and not isinstance(part, bool) else part for part in value]
    return value


def none_if_empty(value: object) -> object:
    return None if value == "" else value


def _limits(value: object) -> object:
    """A number for all topics, ``{"orders-*": 720}``, or the same as text: ``orders-*=720,*=8760``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (("*", value),)
    if isinstance(value, dict):
        return tuple(value.items())
    if isinstance(value, str):
        pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
        return tuple((glob.strip() or "*", number) for glob, _, number in pairs)
    return value


def _by_topic(value: object) -> object:
    """A mapping, or the same as text: ``orders-*=zstd,*=none``."""
    if isinstance(value, dict):
        return tuple(value.items())
    if isinstance(value, str):
        pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
        return tuple((glob.strip() or "*", codec.strip()) for glob, _, codec in pairs)
    return value


def _directories(value: object) -> object:
    """A path, a list, or comma-separated text; an existing directory whose name has a comma is one path."""
    if isinstance(value, os.PathLike):
        return (value,)
    if isinstance(value, str):
        return split_commas(value) if "," in value and not os.path.isdir(value) else (value,)  # noqa: PTH112 - it raises nothing
    return value


def _check_disjoint(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Each path names a directory, none is a duplicate, and none is inside another."""
    if not paths or any(str(path) == "." or os.path.abspath(path) == "/" for path in paths):  # noqa: PTH100
        raise ValueError("must name the broker's segment directory")
    for one, other in permutations(paths, 2):
        if within(one, other):
            same = os.path.realpath(one) == os.path.realpath(other)
            raise ValueError(f"{one} and {other} are the same directory" if same else f"{one} is inside {other}")
    return paths


def _prefixes(value: object) -> object:
    found = split_commas(value)
    if isinstance(found, list | tuple):
        return tuple(prefix.rstrip("/") if isinstance(prefix, str) else prefix for prefix in found)
    return found


def _are_named(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    if "" in prefixes:
        raise ValueError("contains an empty prefix")
    if len(set(prefixes)) < len(prefixes):
        raise ValueError("contains a prefix twice")
    return prefixes


def _address(value: str) -> str:
    if "," in value:
        raise ValueError("must be one address, host:port")
    return _addresses(value)


def _addresses(value: str) -> str:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if any(not _ADDRESS.fullmatch(part) for part in parts):
        raise ValueError("must be like broker-1:9092,broker-2:9092")
    return ",".join(parts)


def _encryption(value: object) -> object:
    """Case does not matter: ``aes256`` is accepted too."""
    known = {"aes256": "AES256", "aws:kms": "aws:kms", "aws:kms:dsse": "aws:kms:dsse"}
    return known.get(value.lower(), value) if isinstance(value, str) else value


def is_storage_class(name: str) -> bool:
    """By its form: servers have classes of their own."""
    return bool(name and _STORAGE_CLASS.fullmatch(name))


def _storage_class(value: str) -> str:
    if value and not is_storage_class(value):
        raise ValueError("must be a storage class like STANDARD_IA")
    return value


def is_host_label(text: str) -> bool:
    return bool(_HOST_LABEL.fullmatch(text))


def is_host(text: str) -> bool:
    """Whether the AWS SDK accepts a host: an address, or a name of plain host labels."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return all(is_host_label(label) for label in text.removesuffix(".").split("."))


def _keywords(value: object) -> object:
    """A mapping, or its JSON text. Values with a secret's name become `SecretStr`."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value or "{}")
    if not isinstance(value, dict):
        # The library's message for a wrong type would repeat the value, which may hold a secret.
        raise ValueError("must be a mapping, or JSON text of one")  # noqa: TRY004 - the library takes no TypeError
    return {name: _hidden(inner) if _SECRET_NAME.search(str(name)) else inner for name, inner in value.items()}


def _hidden(value: object) -> SecretStr:
    return value if isinstance(value, SecretStr) else SecretStr("" if value is None else str(value))


Limits = Annotated[tuple[tuple[str, Annotated[float, Field(gt=0)]], ...], BeforeValidator(_limits)]
Codec = Literal["none", "zstd"]
TopicCodecs = Annotated[tuple[tuple[str, Codec], ...], BeforeValidator(_by_topic)]
Globs = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
OptionalPath = Annotated[Path | None, BeforeValidator(none_if_empty)]
Directories = Annotated[tuple[Path, ...], BeforeValidator(_directories), AfterValidator(_check_disjoint)]
Prefixes = Annotated[tuple[str, ...], BeforeValidator(_prefixes), AfterValidator(_are_named)]
Addresses = Annotated[str, AfterValidator(_addresses)]
Address = Annotated[str, AfterValidator(_address)]
Encryption = Annotated[Literal["", "AES256", "aws:kms", "aws:kms:dsse"], BeforeValidator(_encryption)]
StorageClass = Annotated[str, AfterValidator(_storage_class)]
Keywords = Annotated[dict[str, Any], BeforeValidator(_keywords)]


def within(path: Path, directory: Path) -> bool:
    """Whether a path is the directory or below it, with symlinks resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def shown(value: object) -> str:
    """In the form of an environment variable; secrets are masked."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return json.dumps(value, default=str) if value else ""
    if isinstance(value, tuple):
        return ",".join(f"{part[0]}={_number(part[1])}" if isinstance(part, tuple) else str(part) for part in value)
    return str(value)


def _number(value: float | str) -> str:
    """Exact, and without a fraction if it is a whole number."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(value)


def setting(name: str, default: Any = ..., **constraints: Any) -> Any:
    """A field of the settings, by the name of its key."""
    return Field(default, validation_alias=name, **constraints)
