"""GLACIER on a server that has it: a read is refused at once, a restore requests, waits, and brings back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import RecordQuery, TieredStorage
from takhin_tiered.cost.usage import Kind, Purpose
from takhin_tiered.engine.restore import Restorer, ToRestore
from takhin_tiered.engine.retrieving import Progress
from takhin_tiered.errors import InGlacier, OverBudget, TakhinError
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import SegmentId
from tests.faults.proxy import proxy
from tests.integration.test_kafka_fetch import asked, handler, parts_of
from tests.support import HOUR, Broker, Bucket, Daemon, command, daemon, parts, pass_time, store_settings, wait_until

pytestmark = pytest.mark.long

LARGE = 200_000


async def freeze(bucket: Bucket, *keys: str, storage_class: str = "GLACIER") -> None:
    """As a lifecycle rule does."""
    for key in keys:
        full = f"{bucket.prefix}/{key}"
        source = f"{bucket.name}/{full}"
        bucket.client.copy_object(Bucket=bucket.name, Key=full, CopySource=source, StorageClass=storage_class)


def requests(bucket: Bucket, key: str) -> str | None:
    """What the server says of a retrieval."""
    found: str | None = bucket.client.head_object(Bucket=bucket.name, Key=f"{bucket.prefix}/{key}").get("Restore")
    return found


@pytest.fixture
async def frozen(broker: Broker, bucket: Bucket) -> list[str]:
    """Segments that were archived straight to GLACIER."""
    closed = broker.segments(count=2, size=LARGE)
    async with TieredStorage.open(store_settings(broker, bucket, s3_class_cold="GLACIER")) as storage:
        assert (await storage.run_cycle()).evicted == 2
    return closed


async def brought_back(storage: TieredStorage, count: int) -> None:
    async with asyncio.timeout(30):
        while count:
            count -= await storage.bring_back_retrieved()
            await asyncio.sleep(0.05)


async def test_requested_waited_for_and_restored(broker: Broker, bucket: Bucket, frozen: list[str]) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        with pytest.raises(InGlacier) as told:
            await storage.restore_segment(frozen[0], lease=7200)
        assert told.value.is_requested
        assert told.value.storage_class == "GLACIER"
        assert told.value.seconds == pytest.approx(5 * 3600, abs=60)
        assert "expected by" in str(told.value)
        info = storage.segment(frozen[0])
        assert (info.state, info.reason_code, info.problem) == ("archived", "requested", "")
        assert info.retrieval_requested_at is not None
        assert info.retrieval_expected_at is not None
        [waiting] = storage.status().requested
        assert (waiting.segment_path, waiting.storage_class) == (frozen[0], "GLACIER")
        assert requests(bucket, frozen[0]) == 'ongoing-request="true"'
        assert storage.spending.usage.requests[Purpose.RESTORE, "GLACIER", Kind.THAW] >= 1
        # Only what was asked for.
        assert requests(bucket, frozen[1]) is None
        # Once more changes nothing, and is told the same.
        with pytest.raises(InGlacier, match="it was requested at"):
            await storage.restore_segment(frozen[0])
        await brought_back(storage, 1)
        assert broker.is_whole(frozen[0])
        info = storage.segment(frozen[0])
        assert (info.reason_code, info.retrieval_requested_at) == ("leased", None)
        assert storage.status().requested_segments == 0
        assert not broker.on_disk(frozen[1])


async def test_a_promotion_requests_nothing_and_spends_nothing_of_its_budget(
    broker: Broker, bucket: Bucket, frozen: list[str]
) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        pass_time(storage, lambda: 2 * 24 * HOUR)
        for _ in range(40):
            storage.report_read(frozen[0], 100)
        done = await storage.evaluate_tiers()
        assert (done.promoted, done.failures, done.waiting) == ([], [], 1)
        assert requests(bucket, frozen[0]) is None
        assert storage._heating.budget.spent == []


@pytest.mark.long
async def test_the_budget_knows_the_class_that_a_lifecycle_rule_chose(broker: Broker, bucket: Bucket) -> None:
    """The settings name no class, whose retrieval costs nothing: what is requested costs all the same."""
    paths = broker.segments(count=2, size=LARGE)
    settings = store_settings(
        broker, bucket, budget_restore_monthly=0.0003, prices_retrieval={"GLACIER": 1.0}, prices_thaw=0, prices_get=0
    )
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        await freeze(bucket, *paths)
        with pytest.raises(InGlacier):
            await storage.restore_segment(paths[0])
        with pytest.raises(OverBudget):
            await storage.restore_segment(paths[1])
        with pytest.raises(OverBudget):
            await storage.request_retrieval(paths[1])
        assert requests(bucket, paths[1]) is None
        await brought_back(storage, 1)
        assert broker.is_whole(paths[0])


async def test_the_wait_survives_a_restart(broker: Broker, bucket: Bucket, frozen: list[str]) -> None:
    settings = store_settings(broker, bucket)
    async with TieredStorage.open(settings) as storage:
        with pytest.raises(InGlacier):
            await storage.restore_segment(frozen[1], lease=5000, by="somebody")
    async with TieredStorage.open(settings) as storage:
        assert storage.segment(frozen[1]).reason_code == "requested"
        await brought_back(storage, 1)
        info = storage.segment(frozen[1])
        assert (info.lease_by, info.reason_code) == ("somebody", "leased")
    assert broker.is_whole(frozen[1])
    async with TieredStorage.open(settings) as storage:
        assert storage.status().requested_segments == 0


async def test_a_cycle_brings_back_too(broker: Broker, bucket: Bucket, frozen: list[str]) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        with pytest.raises(InGlacier):
            await storage.restore_segment(frozen[0])
        wait_until(lambda: 'ongoing-request="false"' in (requests(bucket, frozen[0]) or ""), what="the retrieval")
        parts(storage).retriever._next_look.clear()
        await storage.run_cycle()
    assert broker.is_whole(frozen[0])


@pytest.mark.long
async def test_a_cycle_does_not_wait_for_what_is_being_brought_back(
    broker: Broker, bucket: Bucket, frozen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        for path in frozen:
            with pytest.raises(InGlacier):
                await storage.restore_segment(path)
        await until_readable(storage, frozen)
        begun, go_on = asyncio.Event(), asyncio.Event()
        real = Restorer.restore_together

        async def held(self: Restorer, wanted: Sequence[ToRestore]) -> list[Segment | TakhinError]:
            begun.set()
            await go_on.wait()
            return await real(self, wanted)

        monkeypatch.setattr(Restorer, "restore_together", held)
        bringing = asyncio.create_task(storage.bring_back_retrieved())
        await begun.wait()
        async with asyncio.timeout(20):
            await storage.run_cycle()
        assert not bringing.done()
        # One that is to stop begins no other.
        storage.stopping.set()
        go_on.set()
        assert await bringing == 1


async def until_readable(storage: TieredStorage, paths: list[str]) -> None:
    retriever = parts(storage).retriever
    async with asyncio.timeout(30):
        for path in paths:
            while await retriever.look(retriever.pending[SegmentId.parse(path)]) is not Progress.READABLE:
                await asyncio.sleep(0.05)
    retriever._next_look.clear()


async def test_every_read_says_so_at_once_and_requests_nothing(
    broker: Broker, bucket: Bucket, frozen: list[str]
) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage, asyncio.timeout(20):
        with pytest.raises(InGlacier) as told:
            await storage.read_records(RecordQuery("orders", 0, offset=0), 10)
        assert not told.value.is_requested
        assert told.value.seconds == 5 * 3600
        assert "takhin-tiered restore" in told.value.hint
        [data] = parts_of(await handler(storage)(asked((0, 0)), Client("here")))
        # The one error that every Kafka client shows, without asking again for ever.
        assert data.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
        # Nor does a restore that nobody asked for in person.
        wanted = ToRestore(SegmentId.parse(frozen[0]), may_request=False)
        with pytest.raises(InGlacier):
            await parts(storage).restores.restore(wanted)
        assert storage.segment(frozen[0]).problem == ""
        assert requests(bucket, frozen[0]) is None


async def test_verify_and_scrub_leave_it_out_and_say_so(broker: Broker, bucket: Bucket, frozen: list[str]) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        found = {verdict.id.path: verdict async for verdict in storage.verify(deep=True)}
        assert all(found[path].skipped and not found[path].problem for path in frozen)
        await storage.scrub()
        assert [storage.segment(path).quarantine for path in frozen] == ["", ""]
        # Without reading, size and checksum are compared as ever.
        assert [verdict.skipped async for verdict in storage.verify()] == ["", ""]
        bucket.delete(frozen[1])
        found = {verdict.id.path: verdict async for verdict in storage.verify(deep=True)}
        assert (bool(found[frozen[0]].problem), bool(found[frozen[1]].problem)) == (False, True)


async def test_a_manifest_in_glacier_is_retrieved_as_well(broker: Broker, bucket: Bucket, frozen: list[str]) -> None:
    manifest = frozen[0].removesuffix(".log") + ".manifest.json"
    await freeze(bucket, manifest, storage_class="DEEP_ARCHIVE")
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        with pytest.raises(InGlacier) as told:
            await storage.restore_segment(frozen[0])
        assert told.value.seconds == pytest.approx(12 * 3600, abs=60)
        assert requests(bucket, manifest) == 'ongoing-request="true"'
        await brought_back(storage, 1)
    assert broker.is_whole(frozen[0])


async def test_what_was_evicted_from_a_warm_copy_in_glacier_was_proven(broker: Broker, bucket: Bucket) -> None:
    """Its checksum is told without a retrieval."""
    [path] = broker.segments(count=1, age_hours=100, size=LARGE)
    settings = store_settings(broker, bucket, warm_copy=True, s3_class_warm="GLACIER", s3_class_cold="GLACIER")
    async with TieredStorage.open(settings) as storage:
        assert (await storage.run_cycle()).copied == 1
    async with TieredStorage.open(settings.model_copy(update={"cold_age_hours": 90.0})) as storage:
        assert (await storage.run_cycle()).evicted == 1
    bucket.delete(path)
    assert not broker.on_disk(path)


async def test_what_is_removed_or_restored_otherwise_is_waited_for_no_more(
    broker: Broker, bucket: Bucket, frozen: list[str]
) -> None:
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        for path in frozen:
            with pytest.raises(InGlacier):
                await storage.restore_segment(path)
        bucket.delete(frozen[0].removesuffix(".log") + ".manifest.json")
        for name in broker.triple(frozen[1]):
            (broker.root / name).parent.mkdir(exist_ok=True)
            (broker.root / name).write_bytes(broker.files[name])
        await storage.run_cycle()
        parts(storage).retriever._next_look.clear()
        assert await storage.bring_back_retrieved() == 0
        assert storage.status().requested_segments == 0


async def test_one_that_was_never_sent_is_sent_and_one_that_lapsed_is_given_up(
    broker: Broker, bucket: Bucket, frozen: list[str]
) -> None:
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(broker, bucket, s3_endpoint=between.endpoint)
        between.dialect = lambda _method, _path, query, _head: (503, "SlowDown") if "restore" in query else None
        async with TieredStorage.open(settings) as storage:
            with pytest.raises(Exception, match="SlowDown"):
                await storage.restore_segment(frozen[0])
            assert requests(bucket, frozen[0]) is None
            assert storage.status().requested_segments == 1
            between.dialect = lambda *_: None
            await brought_back(storage, 1)
            assert broker.is_whole(frozen[0])
            with pytest.raises(InGlacier):
                await storage.restore_segment(frozen[1])
            retriever, clock = parts(storage).retriever, parts(storage).clock
            await freeze(bucket, frozen[1])
            now = clock.wall()
            clock.wall = lambda: now + 10 * 86400
            retriever._next_look.clear()
            assert await storage.bring_back_retrieved() == 0
            assert storage.status().requested_segments == 0


def served(running: Daemon, path: str) -> dict[str, Any]:
    found: dict[str, Any] = running.request("GET", f"/api/v1/tiered/segments/{path}").json()
    return found


def test_the_daemon_answers_at_once_and_restores_later(
    broker: Broker, bucket: Bucket, frozen: list[str], tmp_path: Path
) -> None:
    settings = store_settings(broker, bucket)
    with daemon(settings, tmp_path / "log") as running:
        for path in (
            f"/api/v1/tiered/segments/{frozen[0]}/data",
            "/api/v1/tiered/records?topic=orders&partition=0&offset=0",
        ):
            answer = running.request("GET", path)
            assert (answer.status_code, answer.json()["code"]) == (409, "in_glacier"), path
            assert answer.json()["estimate_seconds"] == 5 * 3600
        read = command(settings, "read", "orders-0", "--offset", "0")
        assert read.returncode == 1
        assert "has to be retrieved" in read.stderr
        answer = running.request("POST", "/api/v1/tiered/restore", json={"segment_path": frozen[0]})
        assert (answer.status_code, answer.json()["code"]) == (409, "in_glacier")
        assert served(running, frozen[0])["reason_code"] == "requested"
        running.kill()
    with daemon(settings, tmp_path / "log") as running:
        wait_until(lambda: served(running, frozen[0])["state"] == "copied", what="the restore after a restart")
        assert running.stop() == 0
    assert broker.is_whole(frozen[0])


@pytest.mark.parametrize("with_daemon", [True, False])
def test_the_command_waits_and_shows_for_what(
    broker: Broker, bucket: Bucket, frozen: list[str], tmp_path: Path, with_daemon: bool
) -> None:
    settings = store_settings(broker, bucket)
    if with_daemon:
        with daemon(settings, tmp_path / "log") as running:
            running.wait_serving()
            restored = command(settings, "restore", "orders-0", "--wait")
    else:
        asked = command(settings, "restore", frozen[0], "--no-wait")
        assert asked.returncode == 0, asked.stderr
        assert "1 segment requested" in asked.stdout
        shown = command(settings, "status")
        assert "1 segment from GLACIER, to be restored" in " ".join(shown.stdout.split())
        assert "archived requested" in command(settings, "ls").stdout
        restored = command(settings, "restore", "orders-0", "--wait")
    assert restored.returncode == 0, restored.stderr
    assert "2 segments restored, 0 failed" in restored.stdout
    assert all(broker.is_whole(path) for path in frozen)


def test_verify_counts_what_it_does_not_read(broker: Broker, bucket: Bucket, frozen: list[str]) -> None:
    settings = store_settings(broker, bucket)
    found = command(settings, "verify", "--deep")
    assert found.returncode == 0, found.stdout
    assert f"{len(frozen)} segments in an archive class such as Glacier not read back" in " ".join(found.stdout.split())
    assert json.loads(command(settings, "verify", "--deep", "--json").stdout)["skipped"] == len(frozen)
