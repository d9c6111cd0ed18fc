"""Policy: hot, warm or cold. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from takhin_tiered.segments.model import Segment, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.retrieval import STANDARD, class_or_default
from takhin_tiered.segments.windows import Windows

Ages = tuple[float | None, float | None]
"""What a topic has of its own: seconds until warm, and until cold. None: as all have it."""
_MOST_TOPICS = 100_000


@dataclass(frozen=True, slots=True)
class TopicRules:
    """What is set for the topics of one glob, over what is set for all. None: nothing of its own.

    A retention of 0 is none: what is archived stays.
    """

    warm_age: float | None = None
    cold_age: float | None = None
    mode: str | None = None
    retention_age: float | None = None
    retention_size: int | None = None
    class_warm: str | None = None
    class_cold: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that the configuration sets. Ages and leases are in seconds, sizes in bytes.

    ``keep_local``: the mode never deletes a local file. ``trims``: it asks the broker to drop what is archived.
    ``kafka``: the data directories are Apache Kafka's. ``broker_running``: a broker held the lock on one of them when
    it was last checked. ``warm_copy``: a segment is uploaded when it becomes warm. ``class_warm`` and ``class_cold``
    are storage classes, empty for the bucket's own.
    ``overrides`` are what single topics have of their own, by glob: of those that match, the first that sets a rule
    counts. ``reserve`` is the share of each file system that is to stay free. ``hot_rate`` (reads an hour) and
    ``hot_count`` (reads) make a segment hot, 0: not; ``promoted_hourly``: bytes of such ones that come back from the
    archive in an hour.

    Use `of` for the rules of one topic.
    """

    enabled: bool
    auto_archive: bool
    keep_local: bool
    warm_age: float
    cold_age: float
    lease: float
    cache_size: int
    hot_rate: float = 0.0
    hot_count: float = 0.0
    promoted_hourly: float = 0.0
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
    warm_copy: bool = False
    class_warm: str = ""
    class_cold: str = ""
    overrides: tuple[tuple[str, TopicRules], ...] = ()
    reserve: float = 0.0
    windows: Windows = field(default_factory=Windows)
    # The glob that decided, by the name of the key.
    origins: Mapping[str, str] = field(default_factory=dict, hash=False)
    _of_topic: dict[str, Policy] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, topic: str) -> Policy:
        """The rules for one topic. Resolved once: a plan asks for a million segments."""
        if not self.overrides:
            return self
        found = self._of_topic.get(topic)
        if found is None:
            if len(self._of_topic) >= _MOST_TOPICS:
                self._of_topic.clear()
            found = self._of_topic[topic] = self._resolve(topic)
        return found

    def _resolve(self, topic: str) -> Policy:
        changes: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for glob, rules in self.overrides:
            if not fnmatchcase(topic, glob):
                continue
            for name, key in _KEYS.items():
                if (value := getattr(rules, name)) is not None and key not in origins:
                    origins[key] = glob
                    changes |= _change(name, value)
        return replace(self, overrides=(), origins=origins, **changes)

    def because(self, key: str) -> str:
        """Names the glob that set a rule for this topic, for people; empty where it is the rule for all."""
        return f" ({key} of topics.overrides, {self.origins[key]})" if key in self.origins else ""

    def ages_of(self, topic: str) -> Ages:
        """The ages that a topic has of its own."""
        own = self.of(topic)
        return (
            own.warm_age if "warm.age.hours" in own.origins else None,
            own.cold_age if "cold.age.hours" in own.origins else None,
        )

    @property
    def unlinks_somewhere(self) -> bool:
        """Whether local files of any topic may be unlinked."""
        modes = {rules.mode for _, rules in self.overrides}
        return not self.broker_running and (not self.keep_local or "move" in modes)

    @property
    def trims_somewhere(self) -> bool:
        """Whether the broker is asked to drop what is archived of any topic."""
        return self.trims or any(rules.mode == "trim" for _, rules in self.overrides)

    @property
    def may_unlink(self) -> bool:
        """Whether local files may be unlinked: never while Kafka runs, which fails when it renames a missing file."""
        return not self.keep_local and not self.broker_running

    @property
    def upload_age(self) -> float:
        """Seconds after which a segment is uploaded."""
        return self.warm_age if self.warm_copy else self.cold_age

    def class_of(self, tier: Tier) -> str:
        """The storage class in which objects of this tier are put; empty for the bucket's own."""
        return self.class_cold if tier is Tier.COLD else self.class_warm

    @property
    def names_classes(self) -> bool:
        """Whether objects of any topic are put in another class than STANDARD."""
        names = [self.class_warm, self.class_cold]
        for _, rules in self.overrides:
            names += [rules.class_warm or "", rules.class_cold or ""]
        return any(class_or_default(name) != STANDARD for name in names)

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


_KEYS = {
    "warm_age": "warm.age.hours",
    "cold_age": "cold.age.hours",
    "mode": "archive.mode",
    "retention_age": "retention.hours",
    "retention_size": "retention.bytes",
    "class_warm": "s3.class.warm",
    "class_cold": "s3.class.cold",
}


def _change(name: str, value: Any) -> dict[str, Any]:
    """Of a policy, by a rule that a topic has of its own."""
    if name == "mode":
        return {"keep_local": value != "move", "trims": value == "trim", "mode_is_set": True}
    if name.startswith("retention"):
        return {name: (("*", value),) if value else ()}
    return {name: value}


class Usage(Protocol):
    """How segments are read, at one moment."""

    def is_hot(self, identity: SegmentId) -> bool:
        """Whether it is read so much that its age does not count."""
        ...

    def rate(self, identity: SegmentId) -> float:
        """Reads an hour, for comparisons."""
        ...

    def reason(self, identity: SegmentId) -> str:
        """Why it is hot, for people."""
        ...


class _Unread:
    """Nothing is known of any reads."""

    def is_hot(self, identity: SegmentId) -> bool:  # noqa: ARG002
        return False

    def rate(self, identity: SegmentId) -> float:  # noqa: ARG002
        return 0.0

    def reason(self, identity: SegmentId) -> str:  # noqa: ARG002
        return ""


UNREAD: Usage = _Unread()


def classify(segment: Segment, policy: Policy, now: float, usage: Usage = UNREAD, *, sure: float) -> Tier:
    """By age since the last modification and its topic's rules. A restored segment is hot for its lease, one that is
    read much, too, and the active one always. ``sure`` is as in `Segment.lease_left`.
    """
    if segment.active or segment.lease_left(sure):
        return Tier.HOT
    policy, age = policy.of(segment.id.topic), now - segment.mtime
    if age < policy.warm_age or usage.is_hot(segment.id):
        return Tier.HOT
    return Tier.COLD if age >= policy.cold_age else Tier.WARM
