"""Decaying rates, the tracker's bounds, what is promoted, and how often a segment moves."""

from __future__ import annotations

import math
import tracemalloc
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.heat import simulate
from takhin_tiered.heat.access import describe_access
from takhin_tiered.heat.promotion import CACHE_SHARE, Budget, Candidate, choose
from takhin_tiered.heat.rates import (
    HOUR,
    RECENT_HALF_LIFE,
    STEADY_HALF_LIFE,
    HotRule,
    Reads,
    is_hot,
    pack,
    rate,
    steady_reads,
    sure_rate,
    unpack,
    with_read,
)
from takhin_tiered.heat.tracker import REST, Tracker
from takhin_tiered.segments.names import SegmentId

NOW = 1.8e9
DAY = 24 * HOUR
RULE = HotRule(10.0, 100)
NEVER = HotRule()
ID = SegmentId("orders", 0, 0)
gaps = st.lists(st.floats(0, 30 * DAY), min_size=1, max_size=60)


def segment(number: int) -> SegmentId:
    return SegmentId("orders", number % 7, number)


def read(times: int, rule: HotRule = RULE, now: float = NOW, *, every: float = 0.0) -> Reads:
    reads = Reads()
    for number in range(times):
        reads = with_read(reads, now + number * every, 10, rule)
    return reads


@settings(max_examples=30)
@given(gaps)
def test_a_sum_is_that_of_each_read_decayed_by_itself(between: list[float]) -> None:
    reads, now, times = Reads(), NOW, list[float]()
    for gap in between:
        now += gap
        times.append(now)
        reads = with_read(reads, now, 7, NEVER)
    later = now + 3 * HOUR
    steady = math.fsum(2 ** (-(later - at) / STEADY_HALF_LIFE) for at in times)
    recent = math.fsum(2 ** (-(now - at) / RECENT_HALF_LIFE) for at in times)
    assert steady_reads(reads, later) == pytest.approx(steady, rel=1e-6)
    assert reads.recent == pytest.approx(recent, rel=1e-6)
    assert (reads.total, reads.size, reads.first, reads.last) == (len(times), 7 * len(times), times[0], times[-1])


@settings(max_examples=30)
@given(gaps, st.floats(0, 400 * DAY), st.floats(0, 400 * DAY))
def test_without_reads_a_rate_only_falls(between: list[float], one: float, other: float) -> None:
    reads, now = Reads(), NOW
    for gap in between:
        now += gap
        reads = with_read(reads, now, 0, NEVER)
    sooner, later = sorted((one, other))
    assert rate(reads, now + sooner) >= rate(reads, now + later) >= 0
    assert rate(reads, now + sooner) >= sure_rate(reads, now + sooner) >= 0
    assert rate(reads, now + sooner + RECENT_HALF_LIFE) <= rate(reads, now + sooner)
    assert rate(reads, now + 400 * DAY) < 1e-9


@pytest.mark.parametrize("hourly", [0.5, 10, 3600])
def test_a_steady_rate_is_told_as_it_is(hourly: float) -> None:
    every = HOUR / hourly
    reads = read(int(min(40 * DAY / every, 20_000)), NEVER, every=every)
    # Of one read in two hours, the last one is by chance as recent as that.
    found = rate(reads, reads.last) if hourly > 1 else sure_rate(reads, reads.last)
    assert found == pytest.approx(hourly, rel=0.05)


def test_a_burst_makes_hot_and_is_forgotten_within_hours() -> None:
    assert not is_hot(read(14), RULE, NOW)
    burst = read(15)
    assert is_hot(burst, RULE, NOW)
    # Between half the threshold and the threshold it stays what it is.
    assert rate(burst, NOW + HOUR) < 10
    assert is_hot(burst, RULE, NOW + HOUR)
    assert not is_hot(burst, RULE, NOW + 2 * HOUR)
    warm_again = with_read(burst, NOW + 2 * HOUR, 0, RULE)
    assert not is_hot(warm_again, RULE, warm_again.last)


