"""Which topics lose much of their tail when they fall idle: by their settings alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from takhin_tiered.cli.broker import broker_text, idle_text
from takhin_tiered.segments.broker import TopicSettings
from takhin_tiered.segments.outlook import idle_tails
from takhin_tiered.segments.policy import Policy
from takhin_tiered.segments.results import BrokerStatus

POLICY = Policy(True, True, True, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=1000, kafka=True)
DAY = 24 * 3600 * 1000
DELETE, COMPACT = frozenset({"delete"}), frozenset({"compact"})
DEFAULT = TopicSettings(DELETE, 7 * DAY, None, 7 * DAY)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (DEFAULT, True),
        (replace(DEFAULT, segment_ms=7 * DAY // 2), False),
        (replace(DEFAULT, segment_ms=7 * DAY // 2 + 1), True),
        (replace(DEFAULT, segment_ms=DAY), False),
        # Never rolled by time.
        (replace(DEFAULT, segment_ms=None), True),
        # Kafka keeps it for ever.
        (replace(DEFAULT, retention_ms=None), False),
        (replace(DEFAULT, retention_ms=None, segment_ms=None), False),
        (replace(DEFAULT, cleanup_policy=COMPACT), False),
    ],
)
def test_segment_ms_against_retention_ms(settings: TopicSettings, told: bool) -> None:
    assert idle_tails({"orders": settings}, POLICY) == (["orders"] if told else [])


def test_only_topics_that_are_archived() -> None:
    both = replace(DEFAULT, cleanup_policy=DELETE | COMPACT)
    topics = {"orders": DEFAULT, "private": DEFAULT, "audit": DEFAULT, "profiles": both}
    policy = replace(POLICY, exclude=("priv*",))
    assert idle_tails(topics, policy) == ["audit", "orders"]
    assert idle_tails(topics, replace(policy, takes_compacted=True)) == ["audit", "orders", "profiles"]


def test_what_is_said() -> None:
    found = BrokerStatus(
        kind="kafka",
        running=True,
        problem="",
        bootstrap="broker:9092",
        topics_known=3,
        idle_tail_topics=("orders",),
        compacted_partitions=0,
        file_problems=(),
    )
    assert "1 topic may lose its tail when idle (segment.ms)" in broker_text(found)
    assert "idle" not in broker_text(replace(found, idle_tail_topics=()))
    assert idle_text([]) == ""
    said = idle_text([f"topic-{number}" for number in range(12)])
    assert "topic-0, topic-1" in said
    assert "and 2 more" in said
    assert "topic-10" not in said
    assert "segment.ms" in said
