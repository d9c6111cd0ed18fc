"""A server that sends elsewhere, to one that tells its buckets apart by the host that is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from takhin_tiered import StoreDenied
from takhin_tiered.store.s3 import open_s3
from tests.support import REGION

_Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(handler: _Handler) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_what_a_redirect_leads_to_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    there = {"Last-Modified": "Sat, 21 Nov 2026 22:20:51 GMT", "ETag": '"x"', "Content-Length": "0"}
    asked: list[str] = []

    async def by_host(request: web.Request) -> web.Response:
        asked.append(request.host)
        # To the name that the request was meant for it has nothing to say: only to its own, and to the right key.
        return web.Response(status=403 if request.host.startswith("localhost") else 404)

    async with serving(by_host) as elsewhere:

        async def first_then_elsewhere(request: web.Request) -> web.Response:
            if request.path.endswith("/first"):
                return web.Response(headers=there)
            return web.Response(status=307, headers={"Location": f"http://localhost:{elsewhere}{request.path}"})

        async with (
            serving(first_then_elsewhere) as port,
            open_s3("bucket", region=REGION, prefix="", endpoint=f"http://127.0.0.1:{port}") as store,
        ):
            assert await store.head("first") is not None
            with pytest.raises(StoreDenied):
                await store.head("second")
    assert asked
