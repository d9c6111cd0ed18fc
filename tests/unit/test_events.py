"""What happened to a segment, from how it stood before and after."""

from __future__ import annotations

from dataclasses import replace

from takhin_tiered.segments.events import What, events_between
from takhin_tiered.segments.model import Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId

LOG = LocalFiles(log=FileStat(1000, 10**18, 7), offset_index=FileStat(24, 10**18, 8))
OTHER = LOG._replace(log=FileStat(1000, 2 * 10**18, 9))
LOCAL = Segment(SegmentId("orders", 0, 0), local=LOG)
COPY = Archive(generation=1, size=1024, mtime_ns=10**18, archived_at=1e9, proven=LOG, encoded_size=300)
COPIED = replace(LOCAL, archive=COPY)
ARCHIVED = replace(COPIED, local=LocalFiles(), archive=replace(COPY, proven=LocalFiles()))


def what(old: Segment | None, new: Segment | None) -> list[What]:
    return [event for event, _ in events_between(old, new)]


def detail(old: Segment, new: Segment | None) -> str:
    [(_, text)] = events_between(old, new)
    return text


def test_each_step_of_a_life_is_one_event() -> None:
    restored = replace(COPIED, lease_until=1.8e9, lease_by="alice, by restore --for 6h")
    assert what(LOCAL, COPIED) == [What.COPIED]
    assert detail(LOCAL, COPIED) == "generation 1, 1024 bytes, stored as 300"
    assert what(COPIED, ARCHIVED) == [What.EVICTED]
    assert detail(COPIED, ARCHIVED) == "1024 bytes off the disk"
    assert what(LOCAL, ARCHIVED) == [What.ARCHIVED, What.EVICTED]
    assert what(ARCHIVED, restored) == [What.RESTORED]
    assert detail(ARCHIVED, restored) == (
        "1024 bytes, kept until 2027-01-15T08:00:00+00:00, for alice, by restore --for 6h"
    )
    assert what(COPIED, restored) == [What.LEASED]
    assert detail(COPIED, replace(COPIED, lease_until=1.8e9)) == "kept until 2027-01-15T08:00:00+00:00"
    assert what(restored, replace(restored, lease_until=0.0)) == [What.LEASE_ENDED]
    assert what(ARCHIVED, replace(LOCAL, local=LocalFiles())) == [What.REMOVED]
    assert detail(ARCHIVED, None) == "generation 1, 300 bytes, is not in the archive any more"
    assert what(ARCHIVED, None) == [What.REMOVED]
    assert what(LOCAL, None) == [What.FORGOTTEN]


def test_problems_are_told_once_each() -> None:
    failed = replace(LOCAL, last_failure="the store is down")
    assert what(LOCAL, failed) == [What.FAILED]
    assert detail(LOCAL, failed) == "the store is down"
    assert what(failed, replace(failed, last_access=5.0)) == []
    assert what(failed, LOCAL) == []
    assert what(failed, replace(failed, last_failure="denied")) == [What.FAILED]
    assert what(LOCAL, replace(LOCAL, damage="the batch at byte 7 fails its CRC")) == [What.DAMAGED]
    quarantined = replace(ARCHIVED, quarantine="the object is missing")
    assert what(ARCHIVED, quarantined) == [What.QUARANTINED]
    assert what(quarantined, ARCHIVED) == [What.HEALED]


def test_files_that_differ_from_the_archived_ones_are_a_change_and_a_new_generation_a_copy() -> None:
    changed = replace(COPIED, local=OTHER)
    assert what(COPIED, changed) == [What.CHANGED]
    assert what(changed, replace(changed, archive=replace(COPY, generation=2, proven=OTHER))) == [What.COPIED]


def test_what_a_scan_learns_and_what_the_broker_writes_is_no_event() -> None:
    assert what(None, LOCAL) == what(None, ARCHIVED) == what(COPIED, COPIED) == []
    assert what(replace(LOCAL, active=True), replace(LOCAL, active=True, local=OTHER)) == []
    assert what(LOCAL, replace(LOCAL, local=OTHER)) == []
    assert what(ARCHIVED, replace(ARCHIVED, last_access=5.0)) == []
