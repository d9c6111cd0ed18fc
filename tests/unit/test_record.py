"""A segment as a row of bytes: what is read is what was written."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from takhin_tiered.catalog.record import from_schema_2, from_schema_4, is_unchanged, pack, unpack
from takhin_tiered.segments.listing import local_files, pack_seen
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import MAX_OFFSET, MAX_PARTITION, FileKind, SegmentId

ID = SegmentId("orders", 3, 42)
STAT = FileStat(5, 1_700_000_000_123_456_789, 7)
# Sizes and times as the kernel gives them: times before 1970 are negative, stamps take 64 bits.
stats = st.builds(FileStat, st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1))
files = st.builds(LocalFiles, *[st.none() | stats for _ in FileKind])
times = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    local = draw(files)
    archive = st.builds(
        Archive,
        generation=st.integers(1, 2**32 - 1),
        size=st.integers(0, 2**63 - 1),
        mtime_ns=st.integers(-(2**63), 2**63 - 1),
        archived_at=times,
        proven=st.just(local) | files,
        last_offset=st.integers(-1, 2**63 - 1),
        encoded_size=st.none() | st.integers(0, 2**63 - 1),
        last_timestamp=st.integers(-1, 2**63 - 1),
        held=st.booleans(),
    )
    lease_until = draw(st.just(0.0) | times)
    return Segment(
        SegmentId(draw(st.sampled_from(["a", "b-c.d"])), draw(st.integers(0, MAX_PARTITION)), draw(offsets)),
        local=local,
        active=draw(st.booleans()),
        settled=draw(st.booleans()),
        archive=draw(st.none() | archive),
        lease_until=lease_until,
        lease_by=draw(st.text(max_size=50)) if lease_until else "",
        last_access=draw(st.just(0.0) | times),
        damage=draw(st.text(max_size=50)),
        last_failure=draw(st.text(max_size=50)),
        quarantine=draw(st.text(max_size=50)),
    )


offsets = st.integers(0, MAX_OFFSET)


@given(segments())
@example(Segment(ID))
@example(Segment(ID, LocalFiles(STAT), archive=Archive(1, 5, 6, 7.0, LocalFiles(STAT))))
@example(Segment(ID, LocalFiles(STAT), archive=Archive(1, 5, 6, 7.0, LocalFiles(offset_index=STAT))))
@example(Segment(ID, LocalFiles(STAT), archive=Archive(1, 5, 6, 7.0, NO_FILES), damage="Zürich\n\0", quarantine="gone"))
def test_a_row_is_read_as_it_is_written(segment: Segment) -> None:
    assert unpack(segment.id, pack(segment)) == segment


@given(segments())
def test_rows_differ_exactly_where_segments_do(segment: Segment) -> None:
    row = pack(segment)
    assert pack(unpack(segment.id, row)) == row
    assert pack(replace(segment, settled=not segment.settled)) != row
    assert pack(replace(segment, damage=segment.damage + "!")) != row
    assert pack(replace(segment, last_failure=segment.last_failure + "!")) != row
    assert pack(replace(segment, quarantine=segment.quarantine + "!")) != row


def test_what_is_not_there_takes_no_room() -> None:
    triple = LocalFiles(STAT, STAT, STAT)
    assert len(pack(Segment(ID))) == 4
    assert len(pack(Segment(ID, triple))) == 4 + 3 * 24
    # Files that are what the archive holds are written once.
    assert len(pack(Segment(ID, triple, archive=Archive(1, 5, 6, 7.0, triple)))) == 4 + 3 * 24 + 36
    # Nor is a size of objects, where it is that of the files.
    assert len(pack(Segment(ID, archive=Archive(1, 5, 6, 7.0, encoded_size=3)))) == 4 + 36 + 8


def test_a_problem_that_names_a_path_of_any_bytes_is_kept() -> None:
    """The file system's names are bytes; Python writes those that are no UTF-8 as lone surrogates."""
    segment = Segment(ID, last_failure="the store directory refuses: '/srv/archiv-\udce4'")
    assert unpack(ID, pack(segment)) == segment


def test_a_text_that_is_cut_off_is_damage() -> None:
    with pytest.raises(struct.error, match="longer than the row"):
        unpack(ID, pack(Segment(ID, damage="the batch at byte 0"))[:-1])


@pytest.mark.parametrize("cut", [0, 1])
def test_a_row_of_too_few_bytes_is_no_segment(cut: int) -> None:
    with pytest.raises(Exception, match="requires a buffer"):
        unpack(ID, pack(Segment(ID))[:cut])


@given(segments())
def test_a_row_is_recognized_by_what_a_look_at_the_disk_shows(segment: Segment) -> None:
    row = pack(segment)
    lease_is_over = segment.local.log is None and bool(segment.lease_until)
    seen = pack_seen(segment.local)
    assert local_files(row) == local_files(seen) == segment.local
    assert is_unchanged(row, seen, active=segment.active) is (segment.settled and not lease_is_over)
    assert not is_unchanged(row, seen, active=not segment.active)
    other = LocalFiles(FileStat(1, 2, 3), None, FileStat(4, 5, 6))
    assert is_unchanged(row, pack_seen(other), active=segment.active) is (segment.settled and segment.local == other)


@given(segments())
def test_what_is_seen_of_a_segment_is_its_row_where_nothing_else_is_known(segment: Segment) -> None:
    assert pack_seen(segment.local) == pack(Segment(segment.id, local=segment.local))


def test_a_row_of_the_release_before_becomes_one_of_this() -> None:
    triple, log = LocalFiles(STAT, STAT, STAT), LocalFiles(STAT)
    packed = struct.pack("<qqQ", *STAT)
    local = struct.pack("<H", 2 | 1 << 7) + packed
    archived = struct.pack("<H", 2 | 4 | 7 << 7 | 1 << 10) + packed * 3 + struct.pack("<Iqqd", 2, 5, 6, 7.0) + packed
    bad = struct.pack("<H", 2 | 4 | 64 | 1 << 13) + struct.pack("<Iqqd", 1, 5, 6, 7.0) + b"it is gone"

    assert unpack(ID, from_schema_2(local)) == Segment(ID, log)
    assert unpack(ID, from_schema_2(archived)) == Segment(ID, triple, archive=Archive(2, 5, 6, 7.0, log))
    assert unpack(ID, from_schema_4(from_schema_2(bad))) == Segment(
        ID, archive=Archive(1, 5, 6, 7.0), quarantine="it is gone"
    )
    assert from_schema_4(from_schema_2(b"")) == b""
