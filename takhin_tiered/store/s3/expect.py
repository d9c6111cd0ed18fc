"""How long an upload waits for ``100 Continue``: not long, as there are servers and proxies that never send it.

Source: RFC 9110, "Expect": a client should not wait for an indefinite period before it sends the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientRequest

PATIENCE = 1.0


def impatient(heard: Callable[[bool], None]) -> type[AIOHTTPSession]:
    """The SDK's connections; ``heard`` is told whether the server asked for a body, or it was sent without that."""

    class Request(ClientRequest):
        async def write_bytes(self, *args: Any, **kwargs: Any) -> None:
            waiting = self._continue
            if waiting is None:
                return await super().write_bytes(*args, **kwargs)

            def go_on() -> None:
                if not waiting.done():
                    waiting.set_result(False)

            waiting.add_done_callback(lambda done: None if done.cancelled() else heard(done.result()))
            timer = asyncio.get_running_loop().call_later(PATIENCE, go_on)
            try:
                return await super().write_bytes(*args, **kwargs)
            finally:
                timer.cancel()

    class Session(AIOHTTPSession):  # type: ignore[misc]  # the SDK has no types: its classes are Any
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            session._request_class = Request  # noqa: SLF001 - an argument of its making, which the SDK does not pass on
            return session

    return Session
