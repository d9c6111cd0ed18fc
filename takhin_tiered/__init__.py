"""Takhin Tiered: moves cold log segments to S3, MinIO or a directory, provably intact, and brings them back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from takhin_tiered.catalog.tallies import Stats as Stats
    from takhin_tiered.config import Settings as Settings
    from takhin_tiered.engine.report import CycleReport as CycleReport
    from takhin_tiered.engine.scrub import Verdict as Verdict
    from takhin_tiered.errors import BrokerDenied as BrokerDenied
    from takhin_tiered.errors import BrokerError as BrokerError
    from takhin_tiered.errors import BrokerUnavailable as BrokerUnavailable
    from takhin_tiered.errors import BucketMissing as BucketMissing
    from takhin_tiered.errors import CatalogError as CatalogError
    from takhin_tiered.errors import ClaimGone as ClaimGone
    from takhin_tiered.errors import ConfigError as ConfigError
    from takhin_tiered.errors import Damaged as Damaged
    from takhin_tiered.errors import DiskError as DiskError
    from takhin_tiered.errors import DiskFull as DiskFull
    from takhin_tiered.errors import HeldElsewhere as HeldElsewhere
    from takhin_tiered.errors import InGlacier as InGlacier
    from takhin_tiered.errors import InvalidQuery as InvalidQuery
    from takhin_tiered.errors import InvalidSegmentPath as InvalidSegmentPath
    from takhin_tiered.errors import NoKey as NoKey
    from takhin_tiered.errors import ObjectCorrupt as ObjectCorrupt
    from takhin_tiered.errors import ObjectExists as ObjectExists
    from takhin_tiered.errors import ObjectMissing as ObjectMissing
    from takhin_tiered.errors import OffsetInHole as OffsetInHole
    from takhin_tiered.errors import OffsetOutOfRange as OffsetOutOfRange
    from takhin_tiered.errors import OverBudget as OverBudget
    from takhin_tiered.errors import OwnerSilent as OwnerSilent
    from takhin_tiered.errors import PartitionNotFound as PartitionNotFound
    from takhin_tiered.errors import RangeNotSatisfiable as RangeNotSatisfiable
    from takhin_tiered.errors import SegmentActive as SegmentActive
    from takhin_tiered.errors import SegmentBusy as SegmentBusy
    from takhin_tiered.errors import SegmentChanged as SegmentChanged
    from takhin_tiered.errors import SegmentConflict as SegmentConflict
    from takhin_tiered.errors import SegmentError as SegmentError
    from takhin_tiered.errors import SegmentNotFound as SegmentNotFound
    from takhin_tiered.errors import SegmentRefused as SegmentRefused
    from takhin_tiered.errors import SegmentShared as SegmentShared
    from takhin_tiered.errors import StoreChanged as StoreChanged
    from takhin_tiered.errors import StoreDenied as StoreDenied
    from takhin_tiered.errors import StoreError as StoreError
    from takhin_tiered.errors import StoreFull as StoreFull
    from takhin_tiered.errors import StoreUnavailable as StoreUnavailable
    from takhin_tiered.errors import TableDenied as TableDenied
    from takhin_tiered.errors import TableError as TableError
    from takhin_tiered.errors import TableMissing as TableMissing
    from takhin_tiered.errors import TableRejected as TableRejected
    from takhin_tiered.errors import TableThrottled as TableThrottled
    from takhin_tiered.errors import TableUnavailable as TableUnavailable
    from takhin_tiered.errors import TakhinError as TakhinError
    from takhin_tiered.errors import TrimRefused as TrimRefused
    from takhin_tiered.errors import WrongKey as WrongKey
    from takhin_tiered.reader.query import Isolation as Isolation
    from takhin_tiered.reader.query import RecordPage as RecordPage
    from takhin_tiered.reader.query import RecordQuery as RecordQuery
    from takhin_tiered.segments.model import State as State
    from takhin_tiered.segments.model import Tier as Tier
    from takhin_tiered.segments.names import SegmentId as SegmentId
    from takhin_tiered.segments.plan import Plan as Plan
    from takhin_tiered.segments.plan import Step as Step
    from takhin_tiered.segments.plan import Verb as Verb
    from takhin_tiered.segments.report import SegmentInfo as SegmentInfo
    from takhin_tiered.tiered_storage import TieredStorage as TieredStorage

__version__ = "0.1.0"

_HOMES = {
    "catalog.tallies": ["Stats"],
    "config": ["Settings"],
    "engine.report": ["CycleReport"],
    "engine.scrub": ["Verdict"],
    "errors": [
        "BrokerDenied", "BrokerError", "BrokerUnavailable", "BucketMissing", "CatalogError", "ClaimGone",
        "ConfigError", "Damaged", "DiskError", "DiskFull", "HeldElsewhere", "InGlacier", "InvalidQuery",
        "InvalidSegmentPath", "NoKey", "ObjectCorrupt", "ObjectExists", "ObjectMissing", "OffsetInHole",
        "OffsetOutOfRange", "OverBudget", "OwnerSilent", "PartitionNotFound", "RangeNotSatisfiable",
        "SegmentActive", "SegmentBusy", "SegmentChanged", "SegmentConflict", "SegmentError", "SegmentNotFound",
        "SegmentRefused", "SegmentShared", "StoreChanged", "StoreDenied", "StoreError", "StoreFull", "StoreUnavailable",
        "TableDenied", "TableError", "TableMissing", "TableRejected", "TableThrottled", "TableUnavailable",
        "TakhinError",
        "TrimRefused", "WrongKey",
    ],
    "reader.query": ["Isolation", "RecordQuery", "RecordPage"],
    "segments.model": ["State", "Tier"],
    "segments.names": ["SegmentId"],
    "segments.plan": ["Plan", "Step", "Verb"],
    "segments.report": ["SegmentInfo"],
    "tiered_storage": ["TieredStorage"],
}  # fmt: skip
__all__ = sorted([*(name for names in _HOMES.values() for name in names), "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> object:
    """A public name, imported when it is asked for: who needs a part does not wait for the whole."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
