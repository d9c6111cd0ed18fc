"""Who looks: a browser logs in with a token, and has a cookie from then on. Nothing of it outlives the process."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, Protocol

from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.browsers import is_from_elsewhere

LIFETIME_SECONDS = 12 * 3600
_AT_MOST = 1000


class Token(Protocol):
    """One that is in effect; of the token itself only the digest is known."""

    @property
    def role(self) -> Literal["admin", "read"]: ...

    @property
    def digest(self) -> bytes: ...


class Tokens(Protocol):
    """The tokens in effect; a reload may change them."""

    @property
    def is_needed(self) -> bool: ...

    def with_digest(self, digest: bytes) -> Token | None: ...

    def admit(self, given: str, client: str) -> Token | None: ...


@dataclass(frozen=True, slots=True)
class Visitor:
    """``csrf`` is what a form has to give back. ``is_known``: by a session, which may be ended."""

    may_act: bool
    csrf: str
    is_known: bool


@dataclass(frozen=True, slots=True)
class _Session:
    """``digest`` is of the token: who reads our memory gets no token of sessions out of it."""

    digest: bytes = field(repr=False)
    until: float


class Sessions:
    """Of so many the oldest are forgotten. Each ends with its token: a reload that drops the token ends it."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    @property
    def is_needed(self) -> bool:
        return self._tokens.is_needed

    def begin(self, token: str, request: Request, response: Response) -> bool:
        """Log in: the response sets the cookie. False for a token that is not known. `TooManyGuesses`."""
        if not self.is_needed:
            # There is nothing to log in to; a token that is set later was not given here.
            return True
        found = self._tokens.admit(token, request.client.host if request.client else "")
        if found is None:
            return False
        self._forget(request)
        identifier = secrets.token_urlsafe(32)
        self._sessions[_digest(identifier)] = _Session(found.digest, time.monotonic() + LIFETIME_SECONDS)
        while len(self._sessions) > _AT_MOST:
            self._sessions.popitem(last=False)
        response.set_cookie(
            cookie_name(request),
            identifier,
            max_age=LIFETIME_SECONDS,
            path="/",
            secure=_is_over_tls(request),
            httponly=True,
            samesite="strict",
        )
        return True

    def end(self, request: Request, response: Response) -> None:
        """Log out."""
        self._forget(request)
        response.delete_cookie(
            cookie_name(request), path="/", secure=_is_over_tls(request), httponly=True, samesite="strict"
        )

    def _forget(self, request: Request) -> None:
        self._sessions.pop(_digest(request.cookies.get(cookie_name(request), "")), None)

    def visitor(self, request: Request) -> Visitor | None:
        """Who asks; None where a login is needed first."""
        if not self.is_needed:
            return Visitor(may_act=True, csrf=self._csrf(""), is_known=False)
        name = _digest(request.cookies.get(cookie_name(request), ""))
        session = self._sessions.get(name)
        if session is None:
            return None
        token = self._tokens.with_digest(session.digest)
        if token is None or time.monotonic() > session.until:
            del self._sessions[name]
            return None
        return Visitor(may_act=token.role == "admin", csrf=self._csrf(name), is_known=True)

    def _csrf(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()


def cookie_name(request: Request) -> str:
    """Cookies are shared by all ports of a host: two daemons on one machine must not end each other's sessions.

    Beneath TLS the browser takes it from this host alone, and only from TLS.
    """
    port = request.headers.get("host", "").rpartition(":")[2]
    name = f"takhin_session_{port if port.isascii() and port.isdigit() else request.url.scheme}"
    return f"__Host-{name}" if request.url.scheme == "https" else name


def _is_over_tls(request: Request) -> bool:
    """Of a form. Behind a proxy that ends TLS only the browser tells; whoever lies to us here has its own cookie."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def is_own_form(request: Request, visitor: Visitor | None, given: str) -> bool:
    """Whether a form that changes something is one of our own pages: by the browser's word, and by its secret."""
    if is_from_elsewhere(request.headers, is_change=True):
        return False
    return visitor is None or hmac.compare_digest(given.encode(), visitor.csrf.encode())


def _digest(identifier: str) -> str:
    """As it is kept: looking it up must not tell how much of it is right."""
    return hashlib.sha256(identifier.encode()).hexdigest()
