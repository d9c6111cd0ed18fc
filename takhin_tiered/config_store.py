"""Settings of warm copies, storage classes, and of retrieval from archive classes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from pydantic_settings import BaseSettings

from takhin_tiered.config_values import StorageClass, setting

_ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}


class StoreClasses(BaseSettings):
    """Part of `Settings`."""

    warm_copy: bool = setting("storage.tiered.warm.copy", False)
    s3_class_warm: StorageClass = setting("storage.tiered.s3.class.warm", "")
    s3_class_cold: StorageClass = setting("storage.tiered.s3.class.cold", "")
    s3_glacier_tier: Literal["Expedited", "Standard", "Bulk"] = setting("storage.tiered.s3.glacier.tier", "Standard")
    s3_glacier_days: int = setting("storage.tiered.s3.glacier.days", 3, ge=1, le=3650)

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.s3_class_warm in _ARCHIVES and self.s3_class_cold not in {"", self.s3_class_warm}:
            raise ValueError(
                f"storage.tiered.s3.class.warm is {self.s3_class_warm}, from which nothing is copied to "
                f"storage.tiered.s3.class.cold ({self.s3_class_cold}): set a class that can be read at once"
            )
        if self.s3_glacier_tier == "Expedited" and "DEEP_ARCHIVE" in {self.s3_class_warm, self.s3_class_cold}:
            raise ValueError("storage.tiered.s3.glacier.tier Expedited does not exist for DEEP_ARCHIVE")
        return self
