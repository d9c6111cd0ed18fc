"""A store that is down: since when, counted how often, and what ends it. The store is a port that refuses."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from takhin_tiered import StoreUnavailable, TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from tests.support import Broker, Bucket, daemon, free_port, ministack, store_settings, wait_until

pytestmark = pytest.mark.long


def value(storage: TieredStorage, name: str, **labels: str) -> float:
    return storage.metrics.registry.get_sample_value(f"tiered_storage_{name}", labels) or 0.0


def errors_of(storage: TieredStorage) -> float:
    return value(storage, "store_errors_total", code="store_unavailable")


async def test_a_failed_archive_on_a_dead_store_is_one_outage(broker: Broker) -> None:
    first, second = broker.segments("orders-0", 2)
    port = free_port()
    bucket = Bucket(f"http://127.0.0.1:{port}", "late-bucket")
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        app = make_app(storage, lambda: {"store": storage.store_trouble()}, Tokens(storage.settings))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:

            async def archive(path: str) -> httpx.Response:
                return await client.post("/api/v1/tiered/archive", json={"segment_path": path})

            refused = await archive(first)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            since = value(storage, "store_down_since_timestamp_seconds")
            assert since > 0
            assert (value(storage, "store_up"), errors_of(storage)) == (0, 1)
            assert value(storage, "archive_operations_total", result="failure") == 1
            assert f"127.0.0.1:{port}" in storage.segment(first).last_failure

            # Each attempt fails, and it is one outage all the same.
            assert (await archive(second)).status_code == 503
            with pytest.raises(StoreUnavailable):
                await storage.run_cycle()
            await storage.check_store()
            # What needs no store says nothing of it.
            await storage.plan()
            assert storage.segment(first).state == "local"
            assert (await client.get("/api/v1/tiered/segments")).status_code == 200
            assert value(storage, "archive_operations_total", result="failure") == 2
            assert (value(storage, "store_up"), errors_of(storage)) == (0, 1)
            assert value(storage, "store_down_since_timestamp_seconds") == since
            status = storage.status()
            assert (status.store_reachable, status.store_down_since is None) == (False, False)

            with ministack(port):
                bucket.client.create_bucket(Bucket=bucket.name)
                assert (await archive(first)).status_code == 200
                assert (value(storage, "store_up"), errors_of(storage)) == (1, 1)
                assert value(storage, "store_down_since_timestamp_seconds") == 0
                found = storage.segment(first)
                assert (found.last_failure, found.in_archive) == ("", True)
                assert storage.status().store_down_since is None

            # The next outage has a beginning of its own, and counts once more.
            assert (await archive(second)).status_code == 503
            assert value(storage, "store_down_since_timestamp_seconds") > since
            assert errors_of(storage) == 2
    bucket.close()


def test_a_daemon_tells_since_when_its_store_is_down(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    bucket = Bucket(f"http://127.0.0.1:{free_port()}", "nowhere")
    with daemon(store_settings(broker, bucket), tmp_path / "log") as running:
        running.wait_serving()
        running.wait_logged("the cycle could not run")

        def metrics() -> dict[str, str]:
            lines = running.request("GET", "/metrics").text.splitlines()
            return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

        before = metrics()
        since = before["tiered_storage_store_down_since_timestamp_seconds"]
        assert float(since) > 0
        for path in closed:
            answer = running.request("POST", "/api/v1/tiered/archive", json={"segment_path": path})
            assert answer.status_code == 503
        # Its cycle is tried again, and its store asked, meanwhile.
        wait_until(lambda: (tmp_path / "log").read_text().count("the cycle could not run") >= 2, what="a second cycle")
        after = metrics()
        assert after["tiered_storage_store_down_since_timestamp_seconds"] == since
        assert after['tiered_storage_store_errors_total{code="store_unavailable"}'] == "1.0"
        assert after['tiered_storage_archive_operations_total{result="failure"}'] == "2.0"
        assert after["tiered_storage_store_up"] == "0.0"
        assert (tmp_path / "log").read_text().count("the store is down") == 1
        told = running.request("GET", "/api/v1/tiered/status").json()["store_down_since"]
        assert told in running.request("GET", "/readyz").json()["checks"]["store"]
    assert all(broker.is_whole(path) for path in closed)
    bucket.close()
