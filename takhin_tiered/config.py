"""Settings: YAML, overridden by ``TAKHIN_…`` environment variables.

One field for each key. The key ``storage.tiered.cold.age.hours`` stands in YAML as nested mappings, or
with dots, and in the environment as ``TAKHIN_STORAGE_TIERED_COLD_AGE_HOURS``. A broker's own file works
as it is: what is not under ``storage.tiered`` and not known here is the broker's.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from takhin_tiered.errors import ConfigError
from takhin_tiered.segments.policy import Policy

ENV_PREFIX = "TAKHIN_"
CONFIG_VARIABLE = "TAKHIN_CONFIG"
DEFAULT_CONFIG = Path("/etc/takhin/takhin.yaml")
STATE_DIR_NAME = ".takhin-tiered"

_OURS = "storage.tiered"
_LATER = ("compression.", "encryption.", "api.tls.")
_WITHOUT_EFFECT = ("hot_min_access_hz", "hot_min_access_count", "tier_check_interval_minutes")
_TABLES = {"storage.tiered.retention.hours", "storage.tiered.retention.bytes"}
_SECRET = {"storage.tiered.api.token", "storage.tiered.s3.endpoint"}
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def _key(name: str, default: Any = ..., **constraints: Any) -> Any:
    return Field(default, validation_alias=name, **constraints)


def _split_commas(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _none_if_empty(value: object) -> object:
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


Limits = Annotated[tuple[tuple[str, Annotated[float, Field(gt=0)]], ...], BeforeValidator(_limits)]
Globs = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
OptionalPath = Annotated[Path | None, BeforeValidator(_none_if_empty)]


class Settings(BaseSettings):
    """Every key, its type and its default. Make it with `Settings.load`, or from keyword arguments."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False)

    data_dir: Path = _key("storage.data.dir")
    enabled: bool = _key("storage.tiered.enabled", False)
    s3_bucket: str = _key("storage.tiered.s3.bucket", "")
    s3_region: str = _key("storage.tiered.s3.region", "us-east-1")
    s3_prefix: str = _key("storage.tiered.s3.prefix", "takhin-segments")
    s3_endpoint: str = _key("storage.tiered.s3.endpoint", "")
    directory_path: OptionalPath = _key("storage.tiered.directory.path", None)
    cold_age_hours: float = _key("storage.tiered.cold.age.hours", 168.0, gt=0)
    warm_age_hours: float = _key("storage.tiered.warm.age.hours", 72.0, ge=0)
    archive_interval_minutes: float = _key("storage.tiered.archive.interval.minutes", 60.0, gt=0)
    archive_mode: Literal["move", "copy"] = _key("storage.tiered.archive.mode", "move")
    archive_corrupt: Literal["archive", "refuse"] = _key("storage.tiered.archive.corrupt", "archive")
    archive_concurrency: int = _key("storage.tiered.archive.concurrency", 4, ge=1, le=256)
    auto_archive_enabled: bool = _key("storage.tiered.auto.archive.enabled", True)
    local_cache_size_mb: float = _key("storage.tiered.local.cache.size.mb", 10240.0, ge=0)
    restore_lease_hours: float = _key("storage.tiered.restore.lease.hours", 24.0, ge=0)
    restore_reserve_mb: float = _key("storage.tiered.restore.reserve.mb", 64.0, ge=0)
    reconcile_interval_hours: float = _key("storage.tiered.reconcile.interval.hours", 24.0, gt=0)
    scrub_interval_hours: float = _key("storage.tiered.scrub.interval.hours", 720.0, ge=0)
    scrub_mbps: float = _key("storage.tiered.scrub.mbps", 8.0, gt=0)
    throttle_upload_mbps: float = _key("storage.tiered.throttle.upload.mbps", 0.0, ge=0)
    throttle_download_mbps: float = _key("storage.tiered.throttle.download.mbps", 0.0, ge=0)
    retention_hours: Limits = _key("storage.tiered.retention.hours", ())
    retention_bytes: Limits = _key("storage.tiered.retention.bytes", ())
    hot_min_access_hz: float = _key("storage.tiered.hot.min.access.hz", 10.0, ge=0)
    hot_min_access_count: int = _key("storage.tiered.hot.min.access.count", 100, ge=0)
    tier_check_interval_minutes: float = _key("storage.tiered.tier.check.interval.minutes", 30.0, gt=0)
    topics_include: Globs = _key("storage.tiered.topics.include", ("*",))
    topics_exclude: Globs = _key("storage.tiered.topics.exclude", ("__*",))
    api_host: str = _key("storage.tiered.api.host", "127.0.0.1", min_length=1)
    api_port: int = _key("storage.tiered.api.port", 8080, ge=0, le=65535)
    api_token: SecretStr = _key("storage.tiered.api.token", SecretStr(""))
    state_path: OptionalPath = _key("storage.tiered.state.dir", None)
    log_level: Literal["debug", "info", "warn", "warning", "error"] = _key("logging.level", "info")
    log_format: Literal["json", "text"] = _key("logging.format", "json")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - its names come from fields; ours from keys
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return _Environment(settings_cls), _ByKey(settings_cls, init_settings)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the file at ``path``, or else the default one if it is there, and the environment.

        Raises `ConfigError`, which names every key that is wrong, and where it was set.
        """
        file = find_config(path)
        values = _read_yaml(file) if file else {}
        _refuse_unknown((key for key in values if _is_ours(key)), str(file))
        known = {key: value for key, value in values.items() if key in _fields_by_key()}
        variables = {name for name in os.environ if name.startswith(_variable(_OURS) + "_")}
        _refuse_unknown((name for name in variables if name not in _keys_by_variable()), "the environment")
        try:
            settings = cls(**known)
        except ValidationError as error:
            raise _explained(error, known, file) from None
        for key in _fields_by_key():
            if os.environ.get(_variable(key)):
                settings._sources[key] = _variable(key)
            elif key in known:
                settings._sources[key] = str(file)
        return settings

    @field_validator("s3_endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str) -> str:
        url = urlsplit(value)
        if value and (url.scheme not in {"http", "https"} or not url.hostname or url.username):
            raise ValueError("must be like http://minio:9000, without credentials in it")
        return value.rstrip("/")

    @field_validator("s3_bucket")
    @classmethod
    def _bucket_is_a_name(cls, value: str) -> str:
        if value and not _BUCKET.fullmatch(value):
            raise ValueError("must be a bucket name: 3 to 63 of a-z, 0-9, '-' and '.'")
        return value

    @field_validator("data_dir")
    @classmethod
    def _data_dir_is_named(cls, value: Path) -> Path:
        if str(value) == ".":
            raise ValueError("must name the broker's segment directory")
        return value

    @field_validator("retention_bytes")
    @classmethod
    def _at_least_a_byte(cls, value: Limits) -> Limits:
        if any(size < 1 for _, size in value):
            raise ValueError("must be at least one byte")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.warm_age_hours >= self.cold_age_hours:
            raise ValueError(
                f"storage.tiered.warm.age.hours ({self.warm_age_hours:g}) must be less than "
                f"storage.tiered.cold.age.hours ({self.cold_age_hours:g})"
            )
        if self.s3_bucket and self.directory_path is not None:
            raise ValueError("set storage.tiered.s3.bucket or storage.tiered.directory.path, not both")
        if self.enabled and not self.has_store:
            raise ValueError(
                "storage.tiered.enabled needs a store: set storage.tiered.s3.bucket or storage.tiered.directory.path"
            )
        if self.api_host not in _LOOPBACK and not self.api_token.get_secret_value():
            raise ValueError(
                f"storage.tiered.api.host is {self.api_host}, which others can reach: set storage.tiered.api.token"
            )
        if self.directory_path is not None and _within(self.directory_path, self.data_dir):
            raise ValueError("storage.tiered.directory.path must not be inside storage.data.dir")
        return self

    @property
    def has_store(self) -> bool:
        return bool(self.s3_bucket) or self.directory_path is not None

    @property
    def state_dir(self) -> Path:
        """Where the catalog and the lock are.

        Apache Kafka does not start with a directory in its log directory that is no partition, so the
        default stands beside a log directory of Kafka's, and inside any other data directory.
        """
        if self.state_path is not None:
            return self.state_path
        data_dir = self.data_dir.absolute()
        if (data_dir / "meta.properties").exists():
            return data_dir.with_name(data_dir.name + STATE_DIR_NAME)
        return data_dir / STATE_DIR_NAME

    @property
    def policy(self) -> Policy:
        return Policy(
            enabled=self.enabled,
            auto_archive=self.auto_archive_enabled,
            keep_local=self.archive_mode == "copy",
            warm_age=self.warm_age_hours * 3600,
            cold_age=self.cold_age_hours * 3600,
            lease=self.restore_lease_hours * 3600,
            cache_size=int(self.local_cache_size_mb * 1024 * 1024),
            retention_age=tuple((glob, hours * 3600) for glob, hours in self.retention_hours),
            retention_size=tuple((glob, int(size)) for glob, size in self.retention_bytes),
            include=self.topics_include,
            exclude=self.topics_exclude,
        )

    def source(self, key: str) -> str:
        """Where the value of a key came from: a file, a variable, or ``default``."""
        return self._sources.get(key, "default")

    def items(self) -> Iterator[tuple[str, str]]:
        """Every key with its effective value, as it may be shown: secrets are masked."""
        for key, name in _fields_by_key().items():
            value = getattr(self, name)
            if name == "state_path":
                value = self.state_dir
            if isinstance(value, tuple):
                value = ",".join(part if isinstance(part, str) else f"{part[0]}={_number(part[1])}" for part in value)
            if isinstance(value, float):
                value = _number(value)
            yield key, str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)

    def without_effect(self) -> list[str]:
        """Keys that were set, and that this version accepts without acting on them."""
        return [key for key, name in _fields_by_key().items() if name in _WITHOUT_EFFECT and key in self._sources]


class _Environment(PydanticBaseSettingsSource):
    """``TAKHIN_…`` variables, by the key of each field. An empty variable counts as not set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        key = str(field.validation_alias)
        return os.environ.get(_variable(key)) or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                found[str(field.validation_alias)] = value
        return found


