"""Sources of settings (YAML file, environment, arguments), and messages for invalid ones.

This module does not know the settings: ``fields`` maps each key to the name of its field.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from takhin_tiered.errors import ConfigError
from takhin_tiered.users import owner_hint

ENV_PREFIX = "TAKHIN_"
CONFIG_VARIABLE = "TAKHIN_CONFIG"
DEFAULT_CONFIG = Path("/etc/takhin/takhin.yaml")
OURS = "storage.tiered"

_SERVICE_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://[^/]+:[0-9]+")
_SERVICE_VARIABLE = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(?:_[A-Z0-9_]+)?$|_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?$"
)
_NEARLY = 0.85


def variable(key: str) -> str:
    """The environment variable of a key."""
    return ENV_PREFIX + key.replace(".", "_").upper()


def value_of_variable(key: str) -> str | None:
    """The value of a key in the environment; None if it is not set, or set by Kubernetes."""
    value = os.environ.get(variable(key))
    return None if not value or _SERVICE_ADDRESS.fullmatch(value) else value


def is_of_kubernetes(name: str) -> bool:
    """Whether Kubernetes sets this variable in every container, for a Service named like our prefix.

    Source: Kubernetes, "Discovering services": Docker-compatible service links.
    """
    return bool(_SERVICE_VARIABLE.search(name) or _SERVICE_ADDRESS.fullmatch(os.environ.get(name, "")))


def is_ours(key: str) -> bool:
    """Whether an unknown key is an error, rather than a key of the broker."""
    return key == OURS or key.startswith(f"{OURS}.")


class Environment(PydanticBaseSettingsSource):
    """``TAKHIN_…`` variables, by the key of each field. An empty variable counts as not set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return value_of_variable(str(field.validation_alias)), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                found[str(field.validation_alias)] = value
        return found


class ByKey(PydanticBaseSettingsSource):
    """Keyword arguments, whether they name the field or the key."""

    def __init__(self, settings_cls: type[BaseSettings], given: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        assert isinstance(given, InitSettingsSource)
        self._given = given.init_kwargs

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return self._given.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        return {
            str(fields[name].validation_alias) if name in fields else name: value for name, value in self._given.items()
        }


def find_config(path: str | Path | None) -> Path | None:
    """The file to read: ``path``, else ``$TAKHIN_CONFIG``, else the default file if it exists."""
    chosen = path or os.environ.get(CONFIG_VARIABLE)
    if chosen:
        return Path(chosen)
    return DEFAULT_CONFIG if os.path.lexists(DEFAULT_CONFIG) else None


def read_yaml(path: Path, tables: Collection[str]) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 - a safe loader, only stricter
    except PermissionError as error:
        raise ConfigError(f"cannot read the configuration: {error}", hint=owner_hint(path)) from error
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration: {error}", hint="Set the file with --config or TAKHIN_CONFIG"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a mapping of keys to values")
    return dict(_flatten(document, "", tables))


class _Loader(yaml.SafeLoader):
    """Stricter YAML: duplicate keys are an error, and ``no`` and ``on`` are strings, as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping",
                    node.start_mark,
                    f"duplicate key {key!r}: remove one of the two",
                    key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOLEAN = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF"))


def _flatten(value: Mapping[Any, Any], prefix: str, tables: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        key = f"{prefix}{name}"
        if isinstance(inner, dict) and key not in tables:
            yield from _flatten(inner, f"{key}.", tables)
        elif inner is not None:
            yield key, inner


def refuse_misspelt(names: Iterable[str], where: str) -> None:
    """Raise for a misspelt section: ignored as the broker's, it would leave tiering disabled."""
    for name in sorted(names):
        section = ".".join(name.split(".")[:2])
        if section != OURS and difflib.get_close_matches(section, [OURS], cutoff=_NEARLY):
            raise ConfigError(f"unknown section {section} (in {where}): did you mean {OURS}?")


def refuse_unknown(names: Iterable[str], where: str, fields: Mapping[str, str]) -> None:
    """Raise for unknown keys or variables, and suggest the nearest known one."""
    complaints = []
    for name in sorted(names):
        if name in fields:
            continue
        candidates = list(fields) if name.startswith(OURS) else [variable(key) for key in fields]
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.0)
        complaints.append(f"unknown key {name} (in {where}); the nearest known key is {near[0]}")
    if complaints:
        raise ConfigError("; ".join(complaints))


def explained(
    error: ValidationError,
    values: Mapping[str, Any],
    file: Path | None,
    fields: Mapping[str, str],
    secret: Collection[str],
) -> ConfigError:
    """Every invalid key and where it was set; a ``secret`` key without its value."""
    by_name = {name: key for key, name in fields.items()}
    complaints = []
    for problem in error.errors():
        key = str(problem["loc"][0]) if problem["loc"] else ""
        key = by_name.get(key, key)
        message = str(problem["msg"]).removeprefix("Value error, ")
        # Within a value that has parts.
        inside = [f"entry {part + 1}" if isinstance(part, int) else str(part) for part in problem["loc"][1:]]
        if inside:
            message = f"{', '.join(inside)}: {message}"
        if not key:
            complaints.append(message)
        elif problem["type"] == "missing" and not inside:
            complaints.append(f"{key} is required: set it in the configuration file, or {variable(key)}")
        else:
            where = variable(key) if os.environ.get(variable(key)) else str(file) if key in values else "an argument"
            shown = "" if key in secret else f", not {problem.get('input')!r}"
            complaints.append(f"{key} (in {where}): {message}{shown}")
    return ConfigError("; ".join(complaints))
