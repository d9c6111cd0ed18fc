"""Where settings come from: a YAML file, the environment, arguments; and the words for what is wrong in them.

Nothing here knows the settings themselves: ``fields`` has the name of each field by its key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from takhin_tiered.errors import ConfigError

ENV_PREFIX = "TAKHIN_"
CONFIG_VARIABLE = "TAKHIN_CONFIG"
DEFAULT_CONFIG = Path("/etc/takhin/takhin.yaml")
OURS = "storage.tiered"

_LATER = ("compression.", "encryption.", "api.tls.")


def variable(key: str) -> str:
    """The environment variable of a key."""
    return ENV_PREFIX + key.replace(".", "_").upper()


def is_ours(key: str) -> bool:
    """Whether a key that is not known here is an error, rather than the broker's."""
    return key == OURS or key.startswith(f"{OURS}.")


class Environment(PydanticBaseSettingsSource):
    """``TAKHIN_…`` variables, by the key of each field. An empty variable counts as not set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        key = str(field.validation_alias)
        return os.environ.get(variable(key)) or None, field_name, False

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
    """The file to read: the one given, ``$TAKHIN_CONFIG``, or the default one if it is there."""
    chosen = path or os.environ.get(CONFIG_VARIABLE)
    if chosen:
        return Path(chosen)
    return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None


def read_yaml(path: Path, tables: Collection[str]) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a mapping of keys to values")
    return dict(_flatten(document, "", tables))


def _flatten(value: Mapping[Any, Any], prefix: str, tables: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        key = f"{prefix}{name}"
        if isinstance(inner, dict) and key not in tables:
            yield from _flatten(inner, f"{key}.", tables)
        elif inner is not None:
            yield key, inner


def refuse_unknown(names: Iterable[str], where: str, fields: Mapping[str, str]) -> None:
    """Raise for keys, or variables, that are not known; the nearest known one is told."""
    complaints = []
    for name in sorted(names):
        if name in fields:
            continue
        rest = name.removeprefix(f"{OURS}.").removeprefix(variable(OURS) + "_").lower().replace("_", ".")
        if rest.startswith(_LATER):
            complaints.append(f"{name} (in {where}) is not supported by this version")
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
    """Every key that is wrong, and where it was set; a ``secret`` one without its value."""
    by_name = {name: key for key, name in fields.items()}
    complaints = []
    for problem in error.errors():
        key = str(problem["loc"][0]) if problem["loc"] else ""
        key = by_name.get(key, key)
        message = str(problem["msg"]).removeprefix("Value error, ")
        if not key:
            complaints.append(message)
        elif problem["type"] == "missing":
            complaints.append(f"{key} is required: set it in the configuration file, or {variable(key)}")
        else:
            where = variable(key) if os.environ.get(variable(key)) else str(file) if key in values else "an argument"
            shown = "" if key in secret else f", not {problem.get('input')!r}"
            complaints.append(f"{key} (in {where}): {message}{shown}")
    return ConfigError("; ".join(complaints))
