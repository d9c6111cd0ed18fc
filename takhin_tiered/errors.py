"""Every error that this package raises on purpose.

::

    TakhinError
    ├── ConfigError               a setting is missing, unknown or makes no sense
    ├── HeldElsewhere             another daemon owns the data directory or the bucket prefix
    │   └── OwnerSilent           it was challenged, and has some time left to answer
    ├── SegmentError
    │   ├── InvalidSegmentPath    not the path of a segment
    │   ├── SegmentNotFound       neither on disk nor in the archive
    │   ├── SegmentActive         the broker still writes to it
    │   ├── SegmentChanged        its files changed while they were being read
    │   ├── RangeNotSatisfiable   the file has no such bytes
    │   ├── SegmentConflict       other bytes stand where these should go
    │   ├── SegmentShared         other replicas rely on its archived copy
    │   ├── SegmentBusy           another replica is changing its archived copy
    │   └── SegmentRefused        the configuration says no
    │       └── OverBudget        a restore would cost more than the month's budget leaves
    ├── InvalidQuery              no offset and no timestamp to read from, or both
    ├── PartitionNotFound         nothing is known of it
    ├── OffsetOutOfRange          no record at this offset, and none before it that could be read instead
    │   └── OffsetInHole          records are missing there, between others
    ├── StoreError
    │   ├── StoreUnavailable      no answer, or one that may be better next time
    │   ├── StoreFull             no room for an upload
    │   ├── StoreDenied           credentials, permissions
    │   ├── BucketMissing         the bucket or the directory is not there
    │   ├── StoreChanged          it is not the store that was archived to
    │   ├── ClaimGone             the record that makes us the owner of the prefix is not there any more
    │   ├── ObjectMissing         a key that should be there is not
    │   ├── ObjectExists          a conditional write found an object in its place
    │   ├── ObjectCorrupt         bytes, size or checksum are not what was archived
    │   │   └── Damaged           a part of an object, which was to be read
    │   ├── InGlacier             it has to be retrieved from an archive class before it can be read
    │   ├── NoKey                 the key that it was encrypted with is not in the key file
    │   └── WrongKey              the key file has another key under its ID
    ├── DiskError
    │   └── DiskFull              no room for a restore
    ├── TableError                DynamoDB
    │   ├── TableUnavailable      no answer, or one that may be better next time
    │   │   └── TableThrottled    the server wants fewer requests, and wanted that until the deadline
    │   ├── TableDenied           credentials, permissions
    │   ├── TableMissing          there is no such table, or index
    │   └── TableRejected         the request makes no sense to the server
    ├── BrokerError               the Kafka broker beside which this runs
    │   ├── BrokerUnavailable     no answer, or one that may be better next time
    │   ├── BrokerDenied          the ACLs of the broker say no
    │   └── TrimRefused           the broker does not delete these records
    └── CatalogError              the catalog database cannot be read or written

An error says what failed, on which segment and key, what the state is now, and what to do.
"""

from __future__ import annotations


