"""Cost, against calculations by hand. The prices are written out: a changed default has to be changed here too."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from takhin_tiered.catalog.record import pack
from takhin_tiered.catalog.survey import stored_sizes
from takhin_tiered.config import Settings
from takhin_tiered.cost.planning import Move, PlanCost, plan_cost, puts_of_log
from takhin_tiered.cost.prices import DEFAULT_PRICES
from takhin_tiered.cost.report import CostReport, Held, held_of, report
from takhin_tiered.cost.retrieving import retrieval_cost
from takhin_tiered.cost.usage import Kind, Purpose, Usage, month_of
from takhin_tiered.errors import ConfigError
from takhin_tiered.segments.classes import Walk, class_of_log
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId

GB = 10**9
NOW = datetime(2026, 11, 20, tzinfo=UTC).timestamp()


def made(
    local: int, total: int, held: dict[str, Held] | None = None, usage: Usage | None = None, **more: Decimal
) -> CostReport:
    return report(
        local_bytes=local,
        total_bytes=total,
        held=held or {},
        usage=usage or Usage("2026-11"),
        prices=DEFAULT_PRICES,
        **more,
    )


def test_a_known_set_costs_what_it_costs_by_hand() -> None:
    """40 GB on the disk, of which 10 GB stand in the store too; 60 GB only there, as 25 GB after compression."""
    found = made(40 * GB, 100 * GB, {"STANDARD": Held(70, 35 * GB)})
    assert found.hot_storage_gb == 40
    assert found.cold_storage_gb == 35
    assert found.hot_storage_cost_monthly == 3.20  # 40 x 0.08
    assert found.cold_storage_cost_monthly == 0.805  # 35 x 0.023
    assert found.total_cost_monthly == 4.005
    assert found.all_local_cost_monthly == 8.00  # 100 x 0.08
    assert found.saved_monthly == 3.995
    assert found.cost_savings_pct == 49.9375  # 3.995 / 8
    # Half a GB: a range of its log for each 32 MiB, four at most, two indexes and the manifest: 7 GET.
    assert found.retrieval_cost_per_restore == pytest.approx(7 * 0.0004 / 1000, abs=1e-9)


def test_a_change_of_class_that_follows_is_counted_by_hand() -> None:
    """A GB that is warm, to STANDARD_IA after 12 days: in ONEZONE_IA, of which 30 are billed at least."""
    move = Move(uploads=GB, storage_class="ONEZONE_IA", later_class="STANDARD_IA", changes_in=12 * 86400)
    without = plan_cost([replace(move, later_class="")], DEFAULT_PRICES, NOW)
    found = plan_cost([move], DEFAULT_PRICES, NOW)
    # 60 parts of 16 MiB, and two requests to begin and to end; the manifest, two looks before and one after.
    assert found.requests - without.requests == 62 + 4
    # 62 x 0.01 + 0.0004 + 2 x 0.001 + 0.001 for 1,000 of each; and 0.01 for 18 of 30 days.
    assert found.cost_once - without.cost_once == pytest.approx(0.6234 / 1000 + 0.006, abs=1e-9)
    late = plan_cost([replace(move, changes_in=31 * 86400)], DEFAULT_PRICES, NOW)
    assert late.cost_once - without.cost_once == pytest.approx(0.6234 / 1000, abs=1e-9)


AGED = Settings(
    data_dir="/data", warm_copy=True, s3_class_warm="STANDARD_IA", s3_class_cold="GLACIER_IR", cold_age_hours=100
).policy


@pytest.mark.parametrize(
    ("archived", "walked", "size", "storage_class"),
    [
        # Hours after it was last modified. It is cold after 100.
        (101, 0, GB, "GLACIER_IR"),
        (80, 0, GB, "STANDARD_IA"),
        (80, 99, GB, "STANDARD_IA"),
        (80, 100, GB, "GLACIER_IR"),
        # The server changes no object as large as that.
        (80, 200, GB + 1, "STANDARD_IA"),
        (101, 0, 1000, "STANDARD"),
    ],
)
def test_a_log_is_in_the_class_that_it_was_changed_to(
    archived: float, walked: float, size: int, storage_class: str
) -> None:
    archive = Archive(1, size, round(NOW * 1e9), NOW + archived * 3600)
    walk = Walk(NOW + walked * 3600, GB)
    assert class_of_log(archive, AGED, walk) == storage_class
    # What is counted of many rows is the same.
    for local in (NO_FILES, LocalFiles(FileStat(size, round(NOW * 1e9), 1))):
        row = pack(Segment(SegmentId("orders", 0, 0), local, archive=archive))
        cold, others = stored_sizes([row], AGED.cold_age, walk)
        assert (cold, others) == (([size], []) if archived > 100 or storage_class == "GLACIER_IR" else ([], [size]))


def test_nothing_costs_nothing_and_saves_nothing() -> None:
    found = made(0, 0)
    assert (found.total_cost_monthly, found.cost_savings_pct, found.retrieval_cost_per_restore) == (0, 0, 0)
    assert (found.saved_monthly, found.classes, found.month) == (0, (), "2026-11")


def test_all_on_the_disk_saves_nothing() -> None:
    found = made(5 * GB, 5 * GB)
    assert (found.total_cost_monthly, found.cost_savings_pct) == (0.40, 0)


def test_all_archived_saves_the_difference_of_the_prices() -> None:
    found = made(0, 10 * GB, {"STANDARD": Held(10, 10 * GB)})
    assert found.cost_savings_pct == 71.25  # (0.08 - 0.023) / 0.08
    assert found.total_cost_monthly == 0.23
    assert made(0, 10 * GB, {"DEEP_ARCHIVE": Held(0, 10 * GB)}).cost_savings_pct == 98.7625  # 0.00099


def test_a_copy_is_paid_for_twice() -> None:
    found = made(10 * GB, 10 * GB, {"STANDARD": Held(10, 10 * GB)})
    assert found.saved_monthly == -0.23
    assert found.cost_savings_pct == -28.75


def test_small_objects_are_billed_at_the_minimum_size() -> None:
    """Of 1000 segments of 300 KiB each: a log of a MiB is billed, and its indexes are in STANDARD."""
    prices = Settings(data_dir="/data", prices_minimum_bytes={"STANDARD_IA": 1 << 20}).prices
    held = held_of([300 * 1024] * 1000, prices.of("STANDARD_IA"))
    found = report(
        local_bytes=0, total_bytes=held.bytes, held={"STANDARD_IA": held}, usage=Usage("2026-11"), prices=prices
    )
    assert found.classes[0].billed_bytes == 1000 << 20
    assert found.cold_storage_cost_monthly == pytest.approx(1.048576 * 0.0125, abs=1e-9)
    # What is in a class is no smaller than the minimum of AWS.
    assert held_of([128 * 1024, GB], DEFAULT_PRICES.of("STANDARD_IA")) == Held(2, GB + 128 * 1024, 0)


def test_glacier_adds_forty_kib_to_each_log() -> None:
    found = made(0, GB, {"GLACIER": Held(1, GB)})
    by_hand = 0.0036 * (GB + 32768) / GB + 0.023 * 8192 / GB
    assert found.cold_storage_cost_monthly == pytest.approx(by_hand, abs=1e-9)


def test_intelligent_tiering_bills_the_number_of_objects() -> None:
    found = made(0, GB, {"INTELLIGENT_TIERING": Held(1000, GB)})
    assert found.cold_storage_cost_monthly == pytest.approx(0.023 + 1000 * 0.0025 / 1000)


def test_requests_of_the_month_are_billed_by_kind_and_class() -> None:
    usage = Usage("2026-11")
    usage.requests = Counter({
        (Purpose.OTHER, "STANDARD", Kind.PUT): 3000,
        (Purpose.OTHER, "STANDARD_IA", Kind.PUT): 1000,
        (Purpose.OTHER, "STANDARD", Kind.LIST): 1000,
        (Purpose.READ, "STANDARD", Kind.GET): 10_000,
        (Purpose.RESTORE, "STANDARD_IA", Kind.GET): 1000,
        (Purpose.OTHER, "STANDARD", Kind.DELETE): 1_000_000,
    })  # fmt: skip
    usage.received = Counter({(Purpose.RESTORE, "STANDARD_IA"): 10 * GB, (Purpose.OTHER, "STANDARD"): GB})
    found = made(0, 0, usage=usage, budget=Decimal(1), spent=Decimal("0.25"))
    by_kind = {each.kind: (each.requests, each.cost) for each in found.requests}
    assert by_kind["put"] == (4000, 0.025)  # 3 x 0.005 + 1 x 0.01
    assert by_kind["list"] == (1000, 0.005)
    assert by_kind["get"] == (11_000, 0.005)  # 10 x 0.0004 + 1 x 0.001
    assert by_kind["delete"] == (1_000_000, 0)
    assert found.requests_cost == 0.035
    assert (found.received_gb, found.retrieval_cost, found.egress_cost) == (11, 0.10, 0)
    assert (found.restore_budget.spent, found.restore_budget.left) == (0.25, 0.75)
    assert usage.spent(DEFAULT_PRICES, Purpose.READ) == Decimal("0.004")
    assert usage.spent(DEFAULT_PRICES, Purpose.RESTORE) == Decimal("0.101")
    assert Usage.from_json(json.loads(json.dumps(usage.to_json()))) == usage


def test_a_restore_costs_requests_retrieval_and_thaw() -> None:
    # 0.0001 for the bytes; the log for 0.001 / 1000, two indexes and the manifest for 0.0004 / 1000 each.
    assert retrieval_cost(DEFAULT_PRICES, "STANDARD_IA", 10**7) == Decimal("0.0001022")
    # 0.0002, four GET, and a request to thaw the log.
    assert retrieval_cost(DEFAULT_PRICES, "DEEP_ARCHIVE", 10**7) == Decimal("0.0003016")


def test_egress_counts_outside_the_region_only() -> None:
    outside = Settings(data_dir="/data", prices_transfer="internet").prices
    assert retrieval_cost(outside, "", GB) - retrieval_cost(DEFAULT_PRICES, "", GB) == Decimal("0.09")


def test_a_plan_that_moves_a_gigabyte_pays_off_within_the_month() -> None:
    found = plan_cost([Move(uploads=GB, frees=GB)], DEFAULT_PRICES, NOW)
    # The log in 60 parts of 16 MiB, a request before and one after; two indexes, the manifest; looks at each.
    assert puts_of_log(GB) == 62
    assert found.requests == 62 + 3 + 5
    assert found.cost_once == pytest.approx((65 * 0.005 + 5 * 0.0004) / 1000)
    assert found.saved_monthly == 0.057
    assert found.payback_months == 0.01
    assert found.pays_off_in == "2026-11"


def test_small_segments_in_a_dear_class_pay_off_later() -> None:
    """A megabyte each in Glacier Flexible Retrieval: 0.03 dollars for a thousand PUT of logs, and 40 KiB a log."""
    move = Move(uploads=10**6, frees=10**6, storage_class="GLACIER")
    found = plan_cost([move] * 1000, DEFAULT_PRICES, NOW)
    once = 1000 * (0.03 + 3 * 0.005 + 0.0004 + 4 * 0.0004) / 1000
    monthly = 0.08 - 0.0036 * (1 + 1000 * 32768 / GB) - 0.023 * 1000 * 8192 / GB
    assert found.cost_once == pytest.approx(once, abs=1e-9)
    assert found.saved_monthly == pytest.approx(monthly, abs=1e-9)
    assert found.payback_months == pytest.approx(once / monthly, abs=0.005)
    assert found.pays_off_in == "2026-12"


def test_a_plan_that_only_copies_never_pays_off() -> None:
    found = plan_cost([Move(uploads=GB)], DEFAULT_PRICES, NOW)
    assert (found.saved_monthly, found.payback_months, found.pays_off_in) == (-0.023, None, None)
    assert plan_cost([], DEFAULT_PRICES, NOW) == PlanCost(0, 0.0, 0.0, None, None)


def test_a_removal_before_the_minimum_duration_is_billed_for_the_rest() -> None:
    early = Move(removes=GB, stored_for=10 * 86400, storage_class="STANDARD_IA")
    found = plan_cost([early], DEFAULT_PRICES, NOW)
    assert found.cost_once == pytest.approx(0.0125 * 20 / 30, abs=1e-9)
    late = plan_cost([replace(early, stored_for=31 * 86400)], DEFAULT_PRICES, NOW)
    assert late.cost_once == 0
    assert late.saved_monthly == 0.0125


def test_months_are_those_of_utc() -> None:
    assert month_of(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC).timestamp()) == "2026-11"
    assert month_of(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) == "2026-12"


def test_prices_are_those_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "takhin.yaml"
    file.write_text(
        "storage:\n  data.dir: /data\n  tiered:\n    prices:\n      disk: 0.1\n      storage: {STANDARD: 0.02}\n"
        "      minimum: {days: 0, bytes: {STANDARD_IA: 1000}}\n      put: 0.001\n"
    )
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_PRICES_GET", "STANDARD=0.5,GARNET=0.25")
    prices = Settings.load(file).prices
    assert prices.disk == Decimal("0.1")
    assert prices.of("").storage == Decimal("0.02")
    assert prices.of("STANDARD_IA").storage == Decimal("0.0125")
    assert (prices.of("STANDARD_IA").minimum_days, prices.of("STANDARD_IA").minimum_bytes) == (0, 1000)
    assert {each.put for each in prices.classes.values()} == {Decimal("0.001")}
    assert (prices.of("").get, prices.of("GARNET").get) == (Decimal("0.5"), Decimal("0.25"))
    # A class of which nothing is known costs what STANDARD costs.
    assert prices.of("BERYL") == prices.of("STANDARD")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("disk", "-1"),
        ("storage", "STANDARD=-1"),
        ("storage", "standard=1"),
        ("storage", "STANDARD"),
        ("put", "{}"),
        ("transfer", "moon"),
    ],
)
def test_wrong_prices_are_refused(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKHIN_STORAGE_DATA_DIR", "/data")
    monkeypatch.setenv(f"TAKHIN_STORAGE_TIERED_PRICES_{key.upper()}", value)
    with pytest.raises(ConfigError, match=rf"prices\.{key} "):
        Settings.load()


def test_the_defaults_are_aws_in_the_region() -> None:
    assert Settings(data_dir="/data").prices == DEFAULT_PRICES
    assert DEFAULT_PRICES.egress == 0
