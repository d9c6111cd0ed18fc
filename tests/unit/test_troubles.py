"""What ``status --check`` finds of the limits that were set."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from takhin_tiered.cost.report import RestoreBudget, budget_of
from takhin_tiered.segments.results import BrokerStatus, ClockStatus, DaemonStatus, Status, from_json, to_json
from takhin_tiered.segments.troubles import troubles_of

DAEMON = DaemonStatus(1, "here", "", answers=True)
WELL = Status(
    version="1",
    total_segments=0,
    hot_segments=0,
    warm_segments=0,
    cold_segments=0,
    archived_segments=0,
    total_size_bytes=0,
    local_size_bytes=0,
    archived_size_bytes=0,
    quarantined_segments=0,
    superseded_generations=0,
    future_segments=0,
    clock=ClockStatus("", 0),
    enabled=False,
    mode="move",
    broker=BrokerStatus("", False, "", "", 0, (), 0, ()),
    data_dir="/data",
    data_dirs=("/data",),
    disk_free_bytes=10**12,
    store=None,
    store_reachable=None,
    store_problem="",
    last_cycle=None,
    last_cycle_problem="",
    last_cycle_at=None,
    last_cycle_by="",
    cycle_running_seconds=None,
    cycle_interval_seconds=3600.0,
    lost_segments=0,
    lost=(),
    headroom_seconds=None,
)


def told(found: Status) -> dict[str, str]:
    return {each.code: str(each) for each in troubles_of(found, DAEMON, 0.0)}


def test_a_reserve_that_cannot_be_met_is_told() -> None:
    assert told(WELL) == {}
    found = told(replace(WELL, reserve_missing_bytes=3 * 2**30))
    assert list(found) == ["reserve"]
    assert "3.0 GiB less are free than local.reserve.percent asks for" in found["reserve"]


def budget(monthly: str, spent: str, waiting: str, per_restore: str) -> RestoreBudget:
    return budget_of(Decimal(monthly), Decimal(spent), Decimal(waiting), Decimal(per_restore))


@pytest.mark.parametrize(
    ("found", "used_up"),
    [
        (None, False),
        # No budget is set.
        (budget("0", "5", "0", "1"), False),
        # 10 - 6 - 2 = 2 are left, for a restore that costs 1.
        (budget("10", "6", "2", "1"), False),
        # 10 - 6 - 3.5 = 0.5: one more would be refused, although something is left.
        (budget("10", "6", "3.5", "1"), True),
        (budget("10", "10", "0", "0"), True),
        (budget("10", "12", "0", "0"), True),
    ],
)
def test_a_restore_budget_that_is_used_up_is_told(found: RestoreBudget | None, used_up: bool) -> None:
    status = replace(WELL, restore_budget=found)
    assert list(told(status)) == (["budget"] if used_up else [])
    assert from_json(Status, to_json(status)) == status


def test_what_waits_for_glacier_is_named() -> None:
    found = told(replace(WELL, restore_budget=budget("10", "6", "3.5", "1")))["budget"]
    assert "budget of $10.00 is used up: $6.00 are spent, and restores that wait will cost $3.50" in found