def test_many_reads_make_hot_and_pin_nothing() -> None:
    by_count = HotRule(0.0, 100)
    assert not is_hot(read(99, by_count), by_count, NOW)
    often = read(100, by_count, every=60.0)
    assert is_hot(often, by_count, often.last)
    assert is_hot(often, by_count, often.last + 6.9 * DAY)
    assert not is_hot(often, by_count, often.last + 7.2 * DAY)
    ever = read(5_000, by_count)
    assert not is_hot(ever, by_count, NOW + 50 * DAY)
    assert ever.total == 5_000


def test_zero_turns_a_rule_off() -> None:
    assert not is_hot(read(1000, NEVER), NEVER, NOW)
    assert is_hot(read(1000, HotRule(0.0, 5)), HotRule(0.0, 5), NOW)


@settings(max_examples=30)
@given(st.floats(-400 * DAY, 0))
def test_a_clock_that_is_set_back_makes_nothing_hotter(back: float) -> None:
    reads = read(5)
    assert rate(reads, NOW + back) == rate(reads, NOW)
    tracker = Tracker(RULE)
    tracker.note(ID, NOW)
    tracker.note_demotions([ID], NOW)
    tracker.settle(NOW + back, lambda _: True)
    found = tracker.get(ID)
    assert found is not None
    assert max(found.first, found.last, found.demoted) <= NOW + back
    assert tracker.is_rested(ID, NOW + back + REST)


def test_a_row_survives_its_packing() -> None:
    reads = read(20, every=100.0)._replace(demoted=NOW - 5)
    assert unpack(pack(reads)) == reads


def test_what_is_told_of_a_segment() -> None:
    found = describe_access("orders-0/00000000000000000000.log", read(30, every=360.0), NOW + 30 * 360)
    assert (found.access_count, found.read_bytes, found.average_read_hz) == (30, 300, 10.0)
    assert found.first_access_at == "2027-01-15T08:00:00+00:00"
    assert 5 < found.rate_per_hour < 10


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, HOUR)), max_size=200), st.integers(1, 20))
def test_a_tracker_is_bounded_and_saved_as_it_is(noted: list[tuple[int, float]], most: int) -> None:
    tracker, now, saved = Tracker(RULE, most), NOW, dict[SegmentId, bytes]()
    for number, gap in noted:
        now += gap
        tracker.note(segment(number), now)
        assert len(tracker) <= most
        if number % 5 == 0:
            changes = tracker.take_changes()
            if number % 10 == 0:
                tracker.give_back(changes)
                continue
            saved = {i: row for i, row in {**saved, **changes}.items() if row is not None}
    saved = {i: row for i, row in {**saved, **tracker.take_changes()}.items() if row is not None}
    again = Tracker(RULE, most)
    again.load(saved.items())
    assert len(again) == len(tracker)
    assert all(again.get(segment(number)) == tracker.get(segment(number)) for number in range(61))
    assert sorted(again.hot(now)) == sorted(tracker.hot(now))


def test_the_coldest_are_forgotten_first() -> None:
    tracker = Tracker(RULE, 100)
    for number in range(100):
        for _ in range(2 + (number % 10 == 0) * 5):
            tracker.note(segment(number), NOW)
    for number in range(100, 500):
        tracker.note(segment(number), NOW + number)
    assert len(tracker) <= 100
    assert all(tracker.get(segment(number)) is not None for number in range(0, 100, 10))
    assert tracker.get(segment(499)) is not None


def test_memory_is_bounded() -> None:
    tracker = Tracker(RULE, 400)
    tracemalloc.start()
    try:
        for number in range(2_000):
            tracker.note(segment(number), NOW + number)
        tracker.take_changes()
        assert tracemalloc.get_traced_memory()[0] < 400 * 600
    finally:
        tracemalloc.stop()


def test_what_was_never_saved_need_not_be_removed() -> None:
    tracker = Tracker(RULE, 10)
    for number in range(1_000):
        tracker.note(segment(number), NOW + number)
    assert len(tracker.take_changes()) <= 10


