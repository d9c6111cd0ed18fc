"""Takhin Tiered: moves cold log segments to S3, MinIO or a directory, provably intact, and brings them back."""

from __future__ import annotations

from takhin_tiered.catalog.tallies import Stats
from takhin_tiered.config import Settings
from takhin_tiered.engine.cycle import CycleReport
from takhin_tiered.engine.scrub import Verdict
from takhin_tiered.errors import (
    BucketMissing,
    CatalogError,
    ConfigError,
    DiskError,
    DiskFull,
    HeldElsewhere,
    InvalidSegmentPath,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    SegmentActive,
    SegmentChanged,
    SegmentConflict,
    SegmentError,
    SegmentNotFound,
    SegmentRefused,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    TakhinError,
)
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb
from takhin_tiered.segments.report import SegmentInfo
from takhin_tiered.tiered_storage import TieredStorage

__version__ = "0.1.0"

__all__ = [
    "BucketMissing",
    "CatalogError",
    "ConfigError",
    "CycleReport",
    "DiskError",
    "DiskFull",
    "HeldElsewhere",
    "InvalidSegmentPath",
    "ObjectCorrupt",
    "ObjectExists",
    "ObjectMissing",
    "Plan",
    "SegmentActive",
    "SegmentChanged",
    "SegmentConflict",
    "SegmentError",
    "SegmentId",
    "SegmentInfo",
    "SegmentNotFound",
    "SegmentRefused",
    "Settings",
    "State",
    "Stats",
    "Step",
    "StoreDenied",
    "StoreError",
    "StoreUnavailable",
    "TakhinError",
    "Tier",
    "TieredStorage",
    "Verb",
    "Verdict",
    "__version__",
]
