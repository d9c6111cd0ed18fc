"""Counts kept as they change, against a recount of everything."""

from __future__ import annotations

from dataclasses import asdict, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from takhin_tiered.catalog.record import head_of, is_special, pack
from takhin_tiered.catalog.tallies import Tallies
from takhin_tiered.segments.model import Archive, FileStat, LocalFiles, Segment, State, Tier
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.policy import Policy, classify

NOW = 10_000.0
POLICY = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=1000)
Known = dict[SegmentId, Segment]

# Few values, so that they often are the same: equal times, a segment replaced by itself.
times = st.sampled_from([0.0, 100.0, 9000.0, 9000.1, 9899.9, 9900.0, 9950.0, 10_000.0, 20_000.0])
stats = st.builds(lambda size, at: FileStat(size, round(at * 1e9), 1), st.integers(0, 9), times)
files = st.builds(LocalFiles, *[st.none() | stats for _ in FileKind])
archives = st.builds(
    lambda size, at, proven, encoded: Archive(1, size, round(at * 1e9), 1.0, proven, -1, encoded),
    st.integers(0, 9),
    times,
    files,
    st.none() | st.integers(0, 9),
)
segments = st.builds(
    Segment,
    st.builds(SegmentId, st.sampled_from(["a", "b"]), st.integers(0, 1), st.integers(0, 3)),
    local=files,
    active=st.booleans(),
    archive=st.none() | archives,
    lease_until=st.sampled_from([0.0, 9000.0, 10_000.0, 10_001.0]),
    damage=st.sampled_from(["", "a batch fails its CRC"]),
    quarantine=st.sampled_from(["", "its manifest is gone"]),
)


def recount(known: Known, now: float) -> dict[str, int]:
    everything = list(known.values())
    tiers = [classify(segment, POLICY, now, sure=now) for segment in everything]
    return {
        "total_segments": len(everything),
        "hot_segments": tiers.count(Tier.HOT),
        "warm_segments": tiers.count(Tier.WARM),
        "cold_segments": tiers.count(Tier.COLD),
        "archived_segments": sum(segment.state is State.ARCHIVED for segment in everything),
        "total_size_bytes": sum(segment.size for segment in everything),
        "local_size_bytes": sum(segment.local.size for segment in everything),
        "archived_size_bytes": sum(segment.archive.stored_size for segment in everything if segment.archive),
    }


def assert_right(tallies: Tallies, known: Known, now: float) -> None:
    assert asdict(tallies.stats(POLICY, now, sure=now)) == recount(known, now)
    assert tallies.quarantined == sum(bool(segment.quarantine) for segment in known.values())
    assert tallies.damaged == sum(bool(segment.damage) for segment in known.values())
    restored = [segment for segment in known.values() if segment.lease_until > 0 and segment.local.log is not None]
    assert sorted(tallies.restored(), key=lambda segment: segment.id) == sorted(restored, key=lambda s: s.id)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(segments, st.booleans()), max_size=30), times)
def test_counts_are_those_of_a_recount_after_every_change(changes: list[tuple[Segment, bool]], now: float) -> None:
    tallies, known = Tallies(), Known()
    for segment, gone in changes:
        if gone:
            tallies.replace(known.pop(segment.id, None), None)
        else:
            tallies.replace(known.get(segment.id), segment)
            known[segment.id] = segment
        assert_right(tallies, known, now)
    for segment in list(known.values()):
        tallies.replace(segment, None)
    assert_right(tallies, {}, now)


@settings(max_examples=60, deadline=None)
@given(st.lists(segments, max_size=15, unique_by=lambda segment: segment.id), st.lists(segments, max_size=10), times)
def test_what_was_loaded_counts_like_what_was_put(begin: list[Segment], then: list[Segment], now: float) -> None:
    tallies = Tallies()
    rows = {segment.id: pack(segment) for segment in begin}
    tallies.add([row for row in rows.values() if not is_special(head_of(row))], (None, None))
    for segment in begin:
        if is_special(head_of(rows[segment.id])):
            tallies.replace(None, segment)
    known = {segment.id: segment for segment in begin}
    assert_right(tallies, known, now)
    for segment in then:
        tallies.replace(known.get(segment.id), segment)
        known[segment.id] = segment
    assert_right(tallies, known, now)


def test_tiers_change_with_time_alone() -> None:
    tallies = Tallies()
    segment = Segment(SegmentId("a", 0, 0), LocalFiles(FileStat(5, 0, 1)))
    tallies.replace(None, segment)
    tallies.replace(None, replace(segment, id=SegmentId("a", 0, 1), active=True))
    tallies.replace(None, replace(segment, id=SegmentId("a", 0, 2), lease_until=500.0))
    counts = []
    for now in (99.0, 100.0, 499.0, 500.0, 999.0, 1000.0):
        found = tallies.stats(POLICY, now, sure=now)
        counts.append((found.hot_segments, found.warm_segments, found.cold_segments))
    assert counts == [(3, 0, 0), (2, 1, 0), (2, 1, 0), (1, 2, 0), (1, 2, 0), (1, 0, 2)]
