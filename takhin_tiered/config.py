"""Settings: YAML, overridden by ``TAKHIN_…`` environment variables.

One field for each key. In YAML the key ``storage.tiered.cold.age.hours`` is written as nested mappings or
with dots, in the environment as ``TAKHIN_STORAGE_TIERED_COLD_AGE_HOURS``. A broker's own file works
unchanged: unknown keys outside ``storage.tiered`` belong to the broker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from takhin_tiered.config_heat import Heat
from takhin_tiered.config_limits import OVERRIDES, PlanLimits, check_overrides, shown_overrides
from takhin_tiered.config_listeners import Listeners
from takhin_tiered.config_prices import PRICE_TABLES, PriceList
from takhin_tiered.config_sources import (
    ENV_PREFIX,
    OURS,
    ByKey,
    Environment,
    explained,
    find_config,
    is_of_kubernetes,
    is_ours,
    read_yaml,
    refuse_misspelt,
    refuse_unknown,
    value_of_variable,
    variable,
)
from takhin_tiered.config_store import StoreClasses
from takhin_tiered.config_tables import Tables, shown_tables
from takhin_tiered.config_values import (
    Addresses,
    Codec,
    Directories,
    Encryption,
    Globs,
    Keywords,
    Limits,
    OptionalPath,
    Prefixes,
    TopicCodecs,
    is_host,
    is_host_label,
    none_if_empty,
    setting,
    shown,
    within,
)
from takhin_tiered.segments.names import parse_partition
from takhin_tiered.segments.policy import Policy
from takhin_tiered.segments.windows import Windows

__all__ = ["ENV_PREFIX", "STATE_DIR_NAME", "Mode", "Settings", "find_config"]

STATE_DIR_NAME = ".takhin-tiered"

Mode = Literal["copy", "trim", "move"]

_CLIENT = "storage.tiered.broker.client"
_TABLES = {
    "storage.tiered.retention.hours", "storage.tiered.retention.bytes", "storage.tiered.compression.topics", _CLIENT,
    OVERRIDES, *PRICE_TABLES,
}  # fmt: skip
_SECRET = {"storage.tiered.api.token", "storage.tiered.s3.endpoint", _CLIENT}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# These files identify a state directory that an earlier release created inside the data directory.
_STATE_FILES = ("catalog.db", "lock")
_META_PROPERTIES = "meta.properties"


class Accepted(NamedTuple):
    """What the user confirmed: the ID of a changed store, and the clock."""

    store: str = ""
    clock: bool = False


class Settings(Heat, Listeners, PlanLimits, PriceList, StoreClasses, Tables):
    """Every key with its type and default. Use `Settings.load`, or keyword arguments."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False)

    data_dirs: Directories = setting("storage.data.dir")
    enabled: bool = setting("storage.tiered.enabled", False)
    s3_bucket: str = setting("storage.tiered.s3.bucket", "")
    s3_region: str = setting("storage.tiered.s3.region", "us-east-1")
    s3_prefix: str = setting("storage.tiered.s3.prefix", "takhin-segments")
    s3_endpoint: str = setting("storage.tiered.s3.endpoint", "")
    s3_sse: Encryption = setting("storage.tiered.s3.sse", "")
    s3_sse_kms_key: str = setting("storage.tiered.s3.sse.kms.key", "")
    s3_checksum: Literal["sha256", "md5", "none"] = setting("storage.tiered.s3.checksum", "sha256")
    s3_requester_pays: bool = setting("storage.tiered.s3.requester.pays", False)
    s3_prefixes_read: Prefixes = setting("storage.tiered.s3.prefixes.read", ())
    directory_path: OptionalPath = setting("storage.tiered.directory.path", None)
    cold_age_hours: float = setting("storage.tiered.cold.age.hours", 168.0, gt=0)
    warm_age_hours: float = setting("storage.tiered.warm.age.hours", 72.0, ge=0)
    archive_interval_minutes: float = setting("storage.tiered.archive.interval.minutes", 60.0, gt=0)
    archive_mode: Annotated[Mode | None, BeforeValidator(none_if_empty)] = setting("storage.tiered.archive.mode", None)
    archive_before_retention: bool = setting("storage.tiered.archive.before.retention", True)
    archive_superseded_keep_hours: float = setting("storage.tiered.archive.superseded.keep.hours", 0.0, ge=0)
    archive_corrupt: Literal["archive", "refuse"] = setting("storage.tiered.archive.corrupt", "archive")
    archive_concurrency: int = setting("storage.tiered.archive.concurrency", 4, ge=1, le=256)
    auto_archive_enabled: bool = setting("storage.tiered.auto.archive.enabled", True)
    local_cache_size_mb: float = setting("storage.tiered.local.cache.size.mb", 10240.0, ge=0)
    restore_lease_hours: float = setting("storage.tiered.restore.lease.hours", 24.0, ge=0)
    restore_reserve_mb: float = setting("storage.tiered.restore.reserve.mb", 64.0, ge=0)
    reconcile_interval_hours: float = setting("storage.tiered.reconcile.interval.hours", 24.0, gt=0)
    scrub_interval_hours: float = setting("storage.tiered.scrub.interval.hours", 720.0, ge=0)
    scrub_mbps: float = setting("storage.tiered.scrub.mbps", 8.0, gt=0)
    throttle_upload_mbps: float = setting("storage.tiered.throttle.upload.mbps", 0.0, ge=0)
    throttle_download_mbps: float = setting("storage.tiered.throttle.download.mbps", 0.0, ge=0)
    retention_hours: Limits = setting("storage.tiered.retention.hours", ())
    retention_bytes: Limits = setting("storage.tiered.retention.bytes", ())
    topics_include: Globs = setting("storage.tiered.topics.include", ("*",))
    topics_exclude: Globs = setting("storage.tiered.topics.exclude", ("__*",))
    topics_compacted: Literal["skip", "archive"] = setting("storage.tiered.topics.compacted", "skip")
    compression_codec: Codec = setting("storage.tiered.compression.codec", "none")
    compression_level: int = setting("storage.tiered.compression.level", 3, ge=1, le=22)
    compression_topics: TopicCodecs = setting("storage.tiered.compression.topics", ())
    encryption_key_file: OptionalPath = setting("storage.tiered.encryption.key.file", None)
    chunk_size_mb: float = setting("storage.tiered.chunk.size.mb", 4.0, ge=1 / 64, le=64)
    broker_bootstrap: Addresses = setting("storage.tiered.broker.bootstrap", "")
    broker_client: Keywords = setting("storage.tiered.broker.client", {})
    trim_ignore_groups: Globs = setting("storage.tiered.trim.ignore.groups", ())
    state_path: OptionalPath = setting("storage.tiered.state.dir", None)
    log_level: Literal["debug", "info", "warn", "warning", "error"] = setting("logging.level", "info")
    log_format: Literal["json", "text"] = setting("logging.format", "json")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    # Only from the command line: a confirmation counts once.
    _accepted: Accepted = PrivateAttr(default_factory=Accepted)

    def __init__(self, **values: Any) -> None:
        """Fields or keys by name; ``data_dir``, one path or several, is ``data_dirs``."""
        if "data_dir" in values:
            values["data_dirs"] = values.pop("data_dir")
        super().__init__(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - its names come from fields; ours from keys
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return Environment(settings_cls), ByKey(settings_cls, init_settings)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the file at ``path``, or else the default file if it exists, and the environment.

        Raises `ConfigError`, which names every invalid key and where it was set.
        """
        file = find_config(path)
        values = read_yaml(file, _TABLES) if file else {}
        fields = _fields_by_key()
        refuse_misspelt((key for key in values if key not in fields), str(file))
        refuse_unknown((key for key in values if is_ours(key)), str(file), fields)
        known = {key: value for key, value in values.items() if key in fields}
        variables = {name for name in os.environ if name.startswith(variable(OURS) + "_")}
        variables = {name for name in variables if not is_of_kubernetes(name)}
        refuse_unknown(variables - {variable(key) for key in fields}, "the environment", fields)
        try:
            settings = cls(**known)
        except ValidationError as error:
            raise explained(error, known, file, fields, _SECRET) from None
        for key in fields:
            if value_of_variable(key) is not None:
                settings._sources[key] = variable(key)
            elif key in known:
                settings._sources[key] = str(file)
        return settings

    @property
    def accepted(self) -> Accepted:
        return self._accepted

    def accepting(self, accepted: Accepted) -> Self:
        self._accepted = accepted
        return self

    @field_validator("s3_endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str) -> str:
        url = urlsplit(value)
        if value and (url.scheme not in {"http", "https"} or not url.hostname or url.username):
            raise ValueError("must be a URL like http://minio:9000, without credentials")
        if value and not is_host(url.hostname or ""):
            raise ValueError("has a host name that the AWS SDK refuses: letters, digits, '-' and '.' are allowed")
        return value.rstrip("/")

    @field_validator("s3_region")
    @classmethod
    def _region_is_a_name(cls, value: str) -> str:
        if value and not is_host_label(value):
            raise ValueError("must be a region like eu-central-1: letters, digits and '-'")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _bucket_is_a_name(cls, value: str) -> str:
        if value and not _BUCKET.fullmatch(value):
            raise ValueError("must be a bucket name: 3 to 63 of a-z, 0-9, '-' and '.'")
        return value

    @field_validator("retention_bytes")
    @classmethod
    def _at_least_a_byte(cls, value: Limits) -> Limits:
        if any(size < 1 for _, size in value):
            raise ValueError("must be at least one byte")
        return value

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.warm_age_hours >= self.cold_age_hours:
            raise ValueError(
                f"storage.tiered.warm.age.hours ({self.warm_age_hours:g}) must be less than "
                f"storage.tiered.cold.age.hours ({self.cold_age_hours:g})"
            )
        check_overrides(self, self.warm_age_hours, self.cold_age_hours, has_broker=bool(self.broker_bootstrap))
        if self.s3_sse_kms_key and self.s3_sse not in {"", "aws:kms", "aws:kms:dsse"}:
            raise ValueError(
                f"storage.tiered.s3.sse.kms.key needs storage.tiered.s3.sse aws:kms or aws:kms:dsse, not {self.s3_sse}"
            )
        if self.s3_bucket and self.directory_path is not None:
            raise ValueError("set storage.tiered.s3.bucket or storage.tiered.directory.path, not both")
        if self.enabled and not self.has_store:
            raise ValueError(
                "storage.tiered.enabled needs a store: set storage.tiered.s3.bucket or storage.tiered.directory.path"
            )
        for path in self.data_dirs:
            if self.directory_path is not None and within(self.directory_path, path):
                raise ValueError("storage.tiered.directory.path must not be inside storage.data.dir")
        if len(self.data_dirs) > 1 and self.state_path is None:
            raise ValueError(
                "storage.data.dir names several directories: set storage.tiered.state.dir, "
                "because there is no default for several"
            )
        if self.archive_mode == "trim" and not self.broker_bootstrap:
            raise ValueError(
                "storage.tiered.archive.mode trim asks the broker to delete: set storage.tiered.broker.bootstrap"
            )
        if self._written_prefix in self.read_prefixes:
            raise ValueError("storage.tiered.s3.prefixes.read contains the prefix that this daemon writes to")
        return self

    def with_changes(self, other: Settings, names: Iterable[str]) -> Settings:
        """A copy with the fields ``names`` of ``other``. `ValidationError` if the result is inconsistent."""
        taken = set(names)
        fields = {name: getattr(other if name in taken else self, name) for name in type(self).model_fields}
        return type(self)(**fields)

    @property
    def data_dir(self) -> Path:
        """The first data directory: for most brokers the only one."""
        return self.data_dirs[0]

    @property
    def has_store(self) -> bool:
        return bool(self.s3_bucket) or self.directory_path is not None

    @property
    def read_prefixes(self) -> tuple[str, ...]:
        """Where earlier daemons archived to: prefixes of the bucket, or absolute paths of directory stores.

        A relative path of a directory store is relative to the parent of this daemon's store.
        """
        if self.directory_path is None:
            return tuple(prefix.strip("/") for prefix in self.s3_prefixes_read)
        return tuple(os.path.abspath(self.directory_path.parent / path) for path in self.s3_prefixes_read)  # noqa: PTH100

    @property
    def sse(self) -> str:
        """The requested server-side encryption; a KMS key alone implies ``aws:kms``."""
        return self.s3_sse or ("aws:kms" if self.s3_sse_kms_key else "")

    @property
    def _written_prefix(self) -> str:
        return self.s3_prefix.strip("/") if self.directory_path is None else os.path.abspath(self.directory_path)  # noqa: PTH100

    @property
    def state_dir(self) -> Path:
        """Where the catalog and the lock are: beside the data directory, unless configured.

        Apache Kafka does not start if its log directory contains a directory that is not a partition, and an empty
        directory may become Kafka's. A state directory that an earlier release created inside is still used. It is
        created inside if nothing can be created beside: in a container the data directory is often the only volume.
        """
        if self.state_path is not None:
            return self.state_path
        data_dir = Path(os.path.abspath(self.data_dir))  # noqa: PTH100 - of "data/.." the name would be ".."
        inside = data_dir / STATE_DIR_NAME
        if any(_exists(inside / name) for name in _STATE_FILES) and not _exists(data_dir / _META_PROPERTIES):
            return inside
        beside = data_dir.with_name(data_dir.name + STATE_DIR_NAME)
        if _exists(beside) or os.access(beside.parent, os.W_OK):
            return beside
        # With partitions but without Kafka's meta.properties, it belongs to another broker.
        is_settled = not _exists(data_dir / _META_PROPERTIES) and _has_partitions(data_dir)
        return inside if is_settled and os.access(data_dir, os.W_OK) else beside

    def mode(self, kafka: bool) -> Mode:
        """How space is freed: as configured, else ``copy`` beside Kafka and ``move`` beside other brokers."""
        return self.archive_mode or ("copy" if kafka else "move")

    @property
    def broker_arguments(self) -> dict[str, Any]:
        """`broker_client` for the Kafka library, with secrets in clear text."""
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self.broker_client.items()
        }

    @property
    def policy(self) -> Policy:
        """The policy for a broker other than Kafka."""
        return self.policy_for(kafka=False)

    def policy_for(self, kafka: bool) -> Policy:
        return Policy(
            enabled=self.enabled,
            auto_archive=self.auto_archive_enabled,
            keep_local=self.mode(kafka) != "move",
            warm_age=self.warm_age_hours * 3600,
            cold_age=self.cold_age_hours * 3600,
            lease=self.restore_lease_hours * 3600,
            cache_size=int(self.local_cache_size_mb * 1024 * 1024),
            hot_rate=self.hot_min_access_hz,
            hot_count=self.hot_min_access_count,
            promoted_hourly=self.hot_promote_mb_hourly * 1024 * 1024,
            retention_age=tuple((glob, hours * 3600) for glob, hours in self.retention_hours),
            retention_size=tuple((glob, int(size)) for glob, size in self.retention_bytes),
            include=self.topics_include,
            exclude=self.topics_exclude,
            trims=self.archive_mode == "trim",
            takes_compacted=self.topics_compacted == "archive",
            takes_corrupt=self.archive_corrupt == "archive",
            before_retention=self.archive_before_retention,
            mode_is_set=self.archive_mode is not None,
            kafka=kafka,
            warm_copy=self.warm_copy,
            class_warm=self.s3_class_warm,
            class_cold=self.s3_class_cold,
            overrides=self.topic_rules,
            reserve=self.local_reserve_percent / 100,
            windows=Windows(self.archive_windows, self.archive_timezone),
        )

    def source(self, key: str) -> str:
        """Where the value of a key came from: a file, a variable, or ``default``."""
        return self._sources.get(key, "default")

    def items(self) -> Iterator[tuple[str, str]]:
        """Every key with its effective value. Secrets are masked."""
        kafka = any(_exists(path / _META_PROPERTIES) for path in self.data_dirs)
        effective = {
            "state_path": self.state_dir,
            "archive_mode": self.mode(kafka),
            "hybrid_tables": shown_tables(self.hybrid_tables),
            "topics_overrides": shown_overrides(self.topics_overrides),
        }
        for key, name in _fields_by_key().items():
            yield key, shown(effective.get(name, getattr(self, name)))


def _exists(path: Path) -> bool:
    """False without permission, where `Path.exists` would raise."""
    return os.path.exists(path)  # noqa: PTH110


def _fields_by_key() -> dict[str, str]:
    return {str(field.validation_alias): name for name, field in Settings.model_fields.items()}


def _has_partitions(data_dir: Path) -> bool:
    try:
        return any(parse_partition(each.name) is not None for each in data_dir.iterdir())
    except OSError:
        return False
