"""The settings that limit the plan: room on the disk, hours of the day, and what is set for single topics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings

from takhin_tiered.config_values import Codec, StorageClass, setting, split_commas
from takhin_tiered.segments.policy import TopicRules
from takhin_tiered.segments.windows import Window

OVERRIDES = "storage.tiered.topics.overrides"
ZONE = "storage.tiered.archive.timezone"


def _key(name: str, **constraints: Any) -> Any:
    return Field(None, alias=name, **constraints)


class TopicOverride(BaseModel):
    """What one glob on topic names sets, over the setting of the same name for all topics."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    cold_age_hours: float | None = _key("cold.age.hours", gt=0)
    warm_age_hours: float | None = _key("warm.age.hours", ge=0)
    archive_mode: Literal["copy", "trim", "move"] | None = _key("archive.mode")
    s3_class_cold: StorageClass | None = _key("s3.class.cold")
    s3_class_warm: StorageClass | None = _key("s3.class.warm")
    compression_codec: Codec | None = _key("compression.codec")
    retention_hours: float | None = _key("retention.hours", ge=0)
    retention_bytes: int | None = _key("retention.bytes", ge=0)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: object) -> object:
        """Keys with dots, or as nested mappings, as everywhere in the file."""
        if not isinstance(value, dict):
            return value
        flat = _flattened(value)
        names = {str(field.alias) for field in cls.model_fields.values()}
        if unknown := sorted(key for key in flat if key not in names and key not in cls.model_fields):
            raise ValueError(f"unknown key {unknown[0]}: known are {', '.join(sorted(names))}")
        return flat

    @property
    def rules(self) -> TopicRules:
        """For the plan, in seconds and bytes."""
        return TopicRules(
            warm_age=None if self.warm_age_hours is None else self.warm_age_hours * 3600,
            cold_age=None if self.cold_age_hours is None else self.cold_age_hours * 3600,
            mode=self.archive_mode,
            retention_age=None if self.retention_hours is None else self.retention_hours * 3600,
            retention_size=self.retention_bytes,
            class_warm=self.s3_class_warm,
            class_cold=self.s3_class_cold,
        )

    @property
    def fixed(self) -> str | None:
        """What a reload cannot change: which files may be unlinked."""
        return self.archive_mode


def _flattened(value: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _flattened(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = inner
    return found


def _overrides(value: object) -> object:
    """A mapping, or its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError as error:
            raise ValueError(f"must be a mapping of globs to keys and values, or its JSON text: {error}") from None
    # YAML reads a topic named 2024 as a number.
    return {str(glob): keys for glob, keys in value.items()} if isinstance(value, dict) else value


def _windows(value: object) -> object:
    parts = split_commas(value)
    if not isinstance(parts, list | tuple):
        return parts
    return tuple(Window.parse(part) if isinstance(part, str) else part for part in parts)


def _zone(value: str) -> str:
    if value:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("must be a time zone that this machine knows, such as Europe/Vienna") from None
    return value


def shown_overrides(overrides: Mapping[str, TopicOverride]) -> str:
    """In the form of an environment variable."""
    documents = {glob: each.model_dump(by_alias=True, exclude_none=True) for glob, each in overrides.items()}
    return json.dumps(documents) if documents else ""


class PlanLimits(BaseSettings):
    """Part of `Settings`."""

    local_reserve_percent: float = setting("storage.tiered.local.reserve.percent", 0.0, ge=0, lt=100)
    archive_windows: Annotated[tuple[Window, ...], BeforeValidator(_windows)] = setting(
        "storage.tiered.archive.windows", ()
    )
    archive_timezone: Annotated[str, AfterValidator(_zone)] = setting(ZONE, "")
    topics_overrides: Annotated[dict[str, TopicOverride], BeforeValidator(_overrides)] = setting(OVERRIDES, {})

    @property
    def topic_rules(self) -> tuple[tuple[str, TopicRules], ...]:
        return tuple((glob, each.rules) for glob, each in self.topics_overrides.items())

    @property
    def fixed_overrides(self) -> list[tuple[str, str]]:
        return [(glob, each.fixed) for glob, each in self.topics_overrides.items() if each.fixed]

    def globs_of(self, mode: str) -> list[str]:
        """The globs that set this mode for their topics."""
        return [glob for glob, each in self.topics_overrides.items() if each.archive_mode == mode]

    def mode_of(self, topic: str) -> str | None:
        """The mode that a topic has of its own."""
        modes = ((glob, each.archive_mode) for glob, each in self.topics_overrides.items())
        return next((mode for glob, mode in modes if mode is not None and fnmatchcase(topic, glob)), None)

    @model_validator(mode="after")
    def _check_zone(self) -> Self:
        if self.archive_timezone and not self.archive_windows:
            raise ValueError(f"{ZONE} is of storage.tiered.archive.windows: set both")
        return self


def check_overrides(limits: PlanLimits, warm_hours: float, cold_hours: float, *, has_broker: bool) -> None:
    """Raises `ValueError`, which names glob and key."""
    overrides = limits.topics_overrides
    for glob, each in overrides.items():
        warm, cold = each.warm_age_hours, each.cold_age_hours
        is_set = warm is not None or cold is not None
        # What another glob sets may be what counts: then only a topic's own name tells.
        if warm is None and all(other.warm_age_hours is None for other in overrides.values()):
            warm = warm_hours
        if cold is None and all(other.cold_age_hours is None for other in overrides.values()):
            cold = cold_hours
        if is_set and warm is not None and cold is not None and warm >= cold:
            raise ValueError(
                f"{OVERRIDES}: {glob}: warm.age.hours ({warm:g}) must be less than cold.age.hours ({cold:g}): set both "
                "for this glob"
            )
        if each.archive_mode == "trim" and not has_broker:
            raise ValueError(
                f"{OVERRIDES}: {glob}: archive.mode trim asks the broker to delete: set storage.tiered.broker.bootstrap"
            )
