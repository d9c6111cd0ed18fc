"""By which time something may be removed for its age: never by one that a clock's jump made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.segments.clock import LONGEST_OFF, TOLERANCE, Anchor, Judgement, Reading, judge

DAY = 86400.0
NOW = 1_800_000_000.0
ANCHOR = Anchor(NOW, 1000.0, "boot")


def later(seconds: float, *, wall: float | None = None, boot: str = "boot", **told: float | bool) -> Reading:
    """So many seconds of uptime after the anchor; the wall clock says so too, unless it is given."""
    uptime = 1000.0 + seconds if boot == "boot" else 10.0
    return Reading(NOW + (seconds if wall is None else wall), uptime, boot, **told)  # type: ignore[arg-type]  # by name


def ahead(judged: Judgement, now: Reading) -> float:
    return now.wall - judged.earliest


def believed(judged: Judgement) -> Anchor:
    assert judged.anchor is not None
    return judged.anchor


def test_a_first_look_believes_the_clock() -> None:
    assert judge(None, later(0)) == Judgement(NOW, NOW, "", ANCHOR)


def test_where_a_store_can_be_asked_nothing_is_believed_before_it_has_told() -> None:
    assert judge(None, later(0), asks_store=True) == Judgement(0.0, NOW, "", None)
    assert judge(None, later(0, store=NOW), asks_store=True).earliest == NOW


def test_time_that_passes_by_both_clocks_is_believed_and_moves_the_anchor() -> None:
    judged = judge(ANCHOR, later(30 * DAY))
    assert (judged.earliest, judged.problem, believed(judged).wall) == (NOW + 30 * DAY, "", NOW + 30 * DAY)


def test_a_jump_ahead_is_no_age_and_does_not_become_one_by_waiting() -> None:
    now = later(60, wall=400 * DAY)
    judged = judge(ANCHOR, now)
    assert ahead(judged, now) == pytest.approx(400 * DAY - 60)
    assert "jumped 400 days ahead" in judged.problem
    next_day = later(DAY, wall=401 * DAY)
    again = judge(judged.anchor, next_day)
    assert ahead(again, next_day) == pytest.approx(400 * DAY)
    assert judge(again.anchor, later(2 * DAY)).problem == ""


def test_a_jump_back_is_told_and_what_is_stamped_meanwhile_is_not_old_later() -> None:
    judged = judge(ANCHOR, later(60, wall=-400 * DAY))
    assert (judged.earliest, judged.latest, judged.anchor) == (NOW - 400 * DAY, NOW + 60, ANCHOR)
    assert "400 days back" in judged.problem
    assert judge(judged.anchor, later(120)).problem == ""


def test_over_a_restart_of_the_machine_a_week_is_believed_and_a_year_is_not() -> None:
    assert judge(ANCHOR, later(0, wall=LONGEST_OFF - 1, boot="next")).problem == ""
    now = later(0, wall=400 * DAY, boot="next")
    judged = judge(ANCHOR, now)
    assert ahead(judged, now) == pytest.approx(400 * DAY - LONGEST_OFF)
    assert "restart" in judged.problem
    assert "back" in judge(ANCHOR, later(0, wall=-DAY, boot="next")).problem


def test_a_store_with_a_clock_of_its_own_settles_it() -> None:
    now = later(60, wall=400 * DAY, store=NOW + 400 * DAY, store_is_independent=True)
    assert judge(ANCHOR, now).problem == ""
    # One that may be on our own clock confirms nothing.
    now = later(60, wall=400 * DAY, store=NOW + 400 * DAY)
    assert ahead(judge(ANCHOR, now), now) > 399 * DAY


@pytest.mark.parametrize("independent", [True, False])
def test_a_store_that_says_otherwise_is_believed_if_it_is_earlier_and_not_forgotten(independent: bool) -> None:
    now = later(0, wall=400 * DAY, store=NOW, store_is_independent=independent)
    for before in (None, Anchor(NOW + 400 * DAY, 1000.0, "boot")):
        judged = judge(before, now)
        assert ahead(judged, now) == pytest.approx(400 * DAY)
        assert "ahead of the store's" in judged.problem
        unasked = later(60, wall=400 * DAY + 60)
        assert ahead(judge(judged.anchor, unasked), unasked) == pytest.approx(400 * DAY)
    now = later(60, store=NOW + 400 * DAY, store_is_independent=independent)
    behind = judge(ANCHOR, now)
    assert (ahead(behind, now), behind.latest) == (0.0, NOW + 400 * DAY)
    assert "behind the store's" in behind.problem


def test_a_person_settles_it_too_for_a_store_whose_clock_is_wrong_for_good() -> None:
    judged = judge(ANCHOR, later(60, wall=400 * DAY), confirmed=True)
    assert (judged.earliest, judged.problem, believed(judged).wall) == (NOW + 400 * DAY, "", NOW + 400 * DAY)
    wrong = judge(ANCHOR, later(60, store=NOW - 2 * DAY, store_is_independent=True), confirmed=True)
    for minutes in (2, 10, 60):
        seconds = minutes * 60.0
        wrong = judge(wrong.anchor, later(seconds, store=NOW - 2 * DAY + seconds, store_is_independent=True))
        assert wrong.problem == ""


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
        # Each look may add what clocks are allowed to differ by.
        assert judged.earliest <= NOW + passed + count * TOLERANCE + 1
        assert judged.latest >= judged.earliest
        anchor = believed(judged)


@pytest.mark.parametrize("text", [None, "", "null", "[]", "{}", '{"wall": "x", "uptime": 1, "boot": "b"}'])
def test_what_is_no_anchor_is_none(text: str | None) -> None:
    assert Anchor.parse(text) is None
    assert Anchor.parse(ANCHOR.dump()) == ANCHOR