def test_segments_that_are_gone_are_forgotten() -> None:
    tracker = Tracker(RULE)
    for number in range(4):
        tracker.note(segment(number), NOW)
    tracker.take_changes()
    tracker.settle(NOW, lambda identity: identity != segment(2))
    assert tracker.take_changes() == {segment(2): None}
    assert len(tracker) == 3
    tracker.note_demotions([segment(5)], NOW)
    tracker.settle(NOW + REST - 1, lambda _: True)
    assert tracker.get(segment(5)) is not None
    tracker.settle(NOW + REST, lambda _: True)
    assert tracker.get(segment(5)) is None


def test_rows_of_another_form_are_left_out() -> None:
    tracker = Tracker(RULE)
    tracker.load([(ID, b"short"), (segment(1), pack(read(1)))])
    assert (tracker.get(ID), len(tracker)) == (None, 1)


def test_what_is_hot_cools_down_as_slowly_over_a_restart() -> None:
    tracker = Tracker(RULE)
    for _ in range(20):
        tracker.note(ID, NOW)
    later = NOW + HOUR
    assert tracker.is_hot(ID, later)
    again = Tracker(RULE)
    again.load([(ID, row) for row in tracker.take_changes().values() if row is not None])
    assert again.hot(later) == [ID]
    # By another rule that came with the restart, too.
    lower, higher = Tracker(HotRule(1.0, 0)), Tracker(HotRule(1000.0, 0))
    row = pack(read(2, NEVER))
    lower.load([(ID, row)])
    higher.load([(ID, row)])
    assert (lower.hot(NOW), higher.hot(NOW)) == ([ID], [])


def test_a_new_rule_counts_at_once() -> None:
    tracker = Tracker(RULE)
    for _ in range(15):
        tracker.note(ID, NOW)
    assert tracker.hot(NOW) == [ID]
    tracker.set_rule(HotRule(1000.0, 1000), NOW)
    assert tracker.hot(NOW) == []
    tracker.set_rule(RULE, NOW)
    assert tracker.at(NOW).is_hot(ID)
    assert tracker.at(NOW).reason(ID) == "hot: read 10.4 times an hour, 15 times in the last weeks"


def test_what_was_forgotten_may_have_left_the_disk() -> None:
    """Nothing comes back within a day of its demotion, also where the tracker has forgotten that."""
    tracker = Tracker(RULE, 10)
    tracker.note_demotions([segment(0)], NOW)
    for number in range(1, 50):
        tracker.note(segment(number), NOW + 1)
    assert tracker.get(segment(0)) is None
    tracker.note(segment(0), NOW + 10)
    assert not tracker.is_rested(segment(0), NOW + REST - 1)
    assert tracker.is_rested(segment(0), NOW + REST)


def test_the_hottest_come_first_and_clearly_colder_ones_leave() -> None:
    copies = [Candidate(segment(n), 100, rate=float(n)) for n in range(9)]
    wanted = [Candidate(segment(20), 100, 13.0), Candidate(segment(21), 100, 1.0), Candidate(segment(22), 100, 50.0)]
    found = choose(wanted, copies, 1000, Budget(1e9), NOW)
    assert [(each.id, each.instead_of) for each in found.promotions] == [
        (segment(22), (segment(0),)),
        (segment(20), (segment(1),)),
    ]
    assert (found.waiting, bool(found.reason)) == (1, True)
    leased = [Candidate(copy.id, copy.size, copy.rate, stays=True) for copy in copies]
    assert choose(wanted, leased, 1000, Budget(1e9), NOW).promotions == ()


candidates = st.lists(st.tuples(st.integers(1, 400), st.floats(0, 100)), max_size=25)


@settings(max_examples=30)
@given(candidates, st.lists(st.tuples(st.integers(1, 400), st.floats(0, 100), st.booleans()), max_size=25),
       st.integers(0, 3000), st.integers(0, 1000))  # fmt: skip
