"""The plan: what happens to each segment, and the reason that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from takhin_tiered.cost.planning import Move, plan_cost
from takhin_tiered.cost.prices import DEFAULT_PRICES
from takhin_tiered.heat.rates import HotRule
from takhin_tiered.heat.tracker import Tracker
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.plan import Plan, Step, Verb, make_plan, over_cache_size
from takhin_tiered.segments.policy import Policy
from takhin_tiered.segments.report import describe_plan
from takhin_tiered.segments.results import to_json

NOW = 1_700_000_000.0
POLICY = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=10_000)
COPY = replace(POLICY, keep_local=True)


def files(age: float = 5000, size: int = 300) -> LocalFiles:
    modified = round((NOW - age) * 1e9)
    return LocalFiles(FileStat(size, modified, 1), FileStat(8, modified, 2), FileStat(12, modified, 3))


def cold(offset: int = 0, topic: str = "orders", *, age: float = 5000, size: int = 300) -> Segment:
    return Segment(SegmentId(topic, 0, offset), files(age, size))


def archived(offset: int = 0, topic: str = "orders", *, age: float = 5000, size: int = 300) -> Segment:
    return Segment(SegmentId(topic, 0, offset), archive=Archive(1, size, round((NOW - age) * 1e9), NOW - 60))


def copied(offset: int = 0, **how: float) -> Segment:
    """Whole in both places."""
    segment = cold(offset, age=how.get("age", 5000), size=int(how.get("size", 300)))
    log = segment.local.log
    assert log is not None
    return replace(segment, archive=Archive(1, segment.local.size, log.mtime_ns, NOW - 60, proven=segment.local))


def restored(offset: int = 0, *, lease: float = 10, read: float = 0, size: int = 300, age: float = 5000) -> Segment:
    return replace(copied(offset, size=size, age=age), lease_until=NOW + lease, last_access=NOW - read)


def plan(segments: Sequence[Segment], policy: Policy = POLICY, *, work_only: bool = False) -> Plan:
    return make_plan(segments, [segment for segment in segments if segment.restored], policy, NOW, work_only=work_only)


def decide(segment: Segment, policy: Policy = POLICY) -> Step:
    return plan([segment], policy).steps[0]


def assert_kept(segment: Segment, reason: str, policy: Policy = POLICY) -> None:
    step = decide(segment, policy)
    assert step.verb is Verb.KEEP
    assert reason in step.reason
    assert (step.uploads, step.frees, step.local) == (0, 0, NO_FILES)


def test_a_cold_segment_is_archived_with_all_its_bytes() -> None:
    step = decide(cold())
    assert step == Step(
        SegmentId("orders", 0, 0),
        Verb.ARCHIVE,
        "cold, last modified 83 min ago",
        Tier.COLD,
        uploads=320,
        frees=320,
        local=files(),
        reason_code="cold",
    )


WARM_COPY = replace(POLICY, warm_copy=True)


@pytest.mark.parametrize(
    "policy", [WARM_COPY, replace(COPY, warm_copy=True), replace(COPY, trims=True, warm_copy=True)]
)
def test_a_warm_segment_is_copied_and_stays(policy: Policy) -> None:
    step = decide(cold(age=500), policy)
    assert (step.verb, step.reason_code, step.tier) == (Verb.COPY, "warm", Tier.WARM)
    assert (step.uploads, step.frees, step.local) == (320, 0, files(500))
    assert "warm, last modified 8 min ago" in step.reason
    assert_kept(copied(age=500), "its files stay until it is cold", policy)
    assert decide(cold(age=50), policy).reason_code == "hot"


def test_a_warm_copy_leaves_the_disk_by_itself_when_it_is_cold() -> None:
    assert decide(copied(age=1000), WARM_COPY).verb is Verb.EVICT
    assert decide(copied(age=1000), WARM_COPY).uploads == 0


def test_a_warm_copy_whose_files_changed_is_copied_again() -> None:
    changed = replace(copied(age=500), local=files(400))
    step = decide(changed, WARM_COPY)
    assert (step.verb, step.reason_code, step.again) == (Verb.COPY, "warm", True)
    assert "changed after they were archived" in step.reason


def test_nothing_warm_is_copied_where_that_is_left_to_people_or_was_not_asked_for() -> None:
    assert decide(cold(age=500), replace(WARM_COPY, auto_archive=False)).reason_code == "manual"
    assert_kept(cold(age=500), "warm, last modified", POLICY)


def test_what_is_read_much_is_copied_like_others_of_its_age_and_stays() -> None:
    tracker = Tracker(HotRule(10.0, 0))
    for _ in range(40):
        tracker.note(SegmentId("orders", 0, 0), NOW)

    def step_of(segment: Segment, policy: Policy) -> Step:
        return make_plan([segment], [], policy, NOW, usage=tracker.at(NOW)).steps[0]

    for age in (500, 5000):
        step = step_of(cold(age=age), WARM_COPY)
        assert (step.verb, step.reason_code, step.tier) == (Verb.COPY, "warm", Tier.HOT)
        assert (step.uploads, step.frees, step.local) == (320, 0, files(age))
        assert step.reason.startswith("hot: read ")
        kept = step_of(copied(age=age), WARM_COPY)
        assert (kept.verb, kept.reason_code) == (Verb.KEEP, "hot")
    for segment, policy in (
        (cold(age=50), WARM_COPY),
        (cold(), POLICY),
        (cold(), replace(WARM_COPY, auto_archive=False)),
    ):
        assert step_of(segment, policy).verb is Verb.KEEP
    changed = step_of(replace(copied(age=500), local=files(400)), WARM_COPY)
    assert (changed.verb, changed.again) == (Verb.COPY, True)


def test_mode_copy_uploads_and_frees_nothing() -> None:
    step = decide(cold(), COPY)
    assert (step.verb, step.uploads, step.frees, step.local) == (Verb.COPY, 320, 0, files())


def test_the_active_segment_is_kept_however_old() -> None:
    assert_kept(replace(cold(), active=True), "active segment")
    assert_kept(replace(copied(), active=True), "active segment")
    assert_kept(replace(restored(lease=-10), active=True), "active segment", replace(POLICY, cache_size=0))


def test_a_segment_that_changed_since_the_last_scan_is_kept() -> None:
    assert_kept(replace(cold(), settled=False), "changed since the last scan")
    assert_kept(replace(copied(), settled=False), "changed since the last scan")


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (5, "hot, last modified 5 s ago"),
        (500, "warm, last modified 8 min ago"),
        (-5000, "hot, last modified 0 s (in the future) ago"),
    ],
)
def test_what_is_not_cold_is_kept(age: float, reason: str) -> None:
    assert_kept(cold(age=age), reason)
    assert_kept(replace(cold(age=age), archive=copied().archive), reason)


def test_ages_are_told_in_hours_and_days() -> None:
    assert "ago" in decide(cold(age=7200)).reason
    assert decide(cold(age=7200)).reason == "cold, last modified 2 h ago"
    assert decide(cold(age=720 * 3600)).reason == "cold, last modified 30.0 days ago"


def test_nothing_is_moved_unless_it_is_enabled() -> None:
    off = replace(POLICY, enabled=False, retention_age=(("*", 1.0),), cache_size=0)
    for segment in (cold(), copied(), restored(lease=-10), Segment(SegmentId("orders", 0, 0), files())):
        assert_kept(segment, "not enabled", off)
    assert_kept(archived(), "in the archive", off)


def test_topics_that_are_left_out_are_not_touched() -> None:
    without = replace(POLICY, exclude=("ord*",), cache_size=0)
    for segment in (cold(), copied(), restored(lease=-10)):
        assert_kept(segment, "leaves this topic out", without)
    assert_kept(cold(), "leaves this topic out", replace(POLICY, include=("events",)))


def test_without_automatic_archiving_a_cold_segment_is_kept() -> None:
    by_hand = replace(POLICY, auto_archive=False)
    assert_kept(cold(), "automatic archiving is off", by_hand)
    # What is proven to be in the archive is no upload: its lease ends all the same.
    assert decide(restored(lease=-10), by_hand).verb is Verb.EVICT


def test_what_is_in_the_archive_only_is_kept_there() -> None:
    assert_kept(archived(), "in the archive")
    assert_kept(archived(), "in the archive", COPY)


def test_a_restored_segment_stays_for_its_lease() -> None:
    assert_kept(restored(lease=3600), "restored, its lease ends in 60 min")
    assert decide(restored(lease=3600)).tier is Tier.HOT


def test_a_lease_that_ended_is_evicted_without_an_upload() -> None:
    step = decide(restored(lease=0))
    assert (step.verb, step.uploads, step.frees) == (Verb.EVICT, 0, 320)
    assert "archived, and its lease has ended" in step.reason
    assert step.local == files()


def test_a_lease_that_ended_while_it_is_not_cold_yet_is_kept() -> None:
    young = replace(restored(lease=-10), local=files(500), archive=copied(age=500).archive)
    assert_kept(young, "warm")


def test_what_the_archive_holds_already_leaves_the_disk() -> None:
    step = decide(copied())
    assert (step.verb, step.uploads, step.frees, step.reason) == (Verb.EVICT, 0, 320, "cold, already archived")


def test_mode_copy_keeps_every_local_file() -> None:
    assert_kept(copied(), "mode copy keeps local files", COPY)
    assert_kept(restored(lease=-10), "mode copy keeps local files", COPY)
    assert_kept(restored(lease=-10), "mode copy keeps local files", replace(COPY, cache_size=0))
    leftover = replace(archived(), local=LocalFiles(offset_index=FileStat(8, 1, 1)))
    assert_kept(leftover, "index files without a .log", COPY)


@pytest.mark.parametrize("changed", [files(4999), files(size=301), files()._replace(offset_index=FileStat(8, 5, 99))])
def test_a_copy_that_differs_from_what_was_proven_is_archived_not_dropped(changed: LocalFiles) -> None:
    for segment in (copied(), restored(lease=-10), restored(lease=-10, size=20_000)):
        step = decide(replace(segment, local=changed))
        assert step.verb is Verb.ARCHIVE
        assert "its files changed after they were archived" in step.reason
        assert step.uploads == changed.size
    step = decide(replace(copied(), local=changed), COPY)
    assert step.verb is Verb.COPY


def test_a_copy_that_differs_is_not_compared_by_itself_when_archiving_is_by_hand() -> None:
    assert_kept(replace(copied(), local=files(4999)), "is off", replace(POLICY, auto_archive=False))


def test_leftovers_of_an_interrupted_verb_are_taken_away() -> None:
    left = LocalFiles(offset_index=FileStat(8, 1, 1), time_index=FileStat(12, 1, 2))
    step = decide(replace(archived(), local=left))
    assert (step.verb, step.frees) == (Verb.EVICT, 20)
    assert "left over from an interrupted evict or restore" in step.reason
    # Without an archive there is nothing to prove them by.
    assert_kept(Segment(SegmentId("orders", 0, 0), left), "index files without a .log")


def test_the_cache_drops_what_was_read_longest_ago() -> None:
    # Their leases are over, and by their age they would stay.
    segments = [restored(at, lease=-10, read=read, age=200) for at, read in enumerate((30, 10, 20, 40))]
    steps = plan(segments, replace(POLICY, cache_size=640)).steps
    assert [step.verb for step in steps] == [Verb.EVICT, Verb.KEEP, Verb.KEEP, Verb.EVICT]
    assert "exceed the local cache" in steps[0].reason
    assert [step.frees for step in steps] == [320, 0, 0, 320]
    assert [step.verb for step in plan(segments, replace(POLICY, cache_size=639)).steps].count(Verb.KEEP) == 1
    assert plan(segments, replace(POLICY, cache_size=1280)).work == ()


def test_a_copy_that_does_not_fit_leaves_room_for_smaller_ones() -> None:
    segments = [
        restored(at, lease=-10, read=read, size=size, age=200)
        for at, (read, size) in enumerate([(10, 5000), (20, 300), (30, 300)])
    ]
    steps = plan(segments, replace(POLICY, cache_size=700)).steps
    assert [step.verb for step in steps] == [Verb.EVICT, Verb.KEEP, Verb.KEEP]


def test_a_lease_wins_over_the_cache() -> None:
    leased, over = restored(0, lease=10, read=40), restored(1, lease=-10, read=10, age=200)
    steps = plan([leased, over], replace(POLICY, cache_size=320)).steps
    # The one that is on lease takes the room, whenever it was read.
    assert [step.verb for step in steps] == [Verb.KEEP, Verb.EVICT]
    assert steps[0].reason_code == "leased"
    assert plan([leased], replace(POLICY, cache_size=0)).work == ()


def test_a_clock_that_jumps_ahead_ends_no_lease() -> None:
    """By the wall clock both leases are over; by the time that has certainly passed, neither is."""
    segments = [restored(0, lease=-10, age=200), restored(1, lease=-20)]
    for cache_size in (0, 10_000):
        policy = replace(POLICY, cache_size=cache_size)
        steps = make_plan(segments, segments, policy, NOW, outlook=Outlook(clock_ahead=3600)).steps
        assert [(step.verb, step.reason_code, step.tier) for step in steps] == [(Verb.KEEP, "leased", Tier.HOT)] * 2
        assert all(step.verb is Verb.EVICT for step in make_plan(segments, segments, policy, NOW).steps[1:])
    assert over_cache_size(segments, replace(POLICY, cache_size=0), sure=NOW - 3600) == set()
    assert len(over_cache_size(segments, replace(POLICY, cache_size=0), sure=NOW)) == 2


def test_a_leased_segment_that_was_rewritten_is_archived_and_stays_on_the_disk() -> None:
    """A lease keeps files on the disk; it does not leave the only copy of new bytes there until it ends."""
    leased = restored(0, lease=10)
    rewritten = replace(leased, local=files(size=77))
    assert not rewritten.is_proven
    for policy in (POLICY, COPY):
        step = decide(rewritten, policy)
        assert (step.verb, step.frees, step.again) == (Verb.COPY, 0, True)
    assert decide(leased).verb is Verb.KEEP


def test_only_restored_copies_count_for_the_cache() -> None:
    segments = [replace(cold(0), active=True), cold(1, age=5), restored(2)]
    assert plan(segments, replace(POLICY, cache_size=320)).work == ()


def test_the_cache_drops_nothing_that_is_not_proven() -> None:
    changed = replace(restored(lease=10), local=files(4000))
    step = decide(changed, replace(POLICY, cache_size=0))
    assert (step.verb, step.frees) == (Verb.COPY, 0)
    assert_kept(replace(restored(lease=10), local=files(500)), "warm, last modified", replace(POLICY, cache_size=0))


def test_retention_by_age_is_over_when_the_log_is_older() -> None:
    aged = replace(POLICY, retention_age=(("orders", 7200.0),))
    step = decide(archived(age=7201), aged)
    assert (step.verb, step.uploads, step.frees) == (Verb.EXPIRE, 0, 0)
    assert step.reason == "its retention of 2 h is over: last modified 2 h ago"
    assert_kept(archived(age=7200), "in the archive", aged)
    assert_kept(archived(age=-7201), "in the archive", aged)


def test_retention_by_size_counts_from_the_newest_and_by_partition() -> None:
    sized = replace(POLICY, retention_size=(("orders", 600),))
    orders = [archived(n) for n in range(4)]
    events = [archived(n, "events") for n in range(4)]
    verbs = [step.verb for step in plan([*events, *orders], sized).steps]
    assert verbs == [Verb.KEEP] * 4 + [Verb.EXPIRE, Verb.EXPIRE, Verb.KEEP, Verb.KEEP]
    others = [replace(segment, id=replace(segment.id, partition=1)) for segment in orders[:2]]
    assert [step.verb for step in plan([*orders[:2], *others], sized).steps] == [Verb.KEEP] * 4


def test_retention_by_size_counts_what_is_on_disk_too() -> None:
    sized = replace(POLICY, retention_size=(("*", 600),))
    active = replace(cold(9, size=580), active=True)
    assert [step.verb for step in plan([archived(0), archived(1), active], sized).steps] == [
        Verb.EXPIRE,
        Verb.EXPIRE,
        Verb.KEEP,
    ]


def test_the_newest_segment_stays_however_small_the_limit() -> None:
    sized = replace(POLICY, retention_size=(("*", 1),))
    assert [step.verb for step in plan([archived(0), archived(1)], sized).steps] == [Verb.EXPIRE, Verb.KEEP]


@pytest.mark.parametrize(
    "kept",
    [
        cold(),
        copied(),
        restored(),
        restored(lease=-10),
        replace(archived(), local=LocalFiles(offset_index=FileStat(8, 1, 1))),
        replace(cold(), active=True),
        Segment(SegmentId("orders", 0, 0)),
    ],
)
def test_retention_takes_nothing_that_has_a_file_on_disk_or_no_archive(kept: Segment) -> None:
    limits = replace(POLICY, retention_age=(("*", 1.0),), retention_size=(("*", 1),))
    steps = plan([kept, archived(1)], limits).steps
    assert steps[0].verb is not Verb.EXPIRE


def test_retention_is_by_the_first_glob_that_fits() -> None:
    aged = replace(POLICY, retention_age=(("orders-eu", 1e6), ("orders-*", 10.0)))
    topics = ["events", "orders-eu", "orders-us"]
    verbs = [step.verb for step in plan([archived(0, topic) for topic in topics], aged).steps]
    assert verbs == [Verb.KEEP, Verb.KEEP, Verb.EXPIRE]


def test_without_limits_the_archive_keeps_everything() -> None:
    assert plan([archived(n, age=1e9) for n in range(5)]).work == ()


def test_a_plan_adds_up_and_keeps_the_order() -> None:
    segments = [cold(0), replace(copied(1), settled=False), copied(2), archived(3), cold(4, age=5)]
    made = plan(segments)
    assert [step.id.base_offset for step in made.steps] == [0, 1, 2, 3, 4]
    assert [step.id.base_offset for step in made.work] == [0, 2]
    assert (made.bytes_uploaded, made.bytes_freed, made.made_at) == (320, 640, NOW)
    assert plan(segments, work_only=True).steps == made.work


def test_an_empty_plan() -> None:
    assert plan([]) == Plan((), NOW)


def test_a_plan_in_json_tells_each_segment_with_its_reason() -> None:
    made = plan([cold(0, size=10**9), archived(1)])
    cost = plan_cost([Move(step.uploads, step.frees) for step in made.work], DEFAULT_PRICES, NOW)
    told = to_json(describe_plan(made, cost))
    assert told["saved_usd_monthly"] == told["cost"]["saved_monthly"] == pytest.approx(0.057, abs=1e-6)
    assert told["bytes_freed"] == told["bytes_uploaded"] == 10**9 + 20
    assert [(row["segment_path"], row["action"], row["reason"]) for row in told["segments"]] == [
        ("orders-0/00000000000000000000.log", "archive", "cold, last modified 83 min ago"),
        ("orders-0/00000000000000000001.log", "keep", "in the archive"),
    ]
