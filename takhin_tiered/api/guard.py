"""Middleware for every request: correlation ID, token and role, foreign pages, size limit. Plain ASGI: it is fast."""

from __future__ import annotations

import asyncio
import re
import socket
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from takhin_tiered import logs
from takhin_tiered.api.problems import problem_response
from takhin_tiered.api.tokens import Token, Tokens
from takhin_tiered.browsers import is_from_elsewhere, is_own_name
from takhin_tiered.config_listeners import TOKENS_FILE
from takhin_tiered.guesses import TooManyGuesses

CORRELATION_HEADER = "X-Correlation-ID"
MAX_BODY = 64 * 1024
BODY_SECONDS = 10.0
ASSETS = "/docs/assets"
_API = "/api/"
_PAGES = {"/", "/dashboard"}
# By any name, for probes and Prometheus.
_PROBES = {"/healthz", "/readyz", "/metrics"}
_OPEN_PATHS = _PAGES | _PROBES | {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
# A browser gives no token: the dashboard asks for a session, and looks at pages from elsewhere, itself.
_DASHBOARD = "/dashboard/"
# What looks without a change, though it has a body.
_READING_POSTS = {"/api/v1/tiered/plan", "/api/v1/tiered/restore/plan"}
_READING_METHODS = {"GET", "HEAD", "OPTIONS"}
_UNAUTHORIZED_HINT = (
    "The token is the daemon's storage.tiered.api.token, or TAKHIN_STORAGE_TIERED_API_TOKEN in its environment, or one "
    f"of the file that {TOKENS_FILE} names"
)
_FORBIDDEN = "this token may only read: what changes something needs one of an administrator (admin)"
_FOREIGN_NAME = (
    "this daemon has no token, so the API answers by an address, localhost or the name of this machine only: a "
    "web page may have any other name pointed here. Ask http://127.0.0.1, let the proxy send such a Host, or set "
    "storage.tiered.api.token"
)
_FOREIGN_PAGE = (
    "this request came from a web page of another site, and this daemon has no token. Set storage.tiered.api.token, "
    "and send it in the header Authorization"
)
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    # Pages that are open without a token have buttons, too.
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    def __init__(self, app: ASGIApp, *, tokens: Tokens, host: str) -> None:
        """``host`` is the configured address."""
        self._app = app
        self._tokens = tokens
        self._names = {host, socket.gethostname()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(CORRELATION_HEADER, "")
        identifier = given if _GIVEN_ID.fullmatch(given) else logs.new_correlation_id()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer[CORRELATION_HEADER] = identifier
                for name, value in _SECURITY.items():
                    answer.setdefault(name, value)
                if scope["path"].startswith(_API):
                    answer.setdefault("Cache-Control", "no-store")
            await send(message)

        client = (scope.get("client") or ("",))[0]
        request = {"method": scope["method"], "path": scope["path"], "client": client}
        token, shut_out = self._token(scope["path"], headers, client)
        if token is not None:
            request["token"] = token.name
        with structlog.contextvars.bound_contextvars(correlation_id=identifier, **request):
            refusal = _shut_out(shut_out) if shut_out else self._refusal(scope["method"], scope["path"], headers, token)
            if refusal is not None:
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

    def _token(self, path: str, headers: Headers, client: str) -> tuple[Token | None, TooManyGuesses | None]:
        """The one that was given, where one is needed; or why none is looked at."""
        if not self._tokens.is_needed or _is_open(path):
            return None, None
        try:
            return self._tokens.admit(_bearer(headers), client), None
        except TooManyGuesses as error:
            return None, error

    def _refusal(self, method: str, path: str, headers: Headers, token: Token | None) -> Response | None:
        if not self._tokens.is_needed:
            is_for_all = path in _PROBES or path in _PAGES or path.startswith(_DASHBOARD)
            return None if is_for_all else self._foreign(method, headers)
        if _is_open(path):
            return None
        if token is None:
            text = f"this endpoint needs the header Authorization: Bearer <token>. {_UNAUTHORIZED_HINT}"
            refusal = problem_response(401, "unauthorized", text)
            refusal.headers["WWW-Authenticate"] = "Bearer"
            return refusal
        if token.role == "admin" or is_reading(method, path):
            return None
        return problem_response(403, "forbidden", _FORBIDDEN)

    def _foreign(self, method: str, headers: Headers) -> Response | None:
        """Without a token, a page in a browser on this machine could do all that a program on it may."""
        if not is_own_name(headers.get("host"), self._names):
            return problem_response(403, "forbidden", _FOREIGN_NAME)
        if is_from_elsewhere(headers, is_change=method not in _READING_METHODS):
            return problem_response(403, "forbidden", _FOREIGN_PAGE)
        return None


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith((f"{ASSETS}/", _DASHBOARD))


def _shut_out(error: TooManyGuesses) -> Response:
    refusal = problem_response(error.http_status, error.code, str(error))
    refusal.headers["Retry-After"] = "5"
    return refusal


def is_reading(method: str, path: str) -> bool:
    """Whether a request changes nothing, so that a token for reading is enough."""
    return method in _READING_METHODS or (method == "POST" and path in _READING_POSTS)


def _bearer(headers: Headers) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


class _Limited:
    """Cuts a body without a declared length at the limit, so that it is not valid JSON any more.

    A body that does not arrive in time gets 408.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._until = time.monotonic() + BODY_SECONDS
        self._got = 0
        self._ended = False

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
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
