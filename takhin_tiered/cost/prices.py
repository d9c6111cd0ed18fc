"""Prices, with the list prices of AWS as defaults. Pure.

Sources: https://aws.amazon.com/s3/pricing/ and https://aws.amazon.com/ebs/pricing/, US East (N. Virginia), US dollars,
the first tier of volume, as of November 2025. A GB is 10**9 bytes here; where a bill counts 2**30, it is 7 % lower.
Egress is data transfer out to the Internet, of the same pages; within a region it is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

GB = 10**9
STANDARD = "STANDARD"
_KIB = 1024
_NOTHING = Decimal(0)

# Dollars a GB-month. INTELLIGENT_TIERING at its frequent tier: what is read at all is there. GLACIER is
# Glacier Flexible Retrieval; both Glacier classes are taken out by standard retrieval.
STORAGE = {
    STANDARD: 0.023,
    "INTELLIGENT_TIERING": 0.023,
    "STANDARD_IA": 0.0125,
    "ONEZONE_IA": 0.01,
    "GLACIER_IR": 0.004,
    "GLACIER": 0.0036,
    "DEEP_ARCHIVE": 0.00099,
    "EXPRESS_ONEZONE": 0.11,
}
# Dollars for 1,000 of PUT, COPY, POST and LIST. A server-side copy is billed by the class that it is made in.
PUT = {
    STANDARD: 0.005,
    "INTELLIGENT_TIERING": 0.005,
    "STANDARD_IA": 0.01,
    "ONEZONE_IA": 0.01,
    "GLACIER_IR": 0.02,
    "GLACIER": 0.03,
    "DEEP_ARCHIVE": 0.05,
    "EXPRESS_ONEZONE": 0.00113,
}
# Dollars for 1,000 of GET, HEAD and all others; DELETE is free.
GET = {
    STANDARD: 0.0004,
    "INTELLIGENT_TIERING": 0.0004,
    "STANDARD_IA": 0.001,
    "ONEZONE_IA": 0.001,
    "GLACIER_IR": 0.01,
    "GLACIER": 0.0004,
    "DEEP_ARCHIVE": 0.0004,
    "EXPRESS_ONEZONE": 0.00003,
}
# Dollars for each GB that is read.
RETRIEVAL = {
    STANDARD: 0.0,
    "INTELLIGENT_TIERING": 0.0,
    "STANDARD_IA": 0.01,
    "ONEZONE_IA": 0.01,
    "GLACIER_IR": 0.03,
    "GLACIER": 0.01,
    "DEEP_ARCHIVE": 0.02,
    "EXPRESS_ONEZONE": 0.0006,
}
# Dollars for 1,000 requests that take an object out of a Glacier class (RestoreObject).
THAW = {"GLACIER": 0.05, "DEEP_ARCHIVE": 0.1}
# Days that are billed at least, also for an object that is removed or moved earlier.
MINIMUM_DAYS = {"STANDARD_IA": 30, "ONEZONE_IA": 30, "GLACIER_IR": 90, "GLACIER": 90, "DEEP_ARCHIVE": 180}
# Bytes that are billed at least, for each object.
MINIMUM_BYTES = {"STANDARD_IA": 128 * _KIB, "ONEZONE_IA": 128 * _KIB, "GLACIER_IR": 128 * _KIB}
# Bytes that each object has besides its own: at its class's price, and at STANDARD's.
_OVERHEAD = {"GLACIER": (32 * _KIB, 8 * _KIB), "DEEP_ARCHIVE": (32 * _KIB, 8 * _KIB)}
# Dollars a month for 1,000 objects of at least 128 KiB.
_MONITORING = {"INTELLIGENT_TIERING": Decimal("0.0025")}
# Dollars a GB-month: Amazon EBS gp3.
DISK = 0.08
EGRESS = 0.09


@dataclass(frozen=True, slots=True)
class ClassPrices:
    """Of one storage class, as above; requests and objects for 1,000."""

    storage: Decimal
    put: Decimal = _NOTHING
    get: Decimal = _NOTHING
    retrieval: Decimal = _NOTHING
    thaw: Decimal = _NOTHING
    minimum_days: int = 0
    minimum_bytes: int = 0
    overhead: int = 0
    overhead_standard: int = 0
    monitoring: Decimal = _NOTHING


@dataclass(frozen=True, slots=True)
class Prices:
    """``disk``: a GB-month of the data directory. ``egress``: a GB that is read, 0 within the region.

    A class without prices of its own has those of STANDARD.
    """

    disk: Decimal
    egress: Decimal
    classes: Mapping[str, ClassPrices] = field(default_factory=dict)

    def of(self, storage_class: str) -> ClassPrices:
        """An empty name is the bucket's default class."""
        return self.classes.get(storage_class or STANDARD) or self.classes[STANDARD]


def exact(number: float) -> Decimal:
    """The number as it was written: 0.023, and not the binary fraction next to it."""
    return Decimal(repr(number))


def make_prices(  # noqa: PLR0917 - in the order of the tables above
    disk: float,
    egress: float,
    storage: Mapping[str, float],
    put: Mapping[str, float],
    get: Mapping[str, float],
    retrieval: Mapping[str, float],
    thaw: Mapping[str, float],
    minimum_days: Mapping[str, float],
    minimum_bytes: Mapping[str, float],
) -> Prices:
    """Prices by storage class; a class that a table lacks costs what STANDARD costs there."""

    def of(table: Mapping[str, float], name: str) -> Decimal:
        return exact(table.get(name, table.get(STANDARD, 0.0)))

    names = {STANDARD, *storage, *put, *get, *retrieval, *thaw}
    classes = {
        name: ClassPrices(
            storage=of(storage, name),
            put=of(put, name),
            get=of(get, name),
            retrieval=of(retrieval, name),
            thaw=of(thaw, name),
            minimum_days=int(minimum_days.get(name, 0)),
            minimum_bytes=int(minimum_bytes.get(name, 0)),
            overhead=_OVERHEAD.get(name, (0, 0))[0],
            overhead_standard=_OVERHEAD.get(name, (0, 0))[1],
            monitoring=_MONITORING.get(name, _NOTHING),
        )
        for name in sorted(names)
    }
    return Prices(exact(disk), exact(egress), classes)


DEFAULT_PRICES = make_prices(DISK, 0.0, STORAGE, PUT, GET, RETRIEVAL, THAW, MINIMUM_DAYS, MINIMUM_BYTES)
"""AWS's, of a daemon in the bucket's region."""
