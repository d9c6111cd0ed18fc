"""Cost through the façade and the API: real bytes and requests, and a restore budget that holds over restarts."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest

from takhin_tiered import OverBudget, Settings, TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config_limits import TopicOverride
from takhin_tiered.cost.usage import Kind, Purpose
from takhin_tiered.engine import costing
from takhin_tiered.reader.query import RecordQuery
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.classes import Walk
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb
from tests.support import (
    COLD,
    HOUR,
    WARM,
    AtPoint,
    Broker,
    Bucket,
    command,
    daemon,
    directory_settings,
    parts,
    pass_time,
    store_settings,
)

GB = 10**9
NOVEMBER = datetime(2026, 11, 30, 23, tzinfo=UTC).timestamp()
DEAR = {"STANDARD": 1.0}


def requests_of(storage: TieredStorage, purpose: Purpose) -> dict[str, int]:
    return {kind: count for (why, _, kind), count in storage.spending.usage.requests.items() if why == purpose}


def received(storage: TieredStorage, purpose: Purpose) -> int:
    return sum(count for (why, _), count in storage.spending.usage.received.items() if why == purpose)


def stored_bytes(root: Path) -> int:
    """What stands in a directory store for segments, by the file system's own word."""
    return sum(path.stat().st_size for path in root.rglob("0*") if path.is_file() and path.suffix != ".json")


async def test_cost_is_of_the_bytes_that_stand_there(broker: Broker, tmp_path: Path) -> None:
    store = tmp_path / "store"
    settings = directory_settings(broker, store, compression_codec="zstd", prices_disk=8e6, prices_storage=2e6)
    broker.segments("orders-0", 3)
    async with TieredStorage.open(settings) as storage:
        before, plain = storage.cost(), storage.stats().total_size_bytes
        assert before.cost_savings_pct == 0
        assert before.total_cost_monthly == pytest.approx(plain / GB * 8e6)
        await storage.run_cycle()
        found, local = storage.cost(), storage.stats().local_size_bytes
    stored = stored_bytes(store)
    assert 0 < stored < plain
    assert found.cold_storage_cost_monthly == pytest.approx(stored / GB * 2e6)
    assert found.hot_storage_cost_monthly == pytest.approx(local / GB * 8e6)
    assert found.all_local_cost_monthly == pytest.approx(plain / GB * 8e6)
    assert found.cost_savings_pct == pytest.approx(
        100 * (1 - found.total_cost_monthly / found.all_local_cost_monthly), abs=1e-4
    )
    assert [(each.storage_class, each.segments, each.bytes) for each in found.classes] == [("STANDARD", 3, stored)]


def known(
    partition: str, count: int, *, size: int = GB, age: float = COLD, days: float = 0, local: bool = False
) -> list[Segment]:
    """Archived segments of so many bytes each, last modified so many hours ago, and archived so many days ago."""
    modified_ns = int((time.time() - age * HOUR) * 1e9)
    archive = Archive(1, size, modified_ns, time.time() - days * 24 * HOUR)
    files = LocalFiles(FileStat(size, modified_ns, 1)) if local else NO_FILES
    first, topic = int(age) << 20, partition.removesuffix("-0")
    return [Segment(SegmentId(topic, 0, first + number), local=files, archive=archive) for number in range(count)]


def learn(storage: TieredStorage, *segments: list[Segment]) -> None:
    for each in chain(*segments):
        parts(storage).catalog.put(each)


def monthly(storage: TieredStorage) -> dict[str, tuple[int, float]]:
    """By class: the number of segments, and dollars, to the cent."""
    return {each.storage_class: (each.segments, round(each.cost_monthly, 2)) for each in storage.cost().classes}


CLASSES: dict[str, Any] = {
    "warm_copy": True,
    "s3_class_warm": "ONEZONE_IA",
    "s3_class_cold": "STANDARD_IA",
    "topics_overrides": {"ledger": TopicOverride(s3_class_cold="GLACIER")},
}


