"""The dashboard without a browser: who may see it, what it says, and that it does what was asked. In process."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from takhin_tiered import TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.dashboard.dashboard import Dashboard
from takhin_tiered.dashboard.places import OF_A_SESSION, STREAMS_AT_MOST
from takhin_tiered.errors import InGlacier
from takhin_tiered.segments.listing import PartitionListing
from takhin_tiered.trend import Sample, Trend
from tests.support import WARM, Broker, Bucket, Daemon, daemon, directory_settings, parts, store_settings

pytestmark = pytest.mark.long

ADMIN, READ = "admin-token-0123456789", "reading-token-0123456789"
FORM = {"Sec-Fetch-Site": "same-origin"}


def tokens_file(home: Path) -> Path:
    file = home / "tokens"
    file.write_text(f"admin {ADMIN}\nread {READ}\n")
    file.chmod(0o600)
    return file


@asynccontextmanager
async def serving(
    broker: Broker, store: Path, *, with_tokens: bool = False, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, TieredStorage, FastAPI]]:
    if with_tokens:
        changes["api_tokens_file"] = tokens_file(store.parent)
    async with serving_with(directory_settings(broker, store, **changes)) as served:
        yield served


@asynccontextmanager
async def serving_with(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, TieredStorage, FastAPI]]:
    async with TieredStorage.open(settings) as storage:
        tokens = Tokens(storage.settings)
        app = make_app(storage, lambda: {"catalog": ""}, tokens)
        dashboard = Dashboard(storage, tokens)
        dashboard.install(app)
        running = asyncio.create_task(dashboard.run())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            yield client, storage, app
        storage.stopping.set()
        await running


def csrf_in(page: str) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', page)
    assert found is not None
    return found[1]


async def log_in(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/dashboard/login", data={"token": token, "next": "/"}, headers=FORM)


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of each route of the dashboard, with something for what is variable in it."""
    found: list[tuple[str, str]] = []
    todo: list[Any] = [*app.routes]
    while todo:
        route = todo.pop()
        todo += getattr(getattr(route, "original_router", None), "routes", [])
        if isinstance(route, APIRoute) and (route.path == "/" or route.path.startswith("/dashboard")):
            path = route.path.replace("{verb}", "restore").replace("{number}", "0")
            found += [(method, re.sub(r"\{\w+(:path)?\}", "x", path)) for method in route.methods or ()]
    return found


async def test_without_a_login_no_view_tells_anything(broker: Broker, tmp_path: Path) -> None:
    broker.segments("secret-topic-0", 2)
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, app):
        routes = routes_of(app)
        assert {("GET", "/"), ("GET", "/dashboard/events"), ("POST", "/dashboard/do/restore")} <= set(routes)
        assert len(routes) > 15
        for method, path in routes:
            answer = await client.request(method, path, headers=FORM, data={"path": "x"} if method == "POST" else None)
            assert "secret-topic" not in answer.text
            is_open = path.startswith("/dashboard/assets/") or path in {"/", "/dashboard/login", "/dashboard/logout"}
            assert is_open or answer.status_code in {303, 401}, (method, path, answer.status_code)
        first = await client.get("/")
        assert first.status_code == 200
        assert 'type="password"' in first.text


