"""What stands against a restore, before anything is downloaded."""

from __future__ import annotations

import pytest
import typer

from takhin_tiered.cli.restore import milliseconds_of, offsets_of, seconds_of
from takhin_tiered.segments.broker import TopicSettings
from takhin_tiered.segments.choice import Candidate, gap_problem, log_start_problem, meets, retention_problem


def candidate(first: int, last: int, *, size: int = 100, timestamp: int = 1_000_000) -> Candidate:
    return Candidate(f"orders-0/{first:020d}.log", (first, last), size, timestamp)


def topic(**changes: int | frozenset[str] | None) -> TopicSettings:
    values: dict[str, object] = {
        "cleanup_policy": frozenset({"delete"}), "retention_ms": None, "retention_bytes": None, "segment_ms": None,
    }  # fmt: skip
    return TopicSettings(**values | changes)  # type: ignore[arg-type]


def test_a_gap_above_or_below_is_told() -> None:
    assert gap_problem("orders-0", [candidate(0, 9), candidate(10, 19)], [(20, 30)], [(0, 1000)]) == ""
    assert gap_problem("orders-0", [candidate(0, 9)], [], [(0, 1000)]) == ""
    above = gap_problem("orders-0", [candidate(0, 9)], [(20, 30)], [(0, 1000)])
    assert "offsets 10-19" in above
    assert "--offsets 0-19" in above
    assert "--force" in above
    assert "and 1 more such gap" in gap_problem("orders-0", [candidate(10, 19)], [(0, 5), (30, 40)], [(0, 1000)])
    # One that is there already is not this restore's.
    assert gap_problem("orders-0", [candidate(20, 29)], [(0, 5), (10, 19), (30, 40)], [(0, 1000)]) == ""


def test_below_the_log_start() -> None:
    assert log_start_problem("orders-0", [candidate(0, 9)], 9) == ""
    told = log_start_problem("orders-0", [candidate(0, 9), candidate(10, 19)], 15)
    assert "log start offset is 15" in told
    assert f"{0:020d}.log of orders-0" in told


def test_past_retention() -> None:
    old, young = candidate(0, 9, timestamp=1_000), candidate(10, 19, timestamp=90_000)
    by_time = topic(retention_ms=50_000)
    assert retention_problem("orders-0", [old, young], 0, by_time, 40) == ""
    assert f"{0:020d}.log of" in retention_problem("orders-0", [old, young], 0, by_time, 60)
    assert (
        retention_problem("orders-0", [old], 0, topic(retention_ms=1, cleanup_policy=frozenset({"compact"})), 60) == ""
    )
    by_size = topic(retention_bytes=300)
    assert retention_problem("orders-0", [old, young], 150, by_size, 60) == ""
    assert f"{0:020d}.log of" in retention_problem("orders-0", [old, young], 200, by_size, 60)
    assert "1 more" in retention_problem("orders-0", [old, young], 300, by_size, 60)


def test_bounds_that_are_open() -> None:
    assert meets((None, None), 5, 9)
    assert meets((9, None), 5, 9)
    assert not meets((10, None), 5, 9)
    assert meets((None, 5), 5, 9)
    assert not meets((None, 4), 5, 9)


def test_what_people_write() -> None:
    assert offsets_of("10-20") == (10, 20)
    assert offsets_of("10-") == (10, None)
    assert offsets_of("-20") == (None, 20)
    assert offsets_of("7") == (7, 7)
    assert offsets_of(None) == (None, None)
    assert milliseconds_of("2026-11-01") == 1_793_491_200_000
    assert milliseconds_of("2026-11-01T02:00:00+02:00") == 1_793_491_200_000
    assert seconds_of("1.5h") == 5400
    assert seconds_of("7d") == 7 * 86400


@pytest.mark.parametrize("text", ["", "-", "a-b", "20-10", "1--2", "1,2"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        offsets_of(text)


@pytest.mark.parametrize("text", ["yesterday", "6", "-1h", "1w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds_of(text)
    with pytest.raises(typer.BadParameter):
        milliseconds_of(text)