def test_a_choice_keeps_to_cache_and_budget(
    archived: list[tuple[int, float]], restored: list[tuple[int, float, bool]], cache: int, hourly: int
) -> None:
    wanted = [Candidate(segment(n), size, hot) for n, (size, hot) in enumerate(archived)]
    copies = [Candidate(segment(100 + n), size, hot, stays=stays) for n, (size, hot, stays) in enumerate(restored)]
    found = choose(wanted, copies, cache, Budget(float(hourly)), NOW)
    came = [next(each for each in wanted if each.id == p.id) for p in found.promotions]
    left = [next(copy for copy in copies if copy.id == i) for p in found.promotions for i in p.instead_of]
    assert len({copy.id for copy in left}) == len(left)
    assert not any(copy.stays for copy in left)
    assert [each.rate for each in came] == sorted((each.rate for each in wanted), reverse=True)[: len(came)]
    assert len(came) + found.waiting == len(wanted)
    if came:
        used = sum(copy.size for copy in copies) + sum(c.size for c in came) - sum(copy.size for copy in left)
        assert used <= cache * CACHE_SHARE
        assert sum(each.size for each in came) <= hourly or len(came) == 1
    if not hourly:
        assert came == []


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 2 * HOUR)), max_size=60))
def test_a_budget_holds_in_every_hour_and_over_restarts(asked: list[tuple[int, float]]) -> None:
    budget, now, spent = Budget(1000.0), NOW, list[tuple[float, int]]()
    for size, gap in asked:
        now += gap
        if budget.allows(size, now):
            budget.spend(size, now)
            spent.append((now, size))
        budget = Budget.from_text(1000.0, budget.to_text())
    for at, _ in spent:
        within = [size for other, size in spent if at - HOUR < other <= at]
        assert sum(within) <= 1000 or len(within) == 1
    if spent:
        # A large one takes the hours after it: over all hours it is the budget, but for the last one.
        assert sum(size for _, size in spent[:-1]) <= 1000 * ((spent[-1][0] - NOW) / HOUR + 1)


def test_no_budget_is_no_promotion() -> None:
    assert not Budget(0.0).allows(1, NOW)
    budget = Budget(1000.0, [(NOW + 400 * DAY, 1000)])
    assert not budget.allows(1, NOW)
    assert budget.allows(1, NOW + HOUR)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.floats(60, 8 * HOUR)), max_size=80), st.booleans())
def test_no_segment_moves_more_than_twice_a_day(steps: list[tuple[int, int, float]], restarts: bool) -> None:
    """Whatever is read when, and wherever it ends: promoted and demoted, as the daemon does it."""
    tracker, now, local = Tracker(RULE, 4), NOW, set[SegmentId]()
    moves: dict[SegmentId, list[float]] = defaultdict(list)
    for number, times, gap in steps:
        now += gap
        for _ in range(times):
            tracker.note(segment(number), now)
        for identity in [identity for identity in local if not tracker.is_hot(identity, now)]:
            local.discard(identity)
            tracker.note_demotions([identity], now)
            moves[identity].append(now)
        for identity in tracker.hot(now):
            if identity not in local and len(local) < 2 and tracker.is_rested(identity, now):
                local.add(identity)
                moves[identity].append(now)
        if restarts:
            forgotten = tracker.forgotten_demotion
            again = Tracker(RULE, 4)
            again.load(
                (identity, pack(reads)) for identity in map(segment, range(6)) if (reads := tracker.get(identity))
            )
            again.forgotten_demotion = forgotten
            assert len(again) == len(tracker)
            tracker = again
    for times_of in moves.values():
        assert all(sum(at - DAY < other <= at for other in times_of) <= 2 for at in times_of)


@pytest.mark.long
def test_heat_serves_more_reads_than_age() -> None:
    """A few days of what `benchmarks/heat.py` simulates for a month; it raises where a segment moves too often."""
    found = simulate(1.1, days=3, reads=500_000)
    assert found.heat > 0.6 > 0.3 > found.age
    assert found.most_moves <= 2
    assert found.promotions > 300