async def test_a_token_gives_a_session_and_a_logout_ends_it(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        wrong = await log_in(client, "wrong")
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
        entered = await log_in(client, ADMIN)
        cookie = entered.headers["set-cookie"].lower()
        assert entered.status_code == 303
        assert {"httponly", "samesite=strict", "path=/"} <= {part.strip() for part in cookie.split(";")}
        assert ADMIN not in cookie
        page = await client.get("/")
        assert "orders" in page.text
        kept = dict(client.cookies)
        await client.post("/dashboard/logout", data={"csrf": csrf_in(page.text)}, headers=FORM)
        client.cookies.update(kept)
        assert 'type="password"' in (await client.get("/")).text, "the old cookie opens nothing any more"


async def test_beneath_tls_the_cookie_is_secure(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        client.base_url = httpx.URL("https://127.0.0.1:8080")
        assert "secure" in (await log_in(client, ADMIN)).headers["set-cookie"].lower()


async def test_a_session_ends_with_its_token(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _storage, app):
        await log_in(client, ADMIN)
        assert 'type="password"' not in (await client.get("/")).text
        tokens = next(each.kwargs["tokens"] for each in app.user_middleware if "tokens" in each.kwargs)
        assert isinstance(tokens, Tokens)
        tokens.known = tuple(token for token in tokens.known if token.role == "read")
        assert 'type="password"' in (await client.get("/")).text


async def test_who_may_only_read_sees_no_button_and_changes_nothing(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, storage, _):
        await log_in(client, READ)
        page = (await client.get(f"/dashboard/segments/{path}")).text
        assert "Facts" in page
        assert "/dashboard/do/" not in page
        refused = await client.post("/dashboard/do/archive", data={"path": path, "csrf": csrf_in(page)}, headers=FORM)
        assert refused.status_code == 403
        assert storage.segment(path).state == "local"
        asked = await client.get("/dashboard/do/archive", params={"path": path})
        assert (asked.status_code, "<button type=" in asked.text) == (403, False)


async def test_a_form_of_another_page_changes_nothing(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        csrf = csrf_in((await client.get("/dashboard/do/archive", params={"path": path})).text)
        tries: list[tuple[dict[str, str], dict[str, str]]] = [
            ({"path": path}, FORM),
            ({"path": path, "csrf": "0" * 64}, FORM),
            ({"path": path, "csrf": csrf}, {"Sec-Fetch-Site": "cross-site"}),
            ({"path": path, "csrf": csrf}, {"Sec-Fetch-Site": "same-site"}),
            ({"path": path, "csrf": csrf}, {"Origin": "http://elsewhere.example"}),
        ]
        for data, headers in tries:
            assert (await client.post("/dashboard/do/archive", data=data, headers=headers)).status_code == 403
        json_form = await client.post("/dashboard/do/archive", json={"path": path, "csrf": csrf}, headers=FORM)
        assert json_form.status_code == 415
        assert storage.segment(path).state == "local"
        done = await client.post("/dashboard/do/archive", data={"path": path, "csrf": csrf}, headers=FORM)
        assert done.status_code == 303
        assert storage.segment(path).state == "archived"


async def test_without_a_login_a_name_that_was_pointed_here_is_refused(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store") as (client, _, __):
        for host, status in (
            ("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:8080", 200), ("elsewhere.example", 403), ("", 403),
        ):  # fmt: skip
            answer = await client.get("/", headers={"Host": host})
            assert (host, answer.status_code) == (host, status)
            assert ("orders" in answer.text) == (status == 200)


async def test_restore_by_a_form_with_its_lease_and_its_story(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        await storage.archive_segment(path)
        page = (await client.get("/dashboard/do/restore", params={"path": path})).text
        assert "It costs" in page
        form = {"path": path, "csrf": csrf_in(page), "lease_hours": "2"}
        wrong = await client.post("/dashboard/do/restore", data=form | {"lease_hours": "soon"}, headers=FORM)
        assert wrong.status_code == 400
        done = await client.post("/dashboard/do/restore", data=form, headers=FORM)
        assert done.headers["location"] == f"/dashboard/segments/{path}#action-1"
        assert broker.is_whole(path)
        page = (await client.get(f"/dashboard/segments/{path}")).text
        assert "the dashboard (127.0.0.1)" in page
        assert re.search(r'data-action="1" data-state="done"', page)
        assert re.findall(r"<td>(copied|evicted|restored)</td>", page) == ["restored", "evicted", "copied"]


async def test_an_action_that_fails_says_why(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        active = next(info.segment_path for info in storage.segments() if info.is_active)
        csrf = csrf_in((await client.get("/dashboard/do/archive", params={"path": path})).text)
        await client.post("/dashboard/do/archive", data={"path": active, "csrf": csrf}, headers=FORM)
        page = (await client.get(f"/dashboard/segments/{active}")).text
        assert re.search(r'data-action="1" data-state="failed"', page)
        assert "active" in page
        unknown = await client.get("/dashboard/segments/orders-0/00000000000000009999.log")
        assert unknown.status_code == 404
        assert "This is not there" in unknown.text


async def test_what_others_wrote_is_shown_as_text(broker: Broker, tmp_path: Path) -> None:
    """Topics, keys and values are whatever somebody wrote."""
    async with serving(broker, tmp_path / "store") as (client, _storage, _):
        evil = "<script>alert(1)</script>"
        for path in (
            f"/dashboard/topics?find={evil}",
            f"/dashboard/segments?topic={evil}",
            f"/dashboard/records?topic={evil}",
            f"/dashboard/records?topic=x&offset={evil[:20]}",
            f"/dashboard/segments/{evil}",
            f"/dashboard/topics/{evil}",
            f"/dashboard/login?next={evil}",
            f"/dashboard/{evil}",
        ):
            assert "<script>alert" not in (await client.get(path)).text


async def test_a_login_leads_to_pages_of_ours_only(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        for target in ("https://elsewhere.example", "//elsewhere.example", "/\\elsewhere.example", "javascript:1"):
            form = {"token": ADMIN, "next": target}
            answer = await client.post("/dashboard/login", data=form, headers=FORM)
            assert (target, answer.headers["location"]) == (target, "/")
        client.cookies.clear()
        wanted = await client.get("/dashboard/plan?start=1", headers={"Accept": "text/html"})
        assert wanted.headers["location"] == "/dashboard/login?next=%2Fdashboard%2Fplan%3Fstart%3D1"
        answer = await client.post("/dashboard/login", data={"token": ADMIN, "next": "/dashboard/plan"}, headers=FORM)
        assert answer.headers["location"] == "/dashboard/plan"


async def test_each_answer_forbids_what_is_not_of_the_page(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store") as (client, _, app):
        for method, path in routes_of(app):
            if method != "GET" or path.endswith("/events"):
                continue
            answer = await client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            if "html" in answer.headers.get("content-type", ""):
                assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", answer.text), path


async def test_assets_are_kept_for_ever_under_a_name_of_their_bytes(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        page = (await client.get("/")).text
        urls = [unescape(url) for url in re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', page)]
        assert len(urls) >= 4
        for url in urls:
            answer = await client.get(url)
            assert "immutable" in answer.headers["cache-control"]
            again = await client.get(url, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
            assert "immutable" not in (await client.get(url.partition("?")[0])).headers["cache-control"]
        assert (await client.get("/dashboard/assets/%2e%2e/face.py")).status_code == 404


async def test_records_are_read_where_they_are(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2)
    broker.next_offset["late-0"] = 5000
    broker.segments("late-0", 2)
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        late = await client.get("/dashboard/records", params={"topic": "late"})
        assert re.search(r'<th scope="row" class="number">5000<', late.text), "from the first that there is"
        await storage.archive_segment(path)
        page = (await client.get("/dashboard/records", params={"topic": "orders"})).text
        assert ">customer-" in page
        behind = await client.get("/dashboard/records", params={"topic": "orders", "offset": "99999999"})
        assert behind.status_code == 404
        assert "No records" in behind.text
        by_time = await client.get("/dashboard/records", params={"topic": "orders", "time": "2020-01-01"})
        assert ">customer-" in by_time.text
        for wrong in ({"partition": "x"}, {"offset": "x"}, {"time": "yesterday"}):
            assert (await client.get("/dashboard/records", params={"topic": "orders", **wrong})).status_code == 400


async def test_records_in_an_archive_class_lead_to_their_segment(broker: Broker, bucket: Bucket) -> None:
    path, _ = broker.segments("orders-0", 2, size=200_000)
    async with serving_with(store_settings(broker, bucket, s3_class_cold="GLACIER")) as (client, storage, _):
        assert (await storage.run_cycle()).evicted == 2
        refused = await client.get("/dashboard/records", params={"topic": "orders"})
        assert refused.status_code == 409
        assert "A restore requests it" in refused.text
        [target] = re.findall(r'<section class="card alert".*?href="([^"]+)"', refused.text, re.DOTALL)
        there = await client.get(unescape(target))
        assert there.status_code == 200
        assert re.search(f"<code>{re.escape(path)}(@~0)?</code>", there.text)
        assert "Restore…" in there.text
        with pytest.raises(InGlacier):
            await storage.restore_segment(path)
        again = await client.get("/dashboard/records", params={"topic": "orders"})
        assert "It was requested, and is expected by" in again.text


async def test_filters_and_pages_of_segments(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 130, size=500)
    archived = broker.segments("payments-0", 1, age_hours=WARM)[0]
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        await storage.archive_segment(archived)
        seen: list[str] = []
        address: str | None = "/dashboard/segments?topic=orders"
        while address:
            page = (await client.get(address)).text
            seen += re.findall(r'href="(/dashboard/segments/[^"]+)"', page)
            following = re.search(r'href="([^"]+)" rel="next"', page)
            address = unescape(following[1]) if following else None
        assert len(seen) == len(set(seen)) == 131
        only = (await client.get("/dashboard/segments?state=archived")).text
        assert re.findall(r'href="(/dashboard/segments/[^"]+)"', only) == [f"/dashboard/segments/{archived}"]
        assert "No segment has a problem" in (await client.get("/dashboard/segments?problem=true")).text


async def test_streams_are_few_the_oldest_of_a_session_gives_way_and_all_end_with_the_daemon(
    broker: Broker, tmp_path: Path
) -> None:
    broker.segments("orders-0", 2)
    file = tokens_file(tmp_path)
    with daemon(directory_settings(broker, tmp_path / "store", api_tokens_file=file), tmp_path / "log") as running:
        api = running.wait_serving()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=api, trust_env=False, limits=limits, timeout=20) as client:

            async def session() -> dict[str, str]:
                client.cookies.clear()
                entered = await log_in(client, READ)
                client.cookies.clear()
                return {"Cookie": entered.headers["set-cookie"].partition(";")[0]}

            async def opened(own: dict[str, str]) -> httpx.Response:
                return await client.send(client.build_request("GET", "/dashboard/events", headers=own), stream=True)

            first, late = await session(), await session()
            async with client.stream("GET", "/dashboard/events", headers=first) as answer:
                await until_total(answer, "3")
            answers = [await opened(first) for _ in range(OF_A_SESSION + 1)]
            assert await until_ended(answers.pop(0)) == "event: paused"
            while len(answers) < STREAMS_AT_MOST:
                own = await session()
                answers += [await opened(own) for _ in range(OF_A_SESSION)]
            # All are taken. Who comes late gets its share of them, from those who have most, and no more.
            answers += [await opened(late) for _ in range(OF_A_SESSION - 1)]
            gone = [answers[number * OF_A_SESSION] for number in range(OF_A_SESSION - 1)]
            assert {await until_ended(answer) for answer in gone} == {"event: paused"}
            answers = [answer for answer in answers if answer not in gone]
            assert {answer.status_code for answer in answers} == {200}
            refused = await client.get("/dashboard/events", headers=late)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
            await answers.pop(0).aclose()
            await until_answered(client, late)
            stopping = asyncio.create_task(in_thread(stop, running))
            assert await stopping == 0
            for answer in answers:
                await answer.aclose()


async def until_ended(answer: httpx.Response) -> str:
    """The last event of a stream."""
    async with asyncio.timeout(20):
        return [line async for line in answer.aiter_lines() if line.startswith("event: ")][-1]


async def until_total(answer: httpx.Response, total: str) -> None:
    """The daemon serves before its first scan is over, so that the first events may tell of fewer segments."""
    async with asyncio.timeout(20):
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and json.loads(line.removeprefix("data: "))["texts"]["total"] == total:
                return
    raise AssertionError("the stream ended")


async def until_answered(client: httpx.AsyncClient, own: dict[str, str]) -> None:
    """A stream that was closed leaves its place to the next one."""
    async with asyncio.timeout(20):
        while True:
            async with client.stream("GET", "/dashboard/events", headers=own) as answer:
                if answer.status_code == 200:
                    return
            await asyncio.sleep(0.05)


def stop(running: Daemon) -> int:
    """Well within the grace period, with all streams open."""
    return running.stop(seconds=15)


async def test_the_history_survives_a_restart(broker: Broker, tmp_path: Path) -> None:
    trend = Trend()
    broker.segments("orders-0", 2)
    settings = directory_settings(broker, tmp_path / "store")
    settings.state_dir.mkdir()
    now = (tmp_path / "data").stat().st_mtime
    for minute in range(5):
        trend.add(Sample(at=now - 600 + 60 * minute, hot=minute + 1))
    trend.save(settings.state_dir)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("archived")
        found = running.request("GET", "/dashboard/history.json").json()
        assert found["hot"][:5] == [1, 2, 3, 4, 5]
        assert running.stop() == 0
    again = Trend()
    again.load(settings.state_dir)
    assert len(again.since(0)) == 6, "and the sample that it took itself"


async def test_the_first_view_of_a_million_segments_is_small(broker: Broker, tmp_path: Path) -> None:
    row = b""
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        path = broker.segment("orders-0")
        await parts(storage).scanner.scan()
        row = parts(storage).catalog.packed(parts(storage).catalog.places()[0])[0]
        for number in range(1000):
            rows = dict.fromkeys(range(0, 1_000_000, 1000), row)
            parts(storage).catalog.observe(PartitionListing(f"topic{number % 50}", number // 50, rows, None))
        assert storage.segment_count > 1_000_000
        for address in ("/", "/dashboard/topics", "/dashboard/topics/topic1", "/dashboard/segments"):
            answer = await client.get(address)
            assert answer.status_code == 200
            assert len(answer.content) < 200_000, address
        assert "1\u202f000\u202f001" in (await client.get("/")).text
        assert path
