"""Archive classes: how long a retrieval takes, how often it is looked at, and what of it outlives the process."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from takhin_tiered.errors import InvalidSegmentPath
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.retrieval import Retrieval, days_needed, longest_retrieval, pause_before_look, span_of

HOUR = 3600.0


@pytest.mark.parametrize(
    ("storage_class", "tier", "hours"),
    [
        ("GLACIER", "Expedited", 1 / 12),
        ("GLACIER", "Standard", 5),
        ("GLACIER", "Bulk", 12),
        ("DEEP_ARCHIVE", "Standard", 12),
        ("DEEP_ARCHIVE", "Bulk", 48),
        # There is no such thing: it is retrieved in the standard way.
        ("DEEP_ARCHIVE", "Expedited", 12),
        ("", "Standard", 5),
        ("INTELLIGENT_TIERING", "Bulk", 5),
    ],
)
def test_how_long_it_takes(storage_class: str, tier: str, hours: float) -> None:
    assert longest_retrieval(storage_class, tier) == hours * HOUR


@pytest.mark.parametrize(
    ("days", "classes", "tier", "before_others", "needed"),
    [
        # From 3 to 5 hours, and 12 to restore it: 14 hours.
        (1, ["GLACIER"], "Standard", False, 1),
        # From 12 to 48 hours, and 12 more: 48.
        (1, ["DEEP_ARCHIVE"], "Bulk", False, 2),
        (3, ["DEEP_ARCHIVE"], "Bulk", False, 3),
        # The first after 5 hours, the last after 48, and 12 more: 55.
        (1, ["GLACIER", "DEEP_ARCHIVE"], "Bulk", False, 3),
        # A minute and 12 hours, and 12 more: one minute too few for a day.
        (1, ["GLACIER", "DEEP_ARCHIVE"], "Expedited", False, 1),
        # A manifest has to last until what it names has come: 48 hours later, and 12 more.
        (1, ["GLACIER"], "Bulk", True, 3),
        (1, ["DEEP_ARCHIVE"], "Standard", True, 1),
    ],
)
def test_copies_last_until_the_last_of_them_has_come(
    days: int, classes: list[str], tier: str, before_others: bool, needed: int
) -> None:
    assert days_needed(days, classes, tier, before_others=before_others) == needed


def test_it_is_looked_at_often_at_first_and_never_too_seldom() -> None:
    retrieval = Retrieval(SegmentId("orders", 0, 7), "GLACIER", 1000.0, 1000.0 + 5 * HOUR)
    now, looks = 1000.0, 0
    while now < retrieval.expected_at:
        pause = pause_before_look(retrieval, now)
        assert 0.5 <= pause <= 300
        now, looks = now + pause, looks + 1
    assert looks < 150
    assert pause_before_look(retrieval, 900.0) == 0.5


def test_what_is_waited_for_comes_back_as_it_was() -> None:
    retrieval = Retrieval(SegmentId("a", 1, 2, "~1"), "GLACIER", 1.5, 2.5, 60.0, "~1", "somebody", "id")
    for each in (retrieval, replace(retrieval, over_budget=True, sent=True, only_manifest=True)):
        assert Retrieval.from_json(json.loads(json.dumps(each.to_json()))) == each
    # As earlier versions wrote it.
    earlier = {k: v for k, v in retrieval.to_json().items() if k not in {"over_budget", "sent", "only_manifest"}}
    assert Retrieval.from_json(earlier) == retrieval
    with pytest.raises(InvalidSegmentPath):
        Retrieval.from_json({"path": "a-0/x"})
    with pytest.raises(LookupError):
        Retrieval.from_json({})


def test_times_for_people() -> None:
    assert [span_of(seconds) for seconds in (0.2, 90, 300, 5 * HOUR)] == ["1 s", "90 s", "5 min", "5 h"]
