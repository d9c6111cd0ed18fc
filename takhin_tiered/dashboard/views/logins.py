"""Login with a token, and logout."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from takhin_tiered import logs
from takhin_tiered.dashboard.face import LOGIN, LOGOUT, Face, local_target
from takhin_tiered.guesses import TooManyGuesses


def login_views(routes: APIRouter, face: Face) -> None:
    @routes.get(LOGIN)
    async def form(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the address
        if request.state.visitor is not None:
            return RedirectResponse(local_target(next), 303)
        return face.page(request, "login", next=local_target(next), problem="")

    @routes.post(LOGIN)
    async def login(request: Request) -> Response:
        given = request.state.form
        target = local_target(given.get("next", "/"))
        response = RedirectResponse(target, 303)
        problem, status = "This token is not known. Check it, and try again.", 401
        try:
            if face.sessions.begin(given.get("token", "").strip(), request, response):
                logs.logger().info("login to the dashboard")
                return response
        except TooManyGuesses as error:
            problem, status = f"{str(error).capitalize()}.", error.http_status
        logs.logger().warning("login to the dashboard refused", status=status)
        return face.page(request, "login", status, next=target, problem=problem)

    @routes.post(LOGOUT)
    async def logout(request: Request) -> Response:
        response = RedirectResponse("/", 303)
        face.sessions.end(request, response)
        return response
