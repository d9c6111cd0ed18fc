"""Ranges of offsets, what is missing between them, and what is there twice."""

from __future__ import annotations

from takhin_tiered.segments.coverage import coverage, holes, joined, overlaps, written


def test_what_touches_is_one_range() -> None:
    assert joined([(10, 19), (0, 9), (25, 30), (28, 40)]) == ((0, 19), (25, 40))
    assert joined([]) == ()


def test_holes_lie_between_what_is_there() -> None:
    assert holes([(10, 19), (30, 39), (32, 35), (50, 50)]) == ((20, 29), (40, 49))
    assert holes([(10, 19)]) == ()


def test_overlaps_are_in_two_segments_or_more() -> None:
    assert overlaps([(0, 9), (10, 19)]) == ()
    assert overlaps([(0, 9), (5, 14), (7, 8), (14, 20)]) == ((5, 9), (14, 14))
    assert overlaps([(0, 100), (10, 20), (30, 40)]) == ((10, 20), (30, 40))


def test_a_local_copy_of_an_archived_segment_overlaps_nothing() -> None:
    found = coverage([(10, 19), (20, 25)], [(0, 9), (10, 19)], [(0, 9), (10, 19), (20, 25)])
    assert (found.local, found.archived, found.holes, found.overlaps) == (((10, 25),), ((0, 19),), (), ())


def test_ranges_for_people() -> None:
    assert written([(0, 9), (20, 20)]) == "0-9, 20-20"
    assert written([]) == "-"
