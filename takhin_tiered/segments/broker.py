"""A Kafka broker's topic settings and partition offsets, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNLIMITED = -1
"""How Kafka writes "no limit"."""


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic's configuration, with the broker's defaults for what it does not set.

    ``cleanup_policy``: any of ``delete`` and ``compact``. Times are milliseconds, sizes bytes; None is no limit.
    """

    cleanup_policy: frozenset[str]
    retention_ms: int | None
    retention_bytes: int | None
    segment_ms: int | None


@dataclass(frozen=True, slots=True)
class PartitionOffsets:
    """Log start and high watermark of a partition. ``leader`` and ``replicas`` are node IDs.

    ``high_watermark`` is the first offset that is not yet on all in-sync replicas; it may be below the log end.
    """

    log_start: int
    high_watermark: int
    leader: int
    replicas: tuple[int, ...]


TOPIC_SETTINGS = ("cleanup.policy", "retention.ms", "retention.bytes", "segment.ms")
"""The entries of a topic's configuration that `topic_settings` reads."""


def topic_settings(entries: Mapping[str, str | None]) -> TopicSettings:
    """From the entries of a topic's configuration. `ValueError` for a malformed number.

    Source: Apache Kafka, "Topic Configs".
    """
    policies = (entries.get("cleanup.policy") or "").split(",")
    return TopicSettings(
        frozenset(policy.strip() for policy in policies if policy.strip()),
        *(_limit(entries.get(name)) for name in TOPIC_SETTINGS[1:]),
    )


def _limit(text: str | None) -> int | None:
    value = UNLIMITED if text is None else int(text)
    return None if value == UNLIMITED else value
