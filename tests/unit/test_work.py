"""What a cycle has to look at: it leaves out nothing that the plan would move."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.plan import make_plan
from takhin_tiered.segments.policy import Policy

NOW = 1_700_000_000.0
COLD = 1000.0
DAY = 86400.0

# Ages on either side of each threshold, to the nanosecond, and of files from the future.
moments = st.builds(
    lambda age, beside: round((NOW - age) * 1e9) + beside,
    st.sampled_from([-COLD, 0.0, COLD, DAY, 100 * DAY]),
    st.sampled_from([-2_000_000_000, -500, -1, 0, 1, 500, 2_000_000_000]),
)
stats = st.builds(FileStat, st.integers(0, 1000), moments, st.integers(0, 3))
files = st.builds(LocalFiles, *[st.none() | stats for _ in FileKind]) | st.just(NO_FILES)
policies = st.builds(
    Policy,
    enabled=st.sampled_from([True, True, True, False]),
    auto_archive=st.booleans(),
    keep_local=st.booleans(),
    warm_age=st.just(COLD / 2),
    cold_age=st.just(COLD),
    lease=st.just(DAY),
    cache_size=st.sampled_from([0, 1000, 10**9]),
    include=st.sampled_from([("*",), ("a",)]),
    exclude=st.sampled_from([(), ("a",)]),
    retention_age=st.sampled_from([(), (("a", DAY),), (("*", DAY),)]),
    warm_copy=st.booleans(),
    retention_size=st.sampled_from([(), (("b", 700),), (("*", 700),)]),
)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    local = draw(files)
    proven = draw(st.sampled_from([local, NO_FILES]))
    archive = draw(st.none() | st.builds(Archive, st.just(1), st.integers(0, 1000), moments, st.just(NOW)))
    leases = st.sampled_from([0.0, 0.0, NOW - 1, NOW + 1])
    return Segment(
        SegmentId(draw(st.sampled_from("ab")), draw(st.integers(0, 1)), draw(st.integers(0, 9))),
        local=local,
        active=draw(st.sampled_from([False, False, True])),
        settled=draw(st.sampled_from([True, True, False])),
        archive=archive and replace(archive, proven=proven),
        lease_until=draw(leases),
        last_access=draw(leases),
    )


@given(st.lists(segments(), max_size=12), policies)
def test_what_is_left_out_is_what_the_plan_keeps(found: list[Segment], policy: Policy) -> None:
    catalog = Catalog()
    for segment in found:
        catalog.put(segment)
    restored = catalog.restored()
    whole = make_plan(catalog.segments(), restored, policy, NOW, work_only=True)
    assert make_plan(catalog.may_have_work(policy, NOW), restored, policy, NOW, work_only=True) == whole


def test_what_is_hot_or_in_the_archive_is_not_even_looked_at() -> None:
    policy = Policy(True, True, False, COLD / 2, COLD, DAY, 0)
    hot = FileStat(1, round(NOW * 1e9), 1)
    cold = replace_time(hot, NOW - 2 * COLD)
    catalog = Catalog()
    catalog.put(Segment(SegmentId("a", 0, 0), archive=Archive(1, 5, 6, NOW)))
    catalog.put(Segment(SegmentId("a", 0, 1), LocalFiles(cold)))
    catalog.put(Segment(SegmentId("a", 0, 2), LocalFiles(hot)))
    catalog.put(Segment(SegmentId("a", 0, 3), LocalFiles(cold), active=True))
    assert [segment.id.base_offset for segment in catalog.may_have_work(policy, NOW)] == [1]


def replace_time(stat: FileStat, seconds: float) -> FileStat:
    return stat._replace(mtime_ns=round(seconds * 1e9))


@given(st.lists(segments(), max_size=12))
def test_the_archived_are_those_with_an_archive(found: list[Segment]) -> None:
    catalog = Catalog()
    for segment in found:
        catalog.put(segment)
    assert list(catalog.archived()) == [segment for segment in catalog.segments() if segment.archive is not None]
