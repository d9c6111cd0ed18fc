"""What all views share: the templates, who looks, and what an answer has to carry."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import jinja2
import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

import takhin_tiered
from takhin_tiered import logs
from takhin_tiered.browsers import is_from_elsewhere, is_own_name
from takhin_tiered.dashboard import words
from takhin_tiered.dashboard.actions import Actions
from takhin_tiered.dashboard.assets import PATH as ASSETS
from takhin_tiered.dashboard.assets import Assets
from takhin_tiered.dashboard.sessions import Sessions, Visitor, is_own_form
from takhin_tiered.errors import TakhinError
from takhin_tiered.tiered_storage import TieredStorage

LOGIN, LOGOUT = "/dashboard/login", "/dashboard/logout"
READ_ONLY = "you are logged in with a token that may only read: an administrator's is needed for this"
_WITHOUT_ROLE = {LOGIN, LOGOUT}
_FORM = "application/x-www-form-urlencoded"
_SECURITY = {
    # Nothing from elsewhere, and no script or style within a page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NAVIGATION = (
    ("/", "Overview"),
    ("/dashboard/topics", "Topics"),
    ("/dashboard/segments", "Segments"),
    ("/dashboard/transfers", "Transfers"),
    ("/dashboard/plan", "Plan"),
    ("/dashboard/records", "Records"),
    ("/dashboard/cost", "Cost"),
    ("/dashboard/problems", "Problems"),
)
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class Face:
    storage: TieredStorage
    sessions: Sessions
    actions: Actions
    assets: Assets = field(default_factory=Assets)
    templates: jinja2.Environment = field(init=False)

    def __post_init__(self) -> None:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("takhin_tiered.dashboard"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            name: getattr(words, name) for name in words.__all__ if name not in {"Shown", "percent", "counted"}
        }
        environment.globals |= {
            "asset": self.assets.url,
            "percent": words.percent,
            "counted": words.counted,
            "segment_url": segment_url,
            "link": link,
            "navigation": _NAVIGATION,
            "version": takhin_tiered.__version__,
        }
        object.__setattr__(self, "templates", environment)

    def page(self, request: Request, name: str, http_status: int = 200, **values: Any) -> Response:
        """A template as a page. ``visitor``, ``path`` and ``problems`` are always there."""
        visitor: Visitor | None = getattr(request.state, "visitor", None)
        found = {
            "visitor": visitor,
            "path": request.url.path,
            "query": request.query_params,
            "mode": self.storage.mode if visitor else "",
            "store_trouble": self.storage.store_trouble() if visitor and self.storage.settings.has_store else "",
            **values,
        }
        text = self.templates.get_template(f"{name}.html").render(found)
        return HTMLResponse(text, http_status)

    def failure(self, request: Request, status: int, code: str, text: str) -> Response:
        """The page of an error."""
        log = logs.logger().error if status >= 500 else logs.logger().warning
        log("a page could not be shown", status=status, code=code, error=text)
        identifier = str(structlog.contextvars.get_contextvars().get("correlation_id", ""))
        return self.page(request, "error", status, status=status, code=code, text=text, identifier=identifier)

    async def answer(self, request: Request, handler: _Handler) -> Response:
        """Let only those in who may, and show an error as a page. Whatever it is, it carries the security headers."""
        try:
            refusal = await self._refusal(request)
            response = refusal or await handler(request)
        except TakhinError as error:
            response = self.failure(request, error.http_status, error.code, str(error))
        except RequestValidationError as error:
            text = "; ".join(f"{found['loc'][-1]}: {found['msg']}" for found in error.errors())
            response = self.failure(request, 400, "bad_request", text[:500])
        except HTTPException as error:
            response = self.failure(request, error.status_code, "refused", str(error.detail))
        for name, value in _SECURITY.items():
            response.headers.setdefault(name, value)
        # What a page tells is for this visitor alone.
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    async def _refusal(self, request: Request) -> Response | None:
        path, is_post = request.url.path, request.method == "POST"
        if path.startswith(f"{ASSETS}/"):
            return None
        if not self.sessions.is_needed and (text := self._foreign(request)):
            return self.failure(request, 403, "forbidden", text)
        visitor = self.sessions.visitor(request)
        request.state.visitor = visitor
        request.state.form = await _form(request) if is_post else {}
        # Who logs in again has no page yet that knows of the session.
        bearer = None if path == LOGIN else visitor
        if is_post and not is_own_form(request, bearer, request.state.form.get("csrf", "")):
            text = "the form is not of this page, or too old: the daemon was started again. Load the page again"
            return self.failure(request, 403, "forbidden", text)
        if path == LOGIN:
            return None
        if visitor is None:
            return self._to_login(request)
        if is_post and path not in _WITHOUT_ROLE and not visitor.may_act:
            return self.failure(request, 403, "forbidden", READ_ONLY)
        return None

    def _foreign(self, request: Request) -> str:
        """Why who asks without a login is not let in; empty where they are."""
        if not is_own_name(request.headers.get("host"), {self.storage.settings.api_host, socket.gethostname()}):
            return (
                "this daemon has no token, so the dashboard answers by an address or the name of this machine only, as "
                "http://127.0.0.1 or http://localhost. Set storage.tiered.api.token to use another name"
            )
        # A form is looked at with its secret.
        if is_from_elsewhere(request.headers, is_change=False):
            return "a page of another site asked for this. Open it by its address, or set storage.tiered.api.token"
        return ""

    def _to_login(self, request: Request) -> Response:
        if request.url.path == "/":
            return self.page(request, "login", next="/", problem="")
        if request.method == "GET" and "text/html" in request.headers.get("accept", "text/html"):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(link(LOGIN, next=wanted), 303)
        return self.failure(request, 401, "unauthorized", "log in first")


def route_of(face: Face) -> type[APIRoute]:
    """The class of all routes of the dashboard: none can forget to ask who is there."""

    class Route(APIRoute):
        def get_route_handler(self) -> _Handler:
            handler = super().get_route_handler()

            async def answer(request: Request) -> Response:
                return await face.answer(request, handler)

            return answer

    return Route


def link(path: str, **query: object) -> str:
    """With what is not None."""
    given = {name: value for name, value in query.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given)}" if given else path


def segment_url(path: str) -> str:
    return f"/dashboard/segments/{quote(path, safe='/@')}"


def local_target(given: str) -> str:
    """Where to go after a login: a page of ours, whatever was asked for."""
    is_ours = given == "/" or (given.startswith("/dashboard/") and "\\" not in given and not given.startswith("//"))
    return given if is_ours else "/"


async def _form(request: Request) -> Mapping[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
        raise HTTPException(415, f"a form is sent as {_FORM}")
    body = (await request.body()).decode(errors="replace")
    try:
        return {name: values[-1] for name, values in parse_qs(body, keep_blank_values=True, max_num_fields=50).items()}
    except ValueError:
        raise HTTPException(400, "not a form") from None
