"""``Range`` and its conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.api.byte_ranges import Unsatisfiable, http_date, is_named, may_resume, parse_range


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=999-5000", (999, 1000)),
        ("bytes=500-", (500, 1000)),
        ("bytes=0-", (0, 1000)),
        ("bytes=-500", (500, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("Bytes = 1-2", (1, 3)),
        (None, None),
        ("", None),
        ("bytes=5-4", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=1-2,5-6", None),
        ("items=0-1", None),
        ("bytes=+1-2", None),
        ("bytes=99999999999999999999-", None),
    ],
)
def test_a_range(header: str | None, found: tuple[int, int] | None) -> None:
    assert parse_range(header, 1000) == found


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=1000-", 1000), ("bytes=1000-1001", 1000), ("bytes=-0", 1000), ("bytes=0-", 0),
                         ("bytes=-1", 0)]
)  # fmt: skip
def test_a_range_without_a_byte(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


@given(st.text(max_size=40), st.integers(0, 10))
def test_nothing_else_is_a_range(header: str, size: int) -> None:
    try:
        found = parse_range(f"bytes={header}", size)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found[0] < found[1] <= size


def test_conditions() -> None:
    etag, modified = '"abc"', 1_700_000_000.0
    assert is_named('"x", "abc"', etag)
    assert is_named('W/"abc"', etag)
    assert is_named("*", etag)
    assert not is_named('"x"', etag)
    assert not is_named(None, etag)
    assert may_resume(None, etag, modified)
    assert may_resume('"abc"', etag, modified)
    assert not may_resume('W/"abc"', etag, modified)
    assert not may_resume('"x"', etag, modified)
    assert may_resume(http_date(modified), etag, modified)
    assert not may_resume(http_date(modified), etag, modified + 0.5)
    assert not may_resume(http_date(modified + 1), etag, modified)
    assert not may_resume("yesterday", etag, modified)
