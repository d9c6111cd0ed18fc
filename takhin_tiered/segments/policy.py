"""Policy: hot, warm or cold. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from takhin_tiered.segments.model import Segment, Tier


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that the configuration sets. Ages and leases are in seconds, sizes in bytes.

    ``keep_local``: the mode never deletes a local file. ``trims``: it asks the broker to drop what is archived.
    ``kafka``: the data directories are Apache Kafka's. ``broker_running``: a broker held the lock on one of them when
    it was last checked.
    """

    enabled: bool
    auto_archive: bool
    keep_local: bool
    warm_age: float
    cold_age: float
    lease: float
    cache_size: int
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    retention_age: tuple[tuple[str, float], ...] = ()
    retention_size: tuple[tuple[str, int], ...] = ()
    mode_is_set: bool = False
    trims: bool = False
    takes_compacted: bool = False
    takes_corrupt: bool = True
    before_retention: bool = True
    kafka: bool = False
    broker_running: bool = False

    @property
    def may_unlink(self) -> bool:
        """Whether local files may be unlinked: never while Kafka runs, which fails when it renames a missing file."""
        return not self.keep_local and not self.broker_running

    def max_age(self, topic: str) -> float | None:
        """Seconds after which an archived segment of this topic expires, by the first matching glob; None: never."""
        return next((age for glob, age in self.retention_age if fnmatchcase(topic, glob)), None)

    def max_size(self, topic: str) -> int | None:
        """Bytes of a partition of this topic that the archive keeps, the newest; None: all."""
        return next((size for glob, size in self.retention_size if fnmatchcase(topic, glob)), None)

    def covers(self, topic: str) -> bool:
        """Whether the configuration includes this topic."""
        return any(fnmatchcase(topic, glob) for glob in self.include) and not any(
            fnmatchcase(topic, glob) for glob in self.exclude
        )


def classify(segment: Segment, policy: Policy, now: float) -> Tier:
    """By age since the last modification. A restored segment is hot for its lease, the active one always."""
    if segment.active or (segment.restored and now < segment.lease_until):
        return Tier.HOT
    age = now - segment.mtime
    if age >= policy.cold_age:
        return Tier.COLD
    return Tier.WARM if age >= policy.warm_age else Tier.HOT