class TakhinError(Exception):
    """The root. ``code`` is a stable word for programs, ``hint`` says what to do next."""

    code = "error"
    http_status = 500
    exit_code = 1
    usual_hint = ""

    def __init__(self, message: str, *, segment: str = "", key: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.segment = segment
        self.key = key
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        """One line: segment and key unless the message names them already, then the hint."""
        places = [f"segment {self.segment}"] if self.segment and self.segment not in self.message else []
        if self.key and self.key not in self.message:
            places.append(f"key {self.key}")
        where = f" ({', '.join(places)})" if places else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{self.message}{where}{hint}"


class ConfigError(TakhinError):
    code = "config"
    http_status = 409
    exit_code = 2


class HeldElsewhere(TakhinError):
    code = "held_elsewhere"
    http_status = 503
    exit_code = 2


class OwnerSilent(HeldElsewhere):
    """``seconds`` are left to the owner for an answer; then it is taken for dead."""

    code = "owner_silent"

    def __init__(self, message: str, *, key: str = "", hint: str = "", seconds: float = 0.0) -> None:
        super().__init__(message, key=key, hint=hint)
        self.seconds = seconds


class SegmentError(TakhinError):
    code = "segment"


class InvalidSegmentPath(SegmentError):
    code = "invalid_path"
    http_status = 400


class SegmentNotFound(SegmentError):
    code = "not_found"
    http_status = 404


class SegmentActive(SegmentError):
    code = "active"
    http_status = 409


class SegmentChanged(SegmentError):
    code = "changed"
    http_status = 409


class RangeNotSatisfiable(SegmentError):
    """``size`` is that of the file."""

    code = "range_not_satisfiable"
    http_status = 416

    def __init__(self, message: str, *, segment: str, size: int) -> None:
        super().__init__(message, segment=segment)
        self.size = size


class SegmentConflict(SegmentError):
    code = "conflict"
    http_status = 409


class SegmentShared(SegmentError):
    code = "shared"
    http_status = 409


class SegmentBusy(SegmentError):
    code = "busy"
    http_status = 409


class SegmentRefused(SegmentError):
    code = "refused"
    http_status = 409


class OverBudget(SegmentRefused):
    code = "over_budget"


class InvalidQuery(TakhinError):
    code = "bad_request"
    http_status = 400
    exit_code = 2


class OffsetOutOfRange(TakhinError):
    """``next_offset`` is the next one that can be read; None if there is none."""

    code = "out_of_range"
    http_status = 404

    def __init__(self, message: str, *, next_offset: int | None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.next_offset = next_offset


class OffsetInHole(OffsetOutOfRange):
    """``missing_from`` is the first offset that is missing; None where one is there, but not what became of it."""

    code = "hole"

    def __init__(self, message: str, *, missing_from: int | None, next_offset: int, hint: str = "") -> None:
        super().__init__(message, next_offset=next_offset, hint=hint)
        self.missing_from = missing_from


class PartitionNotFound(TakhinError):
    code = "unknown_partition"
    http_status = 404


class StoreError(TakhinError):
    code = "store"
    http_status = 503


class StoreUnavailable(StoreError):
    code = "store_unavailable"
    usual_hint = "takhin-tiered doctor tries the store and its permissions. Local files stay where they are"


class StoreFull(StoreError):
    code = "store_full"


class StoreDenied(StoreError):
    code = "store_denied"


class BucketMissing(StoreError):
    code = "bucket_missing"


class StoreChanged(StoreError):
    code = "store_changed"


class ClaimGone(StoreError):
    code = "claim_gone"


class ObjectMissing(StoreError):
    code = "object_missing"
    http_status = 500


class ObjectExists(StoreError):
    code = "object_exists"
    http_status = 409


class ObjectCorrupt(StoreError):
    code = "object_corrupt"
    http_status = 500


class Damaged(ObjectCorrupt):
    code = "damaged"
    http_status = 502


class InGlacier(StoreError):
    """``storage_class`` is the object's. ``seconds``: when it can be read, at most, by the usual times.

    ``is_requested``: it is on its way. Else nobody has asked for it, and nothing comes by itself.
    """

    code = "in_glacier"
    http_status = 409

    def __init__(
        self,
        message: str,
        *,
        segment: str = "",
        key: str = "",
        hint: str = "",
        storage_class: str = "",
        seconds: float = 0.0,
        is_requested: bool = False,
    ) -> None:
        super().__init__(message, segment=segment, key=key, hint=hint)
        self.storage_class, self.seconds, self.is_requested = storage_class, seconds, is_requested


class NoKey(StoreError):
    code = "no_key"
    http_status = 502


class WrongKey(StoreError):
    code = "wrong_key"
    http_status = 502


class DiskError(TakhinError):
    code = "disk"


class DiskFull(DiskError):
    code = "disk_full"
    http_status = 507


class TableError(TakhinError):
    """``table`` is the name of the table."""

    code = "table"
    http_status = 503

    def __init__(self, message: str, *, table: str = "", key: str = "", hint: str = "") -> None:
        super().__init__(message, key=key, hint=hint)
        self.table = table


class TableUnavailable(TableError):
    code = "table_unavailable"
    usual_hint = "Check storage.tiered.fleet.endpoint and .region, and that DynamoDB can be reached from here"


class TableThrottled(TableUnavailable):
    code = "table_throttled"
    usual_hint = "Try again later, or raise the table's capacity"


class TableDenied(TableError):
    code = "table_denied"


class TableMissing(TableError):
    code = "table_missing"


class TableRejected(TableError):
    code = "table_rejected"
    http_status = 400


class BrokerError(TakhinError):
    code = "broker"
    http_status = 503


class BrokerUnavailable(BrokerError):
    code = "broker_unavailable"


class BrokerDenied(BrokerError):
    code = "broker_denied"


class TrimRefused(BrokerError):
    code = "trim_refused"
    http_status = 409


class CatalogError(TakhinError):
    code = "catalog"
