"""Middleware for every request: correlation ID, token, size limit. Plain ASGI, because that is fast."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from takhin_tiered import logs
from takhin_tiered.api.problems import problem_response

CORRELATION_HEADER = "X-Correlation-ID"
MAX_BODY = 64 * 1024
BODY_SECONDS = 10.0
ASSETS = "/docs/assets"
_OPEN_PATHS = {"/healthz", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
_UNAUTHORIZED_HINT = (
    "The token is the daemon's storage.tiered.api.token, or TAKHIN_STORAGE_TIERED_API_TOKEN in its environment"
)
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    def __init__(self, app: ASGIApp, *, token: Callable[[], str]) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(CORRELATION_HEADER, "")
        identifier = given if _GIVEN_ID.fullmatch(given) else logs.new_correlation_id()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[CORRELATION_HEADER] = identifier
            await send(message)

        client = (scope.get("client") or ("",))[0]
        request = {"method": scope["method"], "path": scope["path"], "client": client}
        with structlog.contextvars.bound_contextvars(correlation_id=identifier, **request):
            if not self._may_pass(scope["path"], headers):
                text = f"this endpoint needs the header Authorization: Bearer <token>. {_UNAUTHORIZED_HINT}"
                refusal = problem_response(401, "unauthorized", text)
                refusal.headers["WWW-Authenticate"] = "Bearer"
                await refusal(scope, receive, send_with_id)
                return
            body = _Limited(receive)
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > MAX_BODY:
                await _too_large()(scope, receive, send_with_id)
                return
            await self._answer(scope, body, send_with_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:  # noqa: BLE001 - a bug in one request must not stop the daemon
            logs.logger().error("request failed with an unexpected error", exc_info=error)
            if not started:
                text = "unexpected error: the daemon's log has it under this correlation ID"
                await problem_response(500, "internal", text)(scope, receive, send)

    def _may_pass(self, path: str, headers: Headers) -> bool:
        token = self._token().encode()
        if not token or path in _OPEN_PATHS or path.startswith(f"{ASSETS}/"):
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token)


class _Limited:
    """Cuts a body without a declared length at the limit, so that it is not valid JSON any more.

    A body that does not arrive in time gets 408.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._got = 0
        self._ended = False

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the request body did not arrive within {BODY_SECONDS:g} s") from None
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            if self._got > MAX_BODY:
                message = {"type": "http.request", "body": b"", "more_body": False}
            self._ended = not message.get("more_body", False)
        return message


def _too_large() -> ASGIApp:
    return problem_response(413, "too_large", f"the request body is larger than {MAX_BODY} bytes")