async def test_each_segment_costs_what_its_class_costs_by_hand(broker: Broker, tmp_path: Path) -> None:
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store", **CLASSES)) as storage:
        assert storage.cost().classes == ()
        learn(storage, known("orders-0", 100), known("orders-0", 20, age=WARM, local=True), known("ledger-0", 50))
        learn(storage, known("small-0", 10_000, size=100_000))
        assert monthly(storage) == {
            "STANDARD_IA": (100, 1.25),  # 100 GB at 0.0125
            "ONEZONE_IA": (20, 0.20),  # 20 GB at 0.01
            "GLACIER": (50, 0.18),  # 50 GB at 0.0036
            "STANDARD": (10_000, 0.02),  # 1 GB at 0.023, and nothing to a minimum size
        }
        found = storage.cost()
        assert found.cold_storage_gb == 171
        assert found.hot_storage_cost_monthly == 1.60  # 20 GB at 0.08
        assert round(found.cold_storage_cost_monthly, 2) == 1.65
        assert found.cold_storage_cost_monthly == pytest.approx(
            1.25 + 0.20 + 0.023 + 0.0036 * (50 + 50 * 32768 / GB) + 0.023 * 50 * 8192 / GB, abs=1e-9
        )
        # Later the copies are cold, and in the class of cold ones once they were changed to it.
        pass_time(storage, lambda: 100 * HOUR)
        assert monthly(storage)["ONEZONE_IA"] == (20, 0.20)
        began = parts(storage).clock.now()
        for walk, changed in ((Walk(began - 99 * HOUR, GB), 0), (Walk(began, GB - 1), 0), (Walk(began, GB), 20)):
            await storage.spending.walks.note("ONEZONE_IA", "STANDARD_IA", walk)
            assert monthly(storage)["STANDARD_IA"][0] == 100 + changed
        assert monthly(storage)["STANDARD_IA"] == (120, 1.50)
        # A restore takes the log out of its topic's class, and a small one out of STANDARD.
        for topic, size, dollars in (("orders", GB, 0.01), ("ledger", GB, 0.01), ("small", 100_000, 0)):
            (segment,) = known(f"{topic}-0", 1, size=size)
            assert round(storage.quote_restore([segment]).cost, 3) == dollars
    # It outlives the process.
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store", **CLASSES)) as storage:
        pass_time(storage, lambda: 100 * HOUR)
        assert storage.spending.walks.of(storage.spending.policy.of("orders")) == Walk(began, GB)


@pytest.mark.parametrize(("copies", "storage_class"), [(True, "ONEZONE_IA"), (False, "STANDARD")])
async def test_without_a_class_of_cold_ones_warm_copies_stay_in_theirs(
    broker: Broker, tmp_path: Path, copies: bool, storage_class: str
) -> None:
    settings = directory_settings(broker, tmp_path / "store", s3_class_warm="ONEZONE_IA", warm_copy=copies)
    async with TieredStorage.open(settings) as storage:
        # Archived four days ago, and warm then.
        learn(storage, known("orders-0", 100, days=4 if copies else 0))
        assert monthly(storage) == {storage_class: (100, {"ONEZONE_IA": 1.00, "STANDARD": 2.30}[storage_class])}


