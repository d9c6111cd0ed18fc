"""Policy: hot, warm or cold, and the topics that it covers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from takhin_tiered.segments.model import Archive, FileStat, LocalFiles, Segment, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.policy import Policy, classify

NOW = 1_700_000_000.0
POLICY = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=1000)
ID = SegmentId("orders", 0, 0)


def aged(seconds: float) -> Segment:
    return Segment(ID, LocalFiles(FileStat(300, round((NOW - seconds) * 1e9), 1)))


@pytest.mark.parametrize(
    ("age", "tier"),
    [
        (-1e9, Tier.HOT),
        (-1, Tier.HOT),
        (0, Tier.HOT),
        (99, Tier.HOT),
        (100, Tier.WARM),
        (999, Tier.WARM),
        (1000, Tier.COLD),
        (1e9, Tier.COLD),
    ],
)
def test_a_segment_cools_with_its_age(age: float, tier: Tier) -> None:
    assert classify(aged(age), POLICY, NOW, sure=NOW) is tier


def test_an_age_of_zero_makes_warm_at_once() -> None:
    assert classify(aged(0), replace(POLICY, warm_age=0.0), NOW, sure=NOW) is Tier.WARM


def test_the_active_segment_is_hot_at_any_age() -> None:
    assert classify(replace(aged(1e9), active=True), POLICY, NOW, sure=NOW) is Tier.HOT


def test_a_restored_segment_is_hot_until_its_lease_ends() -> None:
    restored = replace(aged(5000), lease_until=NOW + 1)
    assert classify(restored, POLICY, NOW, sure=NOW) is Tier.HOT
    assert classify(restored, POLICY, NOW + 1, sure=NOW + 1) is Tier.COLD
    # The clock jumped ahead.
    assert classify(restored, POLICY, NOW + 1e6, sure=NOW) is Tier.HOT


def test_a_lease_without_a_local_copy_warms_nothing() -> None:
    archive = Archive(1, 300, round((NOW - 5000) * 1e9), NOW)
    assert classify(Segment(ID, archive=archive, lease_until=NOW + 1), POLICY, NOW, sure=NOW) is Tier.COLD


def test_an_archived_segment_keeps_the_age_of_its_log() -> None:
    archive = Archive(1, 300, round((NOW - 500) * 1e9), NOW)
    assert classify(Segment(ID, archive=archive), POLICY, NOW, sure=NOW) is Tier.WARM


def test_a_read_does_not_count_as_a_modification() -> None:
    assert classify(replace(aged(5000), last_access=NOW), POLICY, NOW, sure=NOW) is Tier.COLD


@pytest.mark.parametrize(
    ("include", "exclude", "topic", "covered"),
    [
        (("*",), (), "orders", True),
        (("*",), ("__*",), "__consumer_offsets", False),
        (("*",), ("__*",), "_orders", True),
        (("orders",), (), "orders", True),
        (("orders",), (), "orders-1", False),
        (("orders-*", "events"), (), "events", True),
        (("orders-*",), ("orders-eu",), "orders-eu", False),
        (("orders-*",), ("orders-eu",), "orders-us", True),
        (("Orders",), (), "orders", False),
        (("orders-?",), (), "orders-1", True),
        (("orders-[12]",), (), "orders-3", False),
        ((), (), "orders", False),
    ],
)
def test_topics_are_taken_in_and_left_out_by_glob(
    include: tuple[str, ...], exclude: tuple[str, ...], topic: str, covered: bool
) -> None:
    assert replace(POLICY, include=include, exclude=exclude).covers(topic) is covered


def test_the_first_glob_to_fit_sets_the_retention() -> None:
    policy = replace(
        POLICY,
        retention_age=(("orders-eu", 5.0), ("orders-*", 7.0)),
        retention_size=(("events", 100), ("*", 900)),
    )
    assert [policy.max_age(topic) for topic in ("orders-eu", "orders-us", "events")] == [5.0, 7.0, None]
    assert [policy.max_size(topic) for topic in ("events", "orders-eu")] == [100, 900]
    assert POLICY.max_age("orders") is None
    assert POLICY.max_size("orders") is None
