"""What a page of another site, a guesser of tokens and malformed headers get from the API and the dashboard."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from takhin_tiered.dashboard.places import OF_AN_ADDRESS, STREAMS_AT_MOST
from takhin_tiered.guesses import AT_ONCE
from tests.integration.test_dashboard import ADMIN, READ, csrf_in, log_in, serving
from tests.support import WARM, Broker

API = "/api/v1/tiered"
BY_OTHERS = [
    # Its own name was pointed to this machine: for the browser it is of the same origin.
    {"Host": "elsewhere.example:8080", "Origin": "http://elsewhere.example:8080"},
    {"Host": "elsewhere.example:8080"},
    {"Host": "["},
    # It sends a request here, without a look at the answer.
    {"Origin": "http://elsewhere.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty"},
]
BY_OURS = [
    {},
    {"Host": "localhost"},
    {"Host": "[::1]:8080"},
    {"Host": socket.gethostname()},
    {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"},
]


async def test_without_a_token_no_foreign_page_reads_or_changes_anything(broker: Broker, tmp_path: Path) -> None:
    path, _ = broker.segments("orders-0", 2, age_hours=WARM)
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        for headers in BY_OTHERS:
            for target in (f"{API}/stats", f"{API}/segments", f"{API}/records?topic=orders", "/", "/dashboard/topics"):
                answer = await client.get(target, headers=headers)
                assert (headers, target, answer.status_code) == (headers, target, 403)
                assert "orders" not in answer.text
            for verb in ("archive", "restore", "scrub", "rebuild"):
                answer = await client.post(f"{API}/{verb}", json={"segment_path": path}, headers=headers)
                assert (headers, verb, answer.status_code) == (headers, verb, 403)
                assert answer.json()["code"] == "forbidden"
        assert storage.segment(path).state == "local"
        for headers in BY_OURS:
            assert (await client.get(f"{API}/stats", headers=headers)).status_code == 200
            answer = await client.post(f"{API}/archive", json={"segment_path": path}, headers=headers)
            assert (headers, answer.status_code) == (headers, 200)
        # Probes come by any name.
        for target in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(target, headers=BY_OTHERS[0])).status_code == 200


async def test_with_a_token_the_name_and_the_page_do_not_matter_for_the_api(broker: Broker, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        for headers in BY_OTHERS:
            answer = await client.get(f"{API}/stats", headers=headers | {"Authorization": f"Bearer {READ}"})
            assert (headers, answer.status_code) == (headers, 200)


async def test_no_answer_may_be_framed_sniffed_or_kept(broker: Broker, tmp_path: Path) -> None:
    """The pages of /docs have buttons that archive, too."""
    path, _ = broker.segments("orders-0", 2)
    async with serving(broker, tmp_path / "store") as (client, _, __):
        for target in ("/docs", "/openapi.json", f"{API}/stats", f"{API}/segments/{path}/data", "/nowhere", "/metrics"):
            headers = (await client.get(target)).headers
            assert headers["x-frame-options"] == "DENY", target
            assert headers["x-content-type-options"] == "nosniff", target
            assert headers["cross-origin-resource-policy"] == "same-origin", target
        assert (await client.get(f"{API}/stats")).headers["cache-control"] == "no-store"
        assert (await client.get("/")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("way", ["api", "login"])
async def test_who_guesses_tokens_gets_no_further_answer(broker: Broker, tmp_path: Path, way: str) -> None:
    """Neither from the right one, which would tell that it is right."""
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):

        async def attempt(token: str) -> int:
            if way == "login":
                return (await log_in(client, token)).status_code
            bearer = {"Authorization": f"Bearer {token}"}
            return (await client.get(f"{API}/stats", headers=bearer)).status_code

        for _ in range(3 * AT_ONCE):
            # None given is no guess.
            assert (await client.get(f"{API}/stats")).status_code == 401
        statuses = await asyncio.gather(*(attempt(f"wrong-{number}") for number in range(3 * AT_ONCE)))
        assert statuses.count(401) in range(AT_ONCE, AT_ONCE + 5)
        assert statuses.count(429) == len(statuses) - statuses.count(401)
        assert await attempt(ADMIN) == 429


async def test_who_is_logged_in_stays_so_while_others_guess(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        await log_in(client, ADMIN)
        for number in range(2 * AT_ONCE):
            await client.get(f"{API}/stats", headers={"Authorization": f"Bearer wrong-{number}"})
        assert 'type="password"' not in (await client.get("/")).text


async def test_a_login_ends_the_session_that_the_browser_had(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        await log_in(client, ADMIN)
        before = dict(client.cookies)
        await log_in(client, READ)
        assert dict(client.cookies) != before
        client.cookies.clear()
        client.cookies.update(before)
        assert 'type="password"' in (await client.get("/")).text


async def test_beneath_tls_only_this_host_can_have_set_the_cookie(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        client.base_url = client.base_url.copy_with(scheme="https")
        cookie = (await log_in(client, ADMIN)).headers["set-cookie"]
        assert cookie.startswith("__Host-takhin_session")
        assert "domain" not in cookie.lower()
        assert csrf_in((await client.get("/dashboard/segments")).text)


@pytest.mark.parametrize(
    "headers", [{"Host": "["}, {"Host": "127.0.0.1:x"}, {"Host": "a:99999"}, {"Origin": "http://["}]
)
async def test_malformed_headers_are_no_error_of_ours(broker: Broker, tmp_path: Path, headers: dict[str, str]) -> None:
    async with serving(broker, tmp_path / "store", with_tokens=True) as (client, _, __):
        for method, target in (("GET", "/"), ("GET", "/dashboard/topics"), ("POST", "/dashboard/login")):
            form = {"token": "x"} if method == "POST" else None
            answer = await client.request(method, target, headers=headers, data=form)
            assert answer.status_code < 500


async def test_streams_asked_for_at_once_are_no_more_than_there_may_be(broker: Broker, tmp_path: Path) -> None:
    async with serving(broker, tmp_path / "store") as (client, storage, _):
        asked = [asyncio.create_task(client.get("/dashboard/events")) for _ in range(2 * STREAMS_AT_MOST)]
        async with asyncio.timeout(20):
            while sum(task.done() for task in asked) < len(asked) - OF_AN_ADDRESS:
                await asyncio.sleep(0.05)
        assert [task.done() for task in asked] == [True] * (len(asked) - OF_AN_ADDRESS) + [False] * OF_AN_ADDRESS
        storage.stopping.set()
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        # Those that gave way say so.
        assert sum("event: paused" in answer.text for answer in answers) == len(asked) - OF_AN_ADDRESS