async def test_a_larger_minimum_size_of_a_class_is_counted(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimum = {"STANDARD_IA": 1 << 20}
    settings = directory_settings(broker, tmp_path / "store", s3_class_cold="STANDARD_IA", prices_minimum_bytes=minimum)
    async with TieredStorage.open(settings) as storage:
        learn(storage, known("orders-0", 3, size=200_000), known("small-0", 1, size=1000))
        small, found = sorted(storage.cost().classes, key=lambda each: each.segments)
        assert (found.storage_class, found.segments, found.billed_bytes) == ("STANDARD_IA", 3, 3 << 20)
        assert (small.storage_class, small.segments, small.billed_bytes) == ("STANDARD", 1, 1000)
        # Where there are many, they are looked through in a thread, and what was found last is told.
        monkeypatch.setattr(costing, "_MANY", 2)
        learn(storage, known("payments-0", 1, size=200_000))
        assert monthly(storage)["STANDARD_IA"][0] == 3
        await storage.refresh_cost()
        assert monthly(storage)["STANDARD_IA"][0] == 4
        # New rules are not mixed with what was found by others.
        storage.apply(storage.settings.model_copy(update={"s3_class_cold": "GLACIER_IR"}), KeyRing())
        assert monthly(storage)["GLACIER_IR"][0] == 4


async def test_a_plan_costs_by_the_class_of_each_topic_and_tier(broker: Broker, tmp_path: Path) -> None:
    def steps(verb: Verb, tier: Tier, segments: list[Segment], uploads: int = 0, frees: int = 0) -> list[Step]:
        return [Step(each.id, verb, "", tier, uploads, frees) for each in segments]

    async with TieredStorage.open(directory_settings(broker, tmp_path / "store", **CLASSES)) as storage:
        orders = steps(Verb.ARCHIVE, Tier.COLD, known("orders-0", 100), GB, GB)
        ledger = steps(Verb.ARCHIVE, Tier.COLD, known("ledger-0", 50), GB, GB)
        copies = steps(Verb.COPY, Tier.WARM, known("orders-0", 20, age=WARM), GB)
        small = steps(Verb.ARCHIVE, Tier.COLD, known("small-0", 1000), 100_000, 100_000)
        found = storage.plan_cost(Plan((*orders, *ledger, *copies, *small), time.time()))
        # The log in 62 requests of its class, or one; three PUT and four looks in STANDARD, a look at the log.
        assert found.cost_once == pytest.approx(
            (
                100 * (62 * 0.01 + 3 * 0.005 + 0.001 + 4 * 0.0004)
                + 50 * (62 * 0.03 + 3 * 0.005 + 0.0004 + 4 * 0.0004)
                + 20 * (62 * 0.01 + 3 * 0.005 + 0.001 + 4 * 0.0004)
                + 1000 * (4 * 0.005 + 5 * 0.0004)
                # The change of class: copies as many as uploads, the manifest, two looks before, and one after.
                + 20 * (62 * 0.01 + 0.0004 + 2 * 0.001 + 0.001)
            )
            / 1000
            # After 4 days, of 30 that are billed at least: 20 GB at 0.01 for 26 days.
            + 20 * 0.01 * 26 / 30,
            abs=1e-9,
        )
        # 150.1 GB at 0.08 leave the disk, and 1.25, 0.18, 0.20 and 0.0023 come in the store.
        assert round(found.saved_monthly, 2) == round(12.008 - 1.25 - 0.18 - 0.20 - 0.0023, 2) == 10.38
        # 30 of the 90 days are over.
        expired = known("ledger-0", 10, age=1000, days=30)
        learn(storage, expired)
        found = storage.plan_cost(Plan((*steps(Verb.EXPIRE, Tier.COLD, expired),), time.time()))
        assert found.cost_once == pytest.approx(10 * 0.0036 * 2, abs=1e-6)
        assert found.saved_monthly == pytest.approx(10 * 0.0036, abs=1e-5)


@pytest.mark.long
async def test_a_plan_foretells_the_requests_of_its_segments(broker: Broker, bucket: Bucket) -> None:
    """What a cycle asks besides, of the prefix, is the same without segments to move."""
    settings = store_settings(broker, bucket)

    async def cycle(storage: TieredStorage) -> int:
        before = sum(storage.spending.usage.requests.values())
        await storage.run_cycle()
        return sum(storage.spending.usage.requests.values()) - before

    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        idle = await cycle(storage)
        broker.segments("orders-0", 4)
        foretold = storage.plan_cost(await storage.plan())
        assert foretold.requests == 4 * 9
        # Segments of a batch share a request or two.
        assert foretold.requests - 2 <= await cycle(storage) - idle <= foretold.requests


@pytest.mark.long
async def test_requests_are_those_that_a_server_answers(broker: Broker, bucket: Bucket) -> None:
    path = broker.segments("orders-0", 1)[0]
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        uploads = requests_of(storage, Purpose.OTHER)
        # Its three files and the manifest, and what belongs to the prefix.
        assert uploads[Kind.PUT] >= 4
        assert uploads[Kind.LIST] >= 1
        assert requests_of(storage, Purpose.RESTORE) == {}
        size = storage.segment(path).archived_size_bytes
        await storage.restore_segment(path)
        # The manifest, two indexes and the log.
        assert requests_of(storage, Purpose.RESTORE) == {Kind.GET: 4}
        manifest = bucket.manifests()[0]
        assert received(storage, Purpose.RESTORE) == size + len(bucket.read(manifest))
        storage.update_metrics()
        metrics = storage.metrics.render().decode()
    puts = uploads[Kind.PUT]
    assert f'tiered_storage_store_requests_total{{kind="put"}} {puts}.0' in metrics
    assert 'tiered_storage_monthly_cost_dollars{tier="cold"}' in metrics


async def test_a_read_in_place_counts_what_it_took(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    async with TieredStorage.open(directory_settings(broker, tmp_path / "store")) as storage:
        await storage.run_cycle()
        assert received(storage, Purpose.READ) == 0
        await storage.read_records(RecordQuery("orders", 0, offset=0), 1)
        async with asyncio.timeout(10):
            # The records are there before the request for their bytes has ended, and is counted.
            while not received(storage, Purpose.READ):
                await asyncio.sleep(0.01)
        assert received(storage, Purpose.RESTORE) == 0
        assert storage.cost().restore_budget.spent > 0


async def test_a_restore_over_the_budget_is_refused_before_a_byte_is_read(broker: Broker, tmp_path: Path) -> None:
    """A dollar for each GB: a segment of 27 kB costs 0.000027 dollars, and there are 0.00007."""
    closed = broker.segments("orders-0", 4)
    settings = directory_settings(
        broker, tmp_path / "store", prices_retrieval=DEAR, prices_get=0, budget_restore_monthly=0.00007
    )
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        size = storage.segment(closed[0]).archived_size_bytes
        quote = storage.quote_restore((await storage.choose_restore(Wanted((closed[0],)))).segments)
        assert quote.cost == pytest.approx(size / GB)
        assert (quote.budget_left, quote.over_budget) == (0.00007, False)
        await storage.restore_segment(closed[0])
        await storage.restore_segment(closed[1])
        before = received(storage, Purpose.RESTORE)
        told = r"is not restored: it would cost about \$0.000027, and \$0.0000\d+ of the budget of .*--over-budget"
        with pytest.raises(OverBudget, match=told):
            await storage.restore_segment(closed[2])
        assert received(storage, Purpose.RESTORE) == before
        assert broker.on_disk(closed[2]) == []
        # What is refused is no failure of the segment.
        assert storage.segment(closed[2]).problem == ""
        # What is on the disk costs nothing, and its lease may be renewed.
        await storage.restore_segment(closed[0])
        assert storage.quote_restore((await storage.choose_restore(Wanted(("orders-0",)))).segments).over_budget
    # After a restart the month is as it was.
    async with TieredStorage.open(settings) as storage:
        assert storage.cost().restore_budget.spent == pytest.approx(before / GB)
        with pytest.raises(OverBudget):
            await storage.restore_segment(closed[2])
        await storage.restore_segment(closed[2], over_budget=True)
        assert broker.is_whole(closed[2])
        assert (storage.cost().restore_budget.left or 0) < 0


async def test_what_a_topic_costs_depends_on_its_own_class(broker: Broker, tmp_path: Path) -> None:
    (dear,), (cheap,) = (broker.segments(f"{topic}-0", 1, size=200_000) for topic in ("dear", "cheap"))
    settings = directory_settings(
        broker,
        tmp_path / "store",
        prices_retrieval={"GLACIER_IR": 1.0},
        prices_get=0,
        budget_restore_monthly=0.00001,
        topics_overrides={"dear": TopicOverride(s3_class_cold="GLACIER_IR")},
    )
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        with pytest.raises(OverBudget):
            await storage.restore_segment(dear)
        await storage.restore_segment(cheap)
        assert broker.on_disk(dear) == []
        assert broker.is_whole(cheap)
    # The general class may be set while the daemon runs.
    async with TieredStorage.open(settings.model_copy(update={"topics_overrides": {}})) as storage:
        changed = storage.settings.model_copy(update={"s3_class_cold": "GLACIER_IR"})
        storage.apply(changed, KeyRing())
        with pytest.raises(OverBudget):
            await storage.restore_segment(dear)


async def test_the_budget_begins_anew_with_the_month(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 3)
    settings = directory_settings(
        broker, tmp_path / "store", prices_retrieval=DEAR, prices_get=0, budget_restore_monthly=0.00003
    )
    async with TieredStorage.open(settings) as storage:
        storage.spending._counter.clock = lambda: NOVEMBER
        await storage.run_cycle()
        await storage.restore_segment(closed[0])
        with pytest.raises(OverBudget, match=r"for 2026-11 \(UTC\)"):
            await storage.restore_segment(closed[1])
        storage.spending._counter.clock = lambda: NOVEMBER + 3600
        assert (storage.cost().month, storage.cost().restore_budget.spent) == ("2026-12", 0)
        await storage.restore_segment(closed[1])
        with pytest.raises(OverBudget, match=r"for 2026-12 \(UTC\)"):
            await storage.restore_segment(closed[2])
        storage.spending._counter.clock = lambda: NOVEMBER
        # A clock that was set back finds what it counted.
        assert storage.cost().restore_budget.spent > 0


async def test_restores_at_the_same_time_share_the_budget(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 8)
    settings = directory_settings(
        broker, tmp_path / "store", prices_retrieval=DEAR, prices_get=0, budget_restore_monthly=0.00009
    )
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        size = storage.segment(closed[0]).archived_size_bytes
        results = await asyncio.gather(*map(storage.restore_segment, closed), return_exceptions=True)
        refused = [each for each in results if isinstance(each, OverBudget)]
        assert len(closed) - len(refused) == int(0.00009 // (size / GB))
        assert storage.cost().restore_budget.spent <= 0.00009


async def test_a_killed_restore_has_spent_its_estimate(
    broker: Broker, tmp_path: Path, at_point: AtPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broker.segments("orders-0", 1)[0]
    settings = directory_settings(
        broker, tmp_path / "store", prices_retrieval=DEAR, prices_get=0, budget_restore_monthly=0.00003
    )

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        estimate = storage.quote_restore((await storage.choose_restore(Wanted((path,)))).segments).cost
        hit = at_point("restore.log.downloaded", kill)
        with pytest.raises(Killed):
            await storage.restore_segment(path)
        assert hit

        async def nothing() -> None:
            """A process that was killed writes nothing more."""

        monkeypatch.setattr(storage.spending, "save", nothing)
    async with TieredStorage.open(settings) as storage:
        assert storage.cost().restore_budget.spent == estimate > 0
        with pytest.raises(OverBudget):
            await storage.restore_segment(path)


async def test_the_api_tells_cost_and_refuses(broker: Broker, tmp_path: Path) -> None:
    path = broker.segments("orders-0", 1)[0]
    settings = directory_settings(broker, tmp_path / "store", budget_restore_monthly=1e-9)
    async with TieredStorage.open(settings) as storage:
        app = make_app(storage, dict, Tokens(storage.settings))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            plan = (await client.post("/api/v1/tiered/plan")).json()
            assert plan["cost"]["saved_monthly"] == plan["saved_usd_monthly"] > 0
            assert plan["cost"]["pays_off_in"] is not None
            await storage.run_cycle()
            found = (await client.get("/api/v1/tiers/cost-analysis")).json()
            assert {
                "hot_storage_gb", "cold_storage_gb", "hot_storage_cost_monthly", "cold_storage_cost_monthly",
                "total_cost_monthly", "cost_savings_pct", "retrieval_cost_per_restore",
            } <= set(found)  # fmt: skip
            assert found["cold_storage_gb"] == storage.segment(path).archived_size_bytes / GB
            quote = (await client.post("/api/v1/tiered/restore/plan", json={"paths": [path]})).json()["cost"]
            assert quote["over_budget"]
            refused = await client.post("/api/v1/tiered/restore", json={"segment_path": path})
            assert (refused.status_code, refused.json()["code"]) == (409, "over_budget")
            done = await client.post("/api/v1/tiered/restore", json={"segment_path": path, "over_budget": True})
            assert done.status_code == 200


@pytest.mark.long
@pytest.mark.parametrize("held", [False, True])
def test_commands_tell_cost_and_refuse(broker: Broker, tmp_path: Path, held: bool) -> None:
    path = broker.segments("orders-0", 2)[0]
    settings = directory_settings(broker, tmp_path / "store", budget_restore_monthly=1e-9)
    assert command(settings, "run", "--once").returncode == 0

    def check() -> None:
        found = json.loads(command(settings, "cost", "--json").stdout)
        assert found["classes"][0]["segments"] == 2
        assert {each["kind"] for each in found["requests"]} == {"put", "list", "get", "delete", "thaw"}
        assert found["requests_cost"] > 0
        assert "Saved: $" in command(settings, "cost").stdout
        dry = command(settings, "restore", path, "-n")
        assert (dry.returncode, "and only $0.000000001" in dry.stdout) == (0, True)
        refused = command(settings, "restore", path)
        assert (refused.returncode, broker.on_disk(path)) == (1, [])
        assert "nothing is restored: it costs about $" in refused.stderr
        assert "--over-budget" in refused.stderr
        assert command(settings, "restore", path, "--over-budget").returncode == 0
        assert broker.is_whole(path)

    if not held:
        check()
        return
    with daemon(settings, tmp_path / "daemon.log") as running:
        running.wait_serving()
        check()


async def test_new_prices_and_a_new_budget_need_no_restart(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 1)
    settings = directory_settings(broker, tmp_path / "store")
    async with TieredStorage.open(settings) as storage:
        before = storage.cost()
        keys = storage._parts.codecs.keys
        storage.apply(Settings(**settings.model_dump() | {"prices_disk": 0.16, "budget_restore_monthly": 5.0}), keys)
        assert storage.cost().hot_storage_cost_monthly == pytest.approx(2 * before.hot_storage_cost_monthly)
        assert storage.cost().restore_budget.left == 5
