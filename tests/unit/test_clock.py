"""By which time something may be removed for its age: never by one that a clock's jump made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.segments.clock import LONGEST_OFF, TOLERANCE, Anchor, Reading, judge

DAY = 86400.0
NOW = 1_800_000_000.0
ANCHOR = Anchor(NOW, 1000.0, "boot")


def later(seconds: float, *, wall: float | None = None, boot: str = "boot", **told: float | bool) -> Reading:
    """So many seconds of uptime after the anchor; the wall clock says so too, unless it is given."""
    uptime = 1000.0 + seconds if boot == "boot" else 10.0
    return Reading(NOW + (seconds if wall is None else wall), uptime, boot, **told)  # type: ignore[arg-type]  # by name


def test_a_first_look_believes_the_clock() -> None:
    judged = judge(None, later(0))
    assert (judged.ahead, judged.problem, judged.anchor) == (0.0, "", ANCHOR)


def test_time_that_passes_by_both_clocks_is_believed_and_moves_the_anchor() -> None:
    judged = judge(ANCHOR, later(30 * DAY))
    assert (judged.ahead, judged.problem, judged.anchor.wall) == (0.0, "", NOW + 30 * DAY)


def test_a_jump_ahead_is_no_age_and_does_not_become_one_by_waiting() -> None:
    judged = judge(ANCHOR, later(60, wall=400 * DAY))
    assert judged.ahead == pytest.approx(400 * DAY - 60)
    assert "jumped 400 days ahead" in judged.problem
    again = judge(judged.anchor, later(DAY, wall=401 * DAY))
    assert again.ahead == pytest.approx(400 * DAY)
    assert judge(again.anchor, later(2 * DAY)).problem == ""


def test_a_jump_back_is_told_and_nothing_is_made_older_by_its_return() -> None:
    judged = judge(ANCHOR, later(60, wall=-400 * DAY))
    assert (judged.ahead, judged.anchor) == (0.0, ANCHOR)
    assert "400 days back" in judged.problem
    assert judge(judged.anchor, later(120)).problem == ""


def test_over_a_restart_of_the_machine_a_week_is_believed_and_a_year_is_not() -> None:
    assert judge(ANCHOR, later(0, wall=LONGEST_OFF - 1, boot="next")).problem == ""
    judged = judge(ANCHOR, later(0, wall=400 * DAY, boot="next"))
    assert judged.ahead == pytest.approx(400 * DAY - LONGEST_OFF)
    assert "restart" in judged.problem
    assert "back" in judge(ANCHOR, later(0, wall=-DAY, boot="next")).problem


def test_a_store_with_a_clock_of_its_own_settles_it() -> None:
    assert judge(ANCHOR, later(60, wall=400 * DAY, store=NOW + 400 * DAY, store_is_independent=True)).problem == ""
    # One that may be on our own clock confirms nothing.
    assert judge(ANCHOR, later(60, wall=400 * DAY, store=NOW + 400 * DAY)).ahead > 399 * DAY


@pytest.mark.parametrize("independent", [True, False])
def test_a_store_that_says_otherwise_is_believed_if_it_is_earlier(independent: bool) -> None:
    judged = judge(None, later(0, wall=400 * DAY, store=NOW, store_is_independent=independent))
    assert judged.ahead == pytest.approx(400 * DAY)
    assert "ahead of the store's" in judged.problem
    behind = judge(ANCHOR, later(60, store=NOW + 400 * DAY, store_is_independent=independent))
    assert behind.ahead == 0.0
    assert "behind the store's" in behind.problem


def test_a_person_settles_it_too() -> None:
    judged = judge(ANCHOR, later(60, wall=400 * DAY), confirmed=True)
    assert (judged.ahead, judged.problem, judged.anchor.wall) == (0.0, "", NOW + 400 * DAY)


@given(
    st.lists(st.tuples(st.floats(0, 30 * DAY), st.floats(-900 * DAY, 900 * DAY)), min_size=1, max_size=20),
)
def test_without_a_store_or_a_person_no_series_of_jumps_makes_more_age_than_passed(
    steps: list[tuple[float, float]],
) -> None:
    anchor, passed = ANCHOR, 0.0
    for count, (seconds, error) in enumerate(steps, 1):
        passed += seconds
        judged = judge(anchor, later(passed, wall=passed + error))
        sure = NOW + passed + error - judged.ahead
        # Each look may add what clocks are allowed to differ by.
        assert sure <= NOW + passed + count * TOLERANCE + 1
        anchor = judged.anchor


@pytest.mark.parametrize("text", [None, "", "null", "[]", "{}", '{"wall": "x", "uptime": 1, "boot": "b"}'])
def test_what_is_no_anchor_is_none(text: str | None) -> None:
    assert Anchor.parse(text) is None
    assert Anchor.parse(ANCHOR.dump()) == ANCHOR
