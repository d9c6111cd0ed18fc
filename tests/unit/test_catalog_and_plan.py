"""The catalog's rows and counts against a naive recount, its journal, and the rules of the plan."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import open_journal
from takhin_tiered.catalog.record import pack, unpack
from takhin_tiered.catalog.tallies import Tallies
from takhin_tiered.engine.headroom import Headroom
from takhin_tiered.segments.model import Archive, FileStat, Intent, LocalFiles, PartitionListing, Segment, State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Step, Verb, make_plan
from takhin_tiered.segments.policy import Policy, classify

NOW = 1_000_000.0
POLICY = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=1000)
ID = SegmentId("orders", 0, 0)

stats = st.builds(FileStat, st.integers(0, 2**40), st.integers(0, 2**60), st.integers(0, 2**64 - 1))
locals_ = st.builds(LocalFiles, st.none() | stats, st.none() | stats, st.none() | stats)
times = st.floats(1, 2e9)
segments = st.builds(
    Segment,
    st.builds(SegmentId, st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(0, 5)),
    local=locals_,
    active=st.booleans(),
    settled=st.booleans(),
    archive=st.none()
    | st.builds(Archive, st.integers(1, 9), st.integers(0, 2**50), st.integers(0, 2**60), times, locals_),
    lease_until=st.just(0.0) | times,
    last_access=st.just(0.0) | times,
    problem=st.text(max_size=20).filter(lambda text: "\0" not in text),
    quarantined=st.booleans(),
)


@given(segments)
def test_a_row_is_read_as_it_is_written(segment: Segment) -> None:
    assert unpack(segment.id, pack(segment)) == segment


@settings(max_examples=60)
@given(st.lists(st.tuples(segments, st.booleans()), max_size=25), times)
def test_counts_are_those_of_a_recount(changes: list[tuple[Segment, bool]], now: float) -> None:
    tallies, known = Tallies(), dict[SegmentId, Segment]()
    for segment, gone in changes:
        new = None if gone else segment
        if known.get(segment.id) is not None or new is not None:
            tallies.replace(known.get(segment.id), new)
        if new is None:
            known.pop(segment.id, None)
        else:
            known[segment.id] = new
    found = tallies.stats(POLICY, now)
    everything = list(known.values())
    tiers = [classify(segment, POLICY, now) for segment in everything]
    assert asdict(found) == {
        "total_segments": len(everything),
        "hot_segments": tiers.count(Tier.HOT),
        "warm_segments": tiers.count(Tier.WARM),
        "cold_segments": tiers.count(Tier.COLD),
        "archived_segments": sum(segment.state is State.ARCHIVED for segment in everything),
        "total_size_bytes": sum(segment.size for segment in everything),
        "local_size_bytes": sum(segment.local.size for segment in everything),
        "archived_size_bytes": sum(segment.archive.size for segment in everything if segment.archive),
    }


async def test_a_restart_reads_what_was_flushed(tmp_path: Path) -> None:
    stat = FileStat(5, int((NOW - 5000) * 1e9), 7)
    intent = Intent("orders-0/k.log", ID, 5, "ab", 0, NOW)
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        assert not journal.was_clean
        catalog = Catalog(journal)
        catalog.observe(PartitionListing("orders", 0, {0: LocalFiles(stat), 9: LocalFiles(stat)}, 9))
        catalog.intend([intent])
        catalog.put(
            replace(catalog.get(ID) or Segment(ID), archive=Archive(1, 5, stat.mtime_ns, NOW, LocalFiles(stat)))
        )
        await catalog.flush()
        await journal.set_meta("clean", "yes")
        before = list(catalog.segments())
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        assert journal.was_clean
        again = Catalog(journal)
        await again.load()
        assert list(again.segments()) == before
        assert again.intents() == [intent]
        assert again.active_offset(ID) == 9
        assert again.stats(POLICY, NOW) == catalog.stats(POLICY, NOW)
        again.settle([intent.key])
        again.remove(ID)
        await again.flush()
        assert [row[2] for row in await journal.rows()] == [9]
        assert await journal.intents() == []


def test_a_scan_marks_what_changed_and_forgets_what_is_gone() -> None:
    catalog = Catalog()
    first, grown = FileStat(5, 1, 7), FileStat(6, 2, 7)
    catalog.observe(PartitionListing("orders", 0, {0: LocalFiles(first), 9: LocalFiles(first)}, 9))
    catalog.observe(PartitionListing("orders", 0, {0: LocalFiles(grown), 9: LocalFiles(first)}, 9))
    assert [segment.settled for segment in catalog.segments()] == [False, True]
    assert catalog.observe(PartitionListing("orders", 0, {9: LocalFiles(first)}, 9)) == [ID]
    assert [segment.id.base_offset for segment in catalog.segments()] == [9]
    # A verb's word outweighs a scan that began before it.
    catalog.begin_scan()
    catalog.put(Segment(ID, archive=Archive(1, 5, 1, 1.0)))
    catalog.observe(PartitionListing("orders", 0, {0: LocalFiles(first), 9: LocalFiles(first)}, 9))
    assert catalog.get(ID) == Segment(ID, archive=Archive(1, 5, 1, 1.0))


def decide(segment: Segment, policy: Policy = POLICY) -> Step:
    return make_plan([segment], [segment] if segment.restored else [], policy, NOW).steps[0]


def aged(seconds: float) -> LocalFiles:
    return LocalFiles(FileStat(300, int((NOW - seconds) * 1e9), 1))


def archived(local: LocalFiles, age: float = 5000) -> Archive:
    return Archive(1, 300, int((NOW - age) * 1e9), NOW, proven=local)


def test_what_the_plan_does_with_a_segment() -> None:
    cold = Segment(ID, aged(5000))
    assert decide(cold).verb is Verb.ARCHIVE
    assert decide(cold, replace(POLICY, keep_local=True)).verb is Verb.COPY
    for kept, reason in (
        (replace(cold, active=True), "active"),
        (replace(cold, settled=False), "changed since the last scan"),
        (Segment(ID, aged(500)), "warm"),
        (Segment(ID, aged(5)), "hot"),
        (Segment(ID, aged(-5000)), "hot"),
        (Segment(ID, archive=archived(LocalFiles())), "in the archive"),
    ):
        step = decide(kept)
        assert (step.verb, reason in step.reason) == (Verb.KEEP, True), step
    for policy, reason in (
        (replace(POLICY, enabled=False), "not enabled"),
        (replace(POLICY, auto_archive=False), "automatic archiving is off"),
        (replace(POLICY, exclude=("ord*",)), "leaves this topic out"),
        (replace(POLICY, include=("x*",)), "leaves this topic out"),
    ):
        step = decide(cold, policy)
        assert (step.verb, reason in step.reason) == (Verb.KEEP, True), step


def test_what_the_plan_does_with_a_restored_segment() -> None:
    local = aged(5000)
    restored = Segment(ID, local, archive=archived(local), lease_until=NOW + 10, last_access=NOW)
    assert decide(restored).verb is Verb.KEEP
    assert decide(replace(restored, lease_until=NOW - 10)).verb is Verb.EVICT
    assert decide(replace(restored, lease_until=NOW - 10), replace(POLICY, auto_archive=False)).verb is Verb.EVICT
    assert decide(replace(restored, lease_until=NOW - 10), replace(POLICY, keep_local=True)).verb is Verb.KEEP
    assert decide(restored, replace(POLICY, cache_size=299)).verb is Verb.EVICT
    # One that was written to since is compared, not dropped.
    changed = replace(restored, local=aged(4000), lease_until=NOW - 10)
    assert decide(changed).verb is Verb.ARCHIVE
    left = Segment(ID, LocalFiles(index=FileStat(8, 1, 1)), archive=archived(LocalFiles()))
    assert decide(left).verb is Verb.EVICT
    assert decide(left, replace(POLICY, keep_local=True)).verb is Verb.KEEP


def test_retention_counts_from_the_newest_and_spares_what_is_on_disk() -> None:
    partition = [Segment(SegmentId("orders", 0, n), archive=archived(LocalFiles())) for n in range(4)]
    policy = replace(POLICY, retention_size=(("orders", 600),))
    verbs = [step.verb for step in make_plan(partition, [], policy, NOW).steps]
    assert verbs == [Verb.EXPIRE, Verb.EXPIRE, Verb.KEEP, Verb.KEEP]
    by_age = replace(POLICY, retention_age=(("ord*", 4000.0),))
    assert decide(partition[0], by_age).verb is Verb.EXPIRE
    local = aged(5000)
    assert decide(replace(partition[0], local=local, archive=archived(local)), by_age).verb is not Verb.EXPIRE
    assert decide(partition[0], replace(POLICY, retention_age=(("other", 1.0),))).verb is Verb.KEEP


def test_headroom_is_told_while_the_disk_shrinks() -> None:
    headroom = Headroom()
    assert headroom.seconds() is None
    headroom.note(0, 1000)
    headroom.note(10, 900)
    assert headroom.seconds() is None
    headroom.note(100, 500)
    assert headroom.seconds() == 100
    headroom.note(5000, 2000)
    assert headroom.seconds() is None
