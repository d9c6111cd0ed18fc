"""The settings of heat: from when on reads keep a segment on the disk, or bring it back."""

from __future__ import annotations

from pydantic_settings import BaseSettings

from takhin_tiered.config_values import setting


class Heat(BaseSettings):
    """Part of `Settings`."""

    hot_min_access_hz: float = setting("storage.tiered.hot.min.access.hz", 10.0, ge=0)
    hot_min_access_count: int = setting("storage.tiered.hot.min.access.count", 100, ge=0)
    hot_promote_mb_hourly: float = setting("storage.tiered.hot.promote.mb.hourly", 1024.0, ge=0)
    tier_check_interval_minutes: float = setting("storage.tiered.tier.check.interval.minutes", 30.0, gt=0)
