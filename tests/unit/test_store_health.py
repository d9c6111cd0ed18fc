"""Whether the store can be used, by what it said: pure."""

from __future__ import annotations

import pytest

from takhin_tiered.errors import (
    BucketMissing,
    InGlacier,
    ObjectCorrupt,
    ObjectMissing,
    StoreChanged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from takhin_tiered.metrics import Metrics
from takhin_tiered.store import StoreHealth, is_outage


@pytest.fixture
def health() -> StoreHealth:
    moments = iter(range(100, 200))
    return StoreHealth(Metrics(), lambda: float(next(moments)))


def counted(health: StoreHealth, code: str) -> float:
    return health.metrics.registry.get_sample_value("tiered_storage_store_errors_total", {"code": code}) or 0.0


def test_an_outage_begins_with_its_first_failure_and_counts_once(health: StoreHealth) -> None:
    for _ in range(3):
        health.failed(StoreUnavailable("no answer"))
        assert (health.problem.split(".")[0], health.down_since) == ("no answer", 100.0)
    assert counted(health, "store_unavailable") == 1
    health.answered()
    assert (health.problem, health.down_since) == ("", 0.0)


def test_what_an_outage_becomes_counts_too_and_began_when_the_outage_did(health: StoreHealth) -> None:
    health.failed(StoreUnavailable("no answer"))
    health.failed(BucketMissing("no bucket"))
    assert (health.problem, health.down_since) == ("no bucket", 100.0)
    assert (counted(health, "store_unavailable"), counted(health, "bucket_missing")) == (1, 1)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (StoreUnavailable("no answer"), {"answered", "listed"}),
        (BucketMissing("no bucket"), {"answered", "listed"}),
        (StoreDenied("may not list"), {"listed"}),
        (StoreChanged("another store"), {"recognised"}),
    ],
)
@pytest.mark.parametrize("said", ["answered", "listed", "recognised"])
def test_only_what_contradicts_a_failure_ends_it(
    health: StoreHealth, error: StoreError, ends: set[str], said: str
) -> None:
    health.failed(error)
    getattr(health, said)()
    assert bool(health.down_since) is (said not in ends)
    assert bool(health.problem) is (said not in ends)


def test_an_object_that_is_bad_is_counted_with_the_attempt_and_is_no_outage(health: StoreHealth) -> None:
    health.answered()
    for error in (ObjectCorrupt("bad"), ObjectMissing("gone"), StoreFull("full"), InGlacier("frozen")):
        assert not is_outage(error)
        health.attempt_failed(error)
    assert counted(health, "object_corrupt") == counted(health, "object_missing") == counted(health, "store_full") == 1
    assert health.problem == ""


def test_an_attempt_that_failed_with_the_store_counts_no_second_time(health: StoreHealth) -> None:
    for error in (StoreUnavailable("no answer"), StoreDenied("may not list")):
        health.failed(error)
        health.attempt_failed(error)
        assert counted(health, error.code) == 1
