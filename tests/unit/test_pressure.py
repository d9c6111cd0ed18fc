"""Disk pressure: which segments leave before their age, the coldest first, and no more than it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.segments.model import Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.plan import Step, Verb, explain, make_plan
from takhin_tiered.segments.policy import Policy, TopicRules
from takhin_tiered.segments.pressure import Room, relieve
from takhin_tiered.segments.windows import Window, Windows

NOW = 1_700_000_000.0
MOVE = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=10_000)
TRIM = replace(MOVE, keep_local=True, trims=True, kafka=True, broker_running=True)
WHY = "1 % is free"


def segment(offset: int, topic: str = "orders", *, age: float, size: int = 100, copied: bool = False) -> Segment:
    modified = round((NOW - age) * 1e9)
    files = LocalFiles(FileStat(size, modified, 1))
    archive = Archive(1, size, modified, NOW, proven=files, last_offset=offset + 9) if copied else None
    return Segment(SegmentId(topic, 0, offset), files, archive=archive)


def pressed(
    segments: Sequence[Segment],
    missing: int,
    policy: Policy = MOVE,
    *,
    outlook: Outlook = Outlook(),  # noqa: B008 - it is frozen
    log_starts: Mapping[Partition, int] | None = None,
    led: bool = True,
    devices: Mapping[str, int] | None = None,
) -> tuple[list[tuple[str, int]], dict[int, int]]:
    """What leaves early, as topic and offset, and what is missing all the same."""

    def decide(each: Segment) -> Step:
        return explain(each, policy, NOW, crowded=set(), outlook=outlook, is_current=True)

    found, left = relieve(
        sorted(segments, key=lambda each: each.id),
        decide,
        policy,
        dict.fromkeys((devices or {"": 1}).values(), missing),
        sure=NOW,
        device_of=lambda partition: (devices or {}).get(partition[0], 1),
        is_led=lambda _: led,
        log_start=lambda partition: (log_starts or {}).get(partition, 0),
    )
    return sorted((identity.topic, identity.base_offset) for identity in found), left


def test_the_coldest_leave_first_and_no_more_than_it_takes() -> None:
    some = [segment(0, "a", age=50), segment(0, "b", age=500), segment(10, "b", age=300), segment(0, "c", age=70)]
    assert pressed(some, 1) == ([("b", 0)], {})
    assert pressed(some, 100) == ([("b", 0)], {})
    assert pressed(some, 101) == ([("b", 0), ("b", 10)], {})
    assert pressed(some, 300) == ([("b", 0), ("b", 10), ("c", 0)], {})
    assert pressed(some, 1000) == ([("a", 0), ("b", 0), ("b", 10), ("c", 0)], {1: 600})
    assert pressed(some, 0) == ([], {})


def test_what_leaves_by_its_age_counts_first() -> None:
    some = [segment(0, age=5000), segment(10, age=500), segment(20, age=400)]
    assert pressed(some, 100) == ([], {})
    assert pressed(some, 150) == ([("orders", 10)], {})
    evicted = [segment(0, age=5000, copied=True), segment(10, age=500)]
    assert pressed(evicted, 100) == ([], {})


def test_what_must_stay_stays_whatever_the_pressure() -> None:
    some = [
        replace(segment(0, "active", age=500), active=True),
        replace(segment(0, "changing", age=500), settled=False),
        replace(segment(0, "leased", age=500, copied=True), lease_until=NOW + 10),
        replace(segment(0, "rewritten", age=500), lease_until=NOW + 10),
        replace(segment(0, "bad", age=500, copied=True), quarantine="damaged"),
        segment(0, "out", age=500),
        replace(segment(0, "gone", age=500, copied=True), local=LocalFiles()),
    ]
    assert pressed(some, 1000, replace(MOVE, exclude=("out",))) == ([], {1: 1000})
    assert pressed([segment(0, age=500)], 100, replace(MOVE, auto_archive=False)) == ([], {1: 100})
    # What is archived already only has to be unlinked: that is not archiving.
    assert pressed([segment(0, age=500, copied=True)], 100, replace(MOVE, auto_archive=False))[0] == [("orders", 0)]


@pytest.mark.parametrize("policy", [replace(MOVE, keep_local=True), replace(MOVE, broker_running=True)])
def test_where_nothing_is_freed_nothing_leaves_early(policy: Policy) -> None:
    assert pressed([segment(0, age=500)], 100, policy) == ([], {1: 100})


def test_each_disk_has_its_own_reserve() -> None:
    some = [segment(0, "a", age=500), segment(0, "b", age=900), segment(10, "b", age=50), segment(0, "c", age=60)]
    assert pressed(some, 100, devices={"a": 1, "b": 2, "c": 2})[0] == [("a", 0), ("b", 0)]
    assert pressed(some, 100, devices={"a": 1, "b": 1, "c": 1})[0] == [("b", 0)]


def test_outside_the_windows_only_what_it_takes_leaves() -> None:
    shut = Outlook(opens_at=NOW + 60)
    some = [segment(0, age=5000), segment(10, age=4000), segment(20, age=500)]
    assert pressed(some, 100, outlook=shut) == ([("orders", 0)], {})
    assert pressed(some, 250, outlook=shut) == ([("orders", 0), ("orders", 10), ("orders", 20)], {})


def test_a_log_of_kafka_goes_from_the_lowest_segment_up() -> None:
    stopped = replace(MOVE, kafka=True)
    some = [segment(0, age=50), segment(10, age=500), segment(0, "b", age=60)]
    assert pressed(some, 100, stopped)[0] == [("b", 0)]
    assert pressed(some, 300, stopped)[0] == [("b", 0), ("orders", 0), ("orders", 10)]
    # One that stays keeps those above it, and what is cold there frees nothing either.
    stays = [replace(segment(0, "b", age=900), settled=False), segment(10, "b", age=5000), segment(0, age=50)]
    assert pressed(stays, 100, stopped)[0] == [("orders", 0)]


class TestTrim:
    def test_the_broker_frees_what_is_archived_early(self) -> None:
        some = [segment(0, age=500), segment(10, age=400), segment(20, age=300)]
        assert pressed(some, 150, TRIM) == ([("orders", 0), ("orders", 10)], {})

    def test_what_it_is_to_free_later_is_not_chosen_again_nor_others_for_it(self) -> None:
        """It was archived and trimmed under pressure, and the broker has not removed the files yet."""
        some = [segment(0, age=500, copied=True), segment(10, age=400, copied=True), segment(20, age=300)]
        asked = {("orders", 0): 20}
        assert pressed(some, 150, TRIM, log_starts=asked) == ([], {})
        assert pressed(some, 250, TRIM, log_starts=asked) == ([("orders", 20)], {})
        # Half of it was asked for: what is archived goes before anything is uploaded for it.
        assert pressed(some, 150, TRIM, log_starts={("orders", 0): 10}) == ([("orders", 10)], {})

    def test_what_is_cold_and_archived_is_pending(self) -> None:
        some = [segment(0, age=5000, copied=True), segment(10, age=4000), segment(20, age=300)]
        assert pressed(some, 200, TRIM) == ([], {})
        assert pressed(some, 201, TRIM) == ([("orders", 20)], {})

    def test_only_what_this_broker_leads(self) -> None:
        assert pressed([segment(0, age=500)], 100, TRIM, led=False) == ([], {1: 100})


def test_a_topic_has_the_mode_of_its_own() -> None:
    some = [segment(0, "kept", age=900), segment(0, "orders", age=500)]
    policy = replace(MOVE, overrides=(("kept", TopicRules(mode="copy")),))
    assert pressed(some, 150, policy) == ([("orders", 0)], {1: 50})
    policy = replace(MOVE, keep_local=True, overrides=(("ord*", TopicRules(mode="move")),))
    assert pressed(some, 150, policy) == ([("orders", 0)], {1: 50})


@given(
    st.lists(st.tuples(st.floats(0, 3000), st.integers(1, 500), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4000),
)
def test_the_plan_frees_what_is_missing_or_all_it_may(parts: list[tuple[float, int, bool]], missing: int) -> None:
    some = [segment(n, f"t{n}", age=age, size=size, copied=copied) for n, (age, size, copied) in enumerate(parts)]
    found, left = pressed(some, missing)
    why = {each.id: WHY for each in some if (each.id.topic, each.id.base_offset) in found}
    plan = make_plan(some, [], MOVE, NOW, outlook=Outlook(pressed=why))
    assert plan.bytes_freed >= missing - sum(left.values())
    assert not left or plan.bytes_freed == sum(size for _, size, _ in parts)
    early = [step for step in plan.steps if step.reason_code == "disk_pressure"]
    assert {(step.id.topic, step.id.base_offset) for step in early} == set(found)
    # Without the youngest of them it would not be met, and what stays is no older.
    if found:
        last = max((each for each in some if each.id in why), key=lambda each: (each.mtime, each.id))
        assert plan.bytes_freed - last.size < missing or left
        youngest = last.mtime
        stays = [each for each, step in zip(some, plan.steps, strict=True) if step.verb is Verb.KEEP]
        assert all(each.mtime >= youngest for each in stays)


class TestPlan:
    def test_it_names_the_reason(self) -> None:
        one, other = segment(0, age=500), segment(10, age=500, copied=True)
        outlook = Outlook(pressed={one.id: WHY, other.id: WHY})
        archive, evict = make_plan([one, other], [], MOVE, NOW, outlook=outlook).steps
        assert (archive.verb, archive.reason_code, archive.frees, archive.uploads) == (
            Verb.ARCHIVE, "disk_pressure", 100, 100,
        )  # fmt: skip
        assert archive.reason == f"warm, last modified 8 min ago; early: {WHY}"
        assert (evict.verb, evict.reason_code, evict.frees, evict.uploads) == (Verb.EVICT, "disk_pressure", 100, 0)
        copy, kept = make_plan([one, other], [], TRIM, NOW, outlook=outlook).steps
        assert (copy.verb, copy.reason_code, copy.frees) == (Verb.COPY, "disk_pressure", 0)
        assert copy.reason.endswith(f"{WHY}; to be freed by the broker")
        assert (kept.verb, kept.reason_code) == (Verb.KEEP, "disk_pressure")
        assert "to be freed by the broker early" in kept.reason

    def test_outside_a_window_only_what_is_urgent_is_archived(self) -> None:
        policy = replace(MOVE, windows=Windows((Window.parse("22:00-06:00"),), "UTC"))
        some = [segment(n * 10, age=5000, copied=n == 3) for n in range(4)]
        outlook = Outlook(due={some[1].id: "soon"}, pressed={some[2].id: WHY}, opens_at=1_700_085_600.0)
        plan = make_plan(some, [], policy, NOW, outlook=outlook)
        assert [(step.verb, step.reason_code) for step in plan.steps] == [
            (Verb.KEEP, "outside_window"),
            (Verb.COPY, "before_retention"),
            (Verb.ARCHIVE, "disk_pressure"),
            (Verb.EVICT, "evict"),
        ]
        told = plan.steps[0].reason
        assert told.endswith("; outside the windows to archive in, the next one opens Wed 2023-11-15 22:00 UTC")
        assert (plan.steps[0].uploads, plan.steps[0].frees) == (0, 0)
        assert explain(some[0], policy, NOW, crowded=set(), outlook=outlook, is_current=True) == plan.steps[0]


def test_room_is_told_in_percent() -> None:
    room = Room(free=50, size=1000, paths=("/a", "/b"))
    assert (room.missing(0.1), room.missing(0.05), room.missing(0)) == (50, 0, 0)
    assert room.describe(0.1) == "5.0 % of the disk of /a, /b is free, and local.reserve.percent is 10"