class _ByKey(PydanticBaseSettingsSource):
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


def _number(value: float) -> str:
    """Exactly, and without a fraction where there is none."""
    return str(int(value)) if value == int(value) else repr(value)


def find_config(path: str | Path | None) -> Path | None:
    """The file to read: the one given, ``$TAKHIN_CONFIG``, or the default one if it is there."""
    chosen = path or os.environ.get(CONFIG_VARIABLE)
    if chosen:
        return Path(chosen)
    return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None


def _read_yaml(path: Path) -> dict[str, Any]:
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
    return dict(_flatten(document, ""))


def _flatten(value: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        key = f"{prefix}{name}"
        if isinstance(inner, dict) and key not in _TABLES:
            yield from _flatten(inner, f"{key}.")
        elif inner is not None:
            yield key, inner


def _fields_by_key() -> dict[str, str]:
    return {str(field.validation_alias): name for name, field in Settings.model_fields.items()}


def _variable(key: str) -> str:
    return ENV_PREFIX + key.replace(".", "_").upper()


def _keys_by_variable() -> dict[str, str]:
    return {_variable(key): key for key in _fields_by_key()}


def _is_ours(key: str) -> bool:
    return key == _OURS or key.startswith(f"{_OURS}.")


def _refuse_unknown(names: Iterable[str], where: str) -> None:
    """Raise for keys, or variables, that are not known; the nearest known one is told."""
    known = _fields_by_key()
    complaints = []
    for name in sorted(names):
        if name in known:
            continue
        rest = name.removeprefix(f"{_OURS}.").removeprefix(_variable(_OURS) + "_").lower().replace("_", ".")
        if rest.startswith(_LATER):
            complaints.append(f"{name} (in {where}) is not supported by this version")
            continue
        candidates = list(known) if name.startswith(_OURS) else list(_keys_by_variable())
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.0)
        complaints.append(f"unknown key {name} (in {where}); the nearest known key is {near[0]}")
    if complaints:
        raise ConfigError("; ".join(complaints))


def _explained(error: ValidationError, values: Mapping[str, Any], file: Path | None) -> ConfigError:
    by_name = {name: key for key, name in _fields_by_key().items()}
    complaints = []
    for problem in error.errors():
        key = str(problem["loc"][0]) if problem["loc"] else ""
        key = by_name.get(key, key)
        message = str(problem["msg"]).removeprefix("Value error, ")
        if not key:
            complaints.append(message)
        elif problem["type"] == "missing":
            complaints.append(f"{key} is required: set it in the configuration file, or {_variable(key)}")
        else:
            where = _variable(key) if os.environ.get(_variable(key)) else str(file) if key in values else "an argument"
            shown = "" if key in _SECRET else f", not {problem.get('input')!r}"
            complaints.append(f"{key} (in {where}): {message}{shown}")
    return ConfigError("; ".join(complaints))


def _within(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory.resolve())
