"""The HTTP API: endpoints, errors, paging, the token. In process; test_service.py has it over a socket."""

from __future__ import annotations

import asyncio
import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

import takhin_tiered
from takhin_tiered import TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.segments.results import PlanResult, RebuildResult, Status, from_json, to_json
from tests.support import WARM, Broker, Bucket, daemon, directory_settings, parts, store_settings, wait_until

PREFIX = "/api/v1/tiered"


@asynccontextmanager
async def serving(
    broker: Broker, store: Path, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, TieredStorage]]:
    async with TieredStorage.open(directory_settings(broker, store, **changes)) as storage:
        transport = httpx.ASGITransport(
            make_app(storage, lambda: {"catalog": "", "store": parts(storage).health.problem}, Tokens(storage.settings))
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client, storage


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in root.rglob("*.*")
        if path.is_file() and "takhin-tiered" not in str(path.relative_to(root))
    }


async def test_archive_look_restore(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store") as (client, _):
        for _ in range(2):
            done = await client.post(f"{PREFIX}/archive", json={"segment_path": path})
            assert (done.status_code, done.json()) == (
                200,
                {"status": "success", "message": "segment archived successfully"},
            )
        assert broker.on_disk(path) == []
        for form in (path, path.replace("/", "%2F")):
            one = (await client.get(f"{PREFIX}/segments/{form}")).json()
            assert (one["segment_path"], one["policy"], one["state"]) == (path, "warm", "archived")
            assert one["is_archived"] is True
            assert {"size_bytes", "base_offset", "last_modified"} <= set(one)
        stats = (await client.get(f"{PREFIX}/stats")).json()
        assert set(stats) == {
            "total_segments", "hot_segments", "warm_segments", "cold_segments", "archived_segments",
            "total_size_bytes", "local_size_bytes", "archived_size_bytes",
        }  # fmt: skip
        assert (stats["total_segments"], stats["archived_segments"]) == (3, 1)
        assert stats["total_size_bytes"] == stats["local_size_bytes"] + stats["archived_size_bytes"]
        for _ in range(2):
            done = await client.post(f"{PREFIX}/restore", json={"segment_path": path})
            assert (done.status_code, done.json()["message"]) == (200, "segment restored successfully")
    assert broker.is_whole(path)


async def test_segments_come_in_pages_and_by_filter(broker: Broker, tmp_path: Path) -> None:
    orders = broker.segments("orders-0", 4) + broker.segments("orders-10", 2)
    broker.segments("audit-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store") as (client, storage):
        await storage.run_cycle()
        found: list[str] = []
        cursor: str | None = None
        while True:
            query: dict[str, str | int] = {"limit": 4, **({"cursor": cursor} if cursor else {})}
            page = (await client.get(f"{PREFIX}/segments", params=query)).json()
            assert len(page["segments"]) <= 4
            found += [segment["segment_path"] for segment in page["segments"]]
            if (cursor := page["next_cursor"]) is None:
                break
        partitions = list(dict.fromkeys(path.split("/")[0] for path in found))
        assert partitions == ["audit-0", "orders-0", "orders-10"]
        assert len(found) == len(set(found)) == 11

        async def paths(**query: str) -> list[str]:
            answer = await client.get(f"{PREFIX}/segments", params=query)
            return [segment["segment_path"] for segment in answer.json()["segments"]]

        assert await paths(state="archived") == orders
        assert len(await paths(topic="audit")) == 3
        assert len(await paths(tier="warm")) == 2
        assert await paths(topic="orders", tier="cold", state="local") == []


async def test_the_plan_is_what_the_cycle_does(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store") as (client, storage):
        before = snapshot(tmp_path)
        plan = (await client.post(f"{PREFIX}/plan")).json()
        assert snapshot(tmp_path) == before
        planned = [step["segment_path"] for step in plan["segments"] if step["action"] == "archive"]
        assert planned == closed
        report = await storage.run_cycle()
        assert plan["bytes_freed"] == report.bytes_freed


BAD_PATHS = [
    "../../etc/passwd",
    "/etc/passwd",
    "orders-0/../../x.log",
    "a\0b",
    "x" * 10_240,
    "",
    "orders-0",
    "orders-0/1.log",
    "orders-00/00000000000000000000.log",
    "orders-0/00000000000000000000.index",
]


@pytest.mark.parametrize("verb", ["archive", "restore"])
async def test_bad_input_is_refused_and_nothing_is_touched(broker: Broker, tmp_path: Path, verb: str) -> None:
    broker.segments("orders-0", 1)
    active = broker.segment("orders-0")
    async with serving(broker, tmp_path / "store") as (client, _):
        before = snapshot(tmp_path)
        expected: list[tuple[dict[str, Any], int]] = [({"json": {"segment_path": path}}, 400) for path in BAD_PATHS]
        expected += [
            ({"json": {"segment_path": "unknown-0/00000000000000000000.log"}}, 404),
            ({"json": {"segment_path": active}}, 409),
            ({"content": b"not json", "headers": {"content-type": "application/json"}}, 400),
            ({"content": b"\xff" * 10_240}, 400),
            ({"json": {"segment_path": 7}}, 400),
            ({"json": {}}, 400),
            ({"json": []}, 400),
            ({"content": b"x" * 100_000}, 413),
        ]
        for request, status in expected:
            answer = await client.post(f"{PREFIX}/{verb}", **request)
            assert answer.status_code == status, (request, answer.text)
            assert set(answer.json()) == {"error", "code", "correlation_id"}
            assert answer.headers["X-Correlation-ID"] == answer.json()["correlation_id"]
        for path in ("..%2F..%2Fetc%2Fpasswd", "%00", "x" * 9000):
            assert (await client.get(f"{PREFIX}/segments/{path}")).status_code == 400
        assert (await client.get(f"{PREFIX}/segments/unknown-0/00000000000000000000.log")).status_code == 404
        assert (await client.get(f"{PREFIX}/segments?limit=0")).status_code == 400
        assert (await client.get(f"{PREFIX}/segments?tier=lukewarm")).status_code == 400
        assert (await client.get(f"{PREFIX}/segments?cursor=zzz")).status_code == 400
        for method, path, status in (("GET", "/nowhere", 404), ("GET", f"{PREFIX}/archive", 405)):
            answer = await client.request(method, path)
            assert (answer.status_code, set(answer.json())) == (status, {"error", "code", "correlation_id"})
        assert snapshot(tmp_path) == before


async def test_the_token_guards_all_but_health(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", api_token="secret") as (client, _):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code != 401
            # Some load balancers probe so.
            assert (await client.head(path)).status_code == (await client.get(path)).status_code
        for path in (f"{PREFIX}/stats", f"{PREFIX}/segments", "/docs/nothing", "/nowhere"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "secret"},
                {"Authorization": "Basic secret"},
            ):
                answer = await client.get(path, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
                assert "storage.tiered.api.token" in answer.json()["error"]
                assert "TAKHIN_STORAGE_TIERED_API_TOKEN" in answer.json()["error"]
        good = await client.get(f"{PREFIX}/stats", headers={"Authorization": "Bearer secret"})
        assert good.status_code == 200


async def test_a_token_for_reading_may_do_nothing_that_changes(broker: Broker, tmp_path: Path) -> None:
    """Of all endpoints that there are."""
    (path, *_) = broker.segments("orders-0", 1)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"read {'r' * 32}\nadmin {'a' * 32}\n")
    tokens.chmod(0o600)
    reading = {"Authorization": f"Bearer {'r' * 32}"}
    async with serving(broker, tmp_path / "store", api_tokens_file=tokens) as (client, _):
        document = (await client.get("/openapi.json")).json()
        refused = set()
        for endpoint, methods in document["paths"].items():
            for method in methods:
                target = endpoint.replace("{segment_path}", path)
                answer = await client.request(method, target, headers=reading, json={"segment_path": path})
                if answer.status_code == 403:
                    assert answer.json()["code"] == "forbidden"
                    refused.add((method, endpoint))
                else:
                    assert answer.status_code != 401
                    assert method in {"get", "head"} or endpoint in {f"{PREFIX}/plan", f"{PREFIX}/restore/plan"}
        posts = {("post", f"{PREFIX}/{name}") for name in ("archive", "restore", "scrub", "verify", "rebuild", "rekey")}
        assert refused >= posts
        assert broker.is_whole(path)


async def test_the_documentation_opens_without_a_token_and_loads_nothing_from_elsewhere(
    broker: Broker, tmp_path: Path
) -> None:
    async with serving(broker, tmp_path / "store", api_token="secret") as (client, _):
        page = await client.get("/docs")
        assert page.status_code == 200
        loaded = re.findall(r"""(?:src|href)=["']([^"']+)|url: '([^']+)'""", page.text)
        addresses = [first or second for first, second in loaded]
        assert len(addresses) >= 4
        assert all(address.startswith("/") and not address.startswith("//") for address in addresses)
        for address in addresses:
            answer = await client.get(address)
            assert answer.status_code == 200
            assert len(answer.content) > 1000
        assert (await client.get("/docs/assets/../../pyproject.toml")).status_code in {401, 404}
        assert (await client.get("/docs/assets/%2e%2e/%2e%2e/__init__.py")).status_code in {401, 404}


async def test_what_is_refused_stands_in_the_log_under_the_id_of_the_answer(broker: Broker, tmp_path: Path) -> None:
    (path, *_) = broker.segments("orders-0", 1)
    async with serving(broker, tmp_path / "store", api_token="secret") as (client, _):
        good = {"Authorization": "Bearer secret"}
        (tmp_path / "store").rename(tmp_path / "away")
        for method, target, headers, body, status in (
            ("GET", f"{PREFIX}/stats", {}, None, 401),
            ("POST", f"{PREFIX}/archive", good, {"segment_path": "no path"}, 400),
            ("POST", f"{PREFIX}/archive", good, {"wrong": 1}, 400),
            ("GET", f"{PREFIX}/segments/orders-9/00000000000000000000.log", good, None, 404),
            ("GET", f"{PREFIX}/archive", good, None, 405),
            ("POST", f"{PREFIX}/archive", good, {"segment_path": path}, 503),
        ):
            with capture_logs([structlog.contextvars.merge_contextvars]) as logged:
                answer = await client.request(method, target, headers=headers, json=body)
            assert answer.status_code == status
            body = answer.json()
            lines = [line for line in logged if line["event"] in {"request refused", "request failed"}]
            assert [(line["status"], line["code"], line["error"]) for line in lines] == [
                (status, body["code"], body["error"])
            ]
            assert lines[0]["correlation_id"] == body["correlation_id"] == answer.headers["X-Correlation-ID"]
            assert (lines[0]["method"], lines[0]["path"]) == (method, target)
            assert lines[0]["log_level"] == ("error" if status >= 500 else "warning")


async def test_metrics_tell_the_build_and_the_process_and_have_their_form(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store") as (client, _):
        text = (await client.get("/metrics")).text
    python = platform.python_version()
    assert f'tiered_storage_build_info{{python="{python}",version="{takhin_tiered.__version__}"}} 1.0' in text
    assert re.search(r"^process_resident_memory_bytes [0-9.e+]+$", text, re.MULTILINE)
    assert re.search(r"^process_open_fds [0-9.]+$", text, re.MULTILINE)
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # Two gauges keep the names that dashboards use.
    known = ("tiered_storage_segments_total", "tiered_storage_archived_segments_total")
    output = (checked.stdout + checked.stderr).splitlines()
    assert [line for line in output if line and not line.startswith(known)] == []


async def test_ready_only_when_every_check_passes(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store") as (client, storage):
        assert (await client.get("/readyz")).status_code == 503
        await storage.check_store()
        assert (await client.get("/readyz")).json() == {"status": "ready", "checks": {"catalog": "ok", "store": "ok"}}
        (tmp_path / "store").rename(tmp_path / "gone")
        await storage.check_store()
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "is not there" in answer.json()["checks"]["store"]
        path = broker.segments("orders-0", 1)[0]
        refused = await client.post(f"{PREFIX}/archive", json={"segment_path": path})
        assert (refused.status_code, refused.json()["code"]) == (503, "bucket_missing")
        assert broker.is_whole(path)


async def test_metrics_have_the_names_that_dashboards_know(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store") as (client, storage):
        await storage.run_cycle()
        text = (await client.get("/metrics")).text
        for line in (
            'tiered_storage_segments_total{policy="cold"} 2.0',
            'tiered_storage_segments_total{policy="hot"} 1.0',
            "tiered_storage_archived_segments_total 2.0",
            'tiered_storage_archive_operations_total{result="success"} 2.0',
            'tiered_storage_archive_operations_total{result="failure"} 0.0',
            'tiered_storage_restore_operations_total{result="success"} 0.0',
            "tiered_storage_s3_bytes_downloaded_total 0.0",
        ):
            assert line in text.splitlines()
        assert "tiered_storage_s3_bytes_uploaded_total" in text
        assert (await client.get("/openapi.json")).json()["info"]["title"] == "Takhin Tiered"
        assert (await client.get("/docs")).status_code == 200


@pytest.mark.long
async def test_answers_come_while_segments_move(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    """200 requests a second, a running archive, ten restores of one segment: one download, and no error."""
    for number in range(3):
        broker.segments(f"orders-{number}", 15, size=300_000)
    (wanted,) = broker.segments("wanted-0", 1, size=1_000_000)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.archive_segment(wanted)
    with daemon(store_settings(broker, bucket), tmp_path / "log") as running:
        base = running.wait_serving()
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(base_url=base, timeout=60, trust_env=False, limits=limits) as client:
            took: list[float] = []

            async def ask() -> None:
                started = time.perf_counter()
                answer = await client.get(f"{PREFIX}/stats")
                took.append(time.perf_counter() - started)
                assert answer.status_code == 200

            async def restore() -> None:
                answer = await client.post(f"{PREFIX}/restore", json={"segment_path": wanted})
                assert answer.status_code == 200

            started = time.perf_counter()
            tasks = [asyncio.create_task(restore()) for _ in range(10)]
            for number in range(600):
                tasks.append(asyncio.create_task(ask()))
                await asyncio.sleep(max(0.0, started + number / 200 - time.perf_counter()))
            await asyncio.gather(*tasks)
        took.sort()
        print(f"p50 {took[300] * 1000:.1f} ms, p99 {took[594] * 1000:.1f} ms")
        metrics = running.request("GET", "/metrics").text
        assert "tiered_storage_cache_misses_total 1.0" in metrics
        assert "tiered_storage_cache_hits_total 9.0" in metrics
        size = sum(len(broker.files[name]) for name in broker.triple(wanted))
        downloaded = next(line for line in metrics.splitlines() if line.startswith("tiered_storage_s3_bytes_down"))
        assert float(downloaded.split()[1]) == size
        wait_until(lambda: len(bucket.manifests()) == 46)
    assert broker.is_whole(wanted)


async def test_the_document_has_the_form_of_each_answer(broker: Broker, tmp_path: Path) -> None:
    """And what is answered is of that form: the very fields that it names."""
    broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store") as (client, storage):
        await storage.run_cycle()
        document = (await client.get("/openapi.json")).json()

        def form(method: str, endpoint: str) -> dict[str, Any]:
            answer = document["paths"][f"{PREFIX}/{endpoint}"][method]["responses"]["200"]
            name = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            found: dict[str, Any] = document["components"]["schemas"][name]
            return found

        for method, endpoint, kind in (
            ("get", "status", Status),
            ("post", "plan", PlanResult),
            ("post", "rebuild", RebuildResult),
            ("get", "stats", None),
        ):
            described = form(method, endpoint)
            answer = (await client.request(method, f"{PREFIX}/{endpoint}")).json()
            assert list(answer) == list(described["properties"])
            assert set(described["required"]) <= set(answer)
            if kind is not None:
                assert to_json(from_json(kind, answer)) == answer
        schemas = document["components"]["schemas"]
        assert {"CycleResult", "BrokerStatus", "ClockStatus", "PlannedStep", "SegmentInfo"} <= set(schemas)
        assert {"damage", "last_failure", "quarantine", "in_archive", "archive_only"} <= set(
            schemas["SegmentInfo"]["properties"]
        )

        lines = (await client.post(f"{PREFIX}/verify", json={})).text.splitlines()
        content = document["paths"][f"{PREFIX}/verify"]["post"]["responses"]["200"]["content"]
        forms = content["application/x-ndjson"]["schema"]["anyOf"]
        fields = [set(each["properties"]) for each in forms]
        assert {"partition", "incarnation", "offsets"} in fields
        assert len(lines) == 3
        assert all(set(json.loads(line)) in fields for line in lines)
