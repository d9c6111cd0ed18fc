"""What is moved now, what was begun by click, the last cycle; and the stream of news."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.dashboard.face import Face
from takhin_tiered.dashboard.live import Live
from takhin_tiered.dashboard.places import OF_A_SESSION, OF_AN_ADDRESS, STREAMS_AT_MOST
from takhin_tiered.dashboard.sessions import Visitor
from takhin_tiered.guesses import place_of


def transfer_views(routes: APIRouter, face: Face, live: Live) -> None:
    storage = face.storage

    @routes.get("/dashboard/transfers")
    async def transfers(request: Request) -> Response:
        return face.page(
            request,
            "transfers",
            news=live.news(),
            status=storage.status(),
            progress=storage.progress,
            actions=face.actions.recent(),
        )

    @routes.get("/dashboard/events")
    async def events(request: Request) -> Response:
        visitor: Visitor = request.state.visitor
        client = request.client.host if request.client else ""
        # The secret of its forms is known of no other session.
        owner, at_most = (visitor.csrf, OF_A_SESSION) if visitor.is_known else (place_of(client), OF_AN_ADDRESS)
        stream = live.open(owner, at_most, lambda: face.sessions.visitor(request) is not None)
        if stream is not None:
            return stream
        refusal = face.failure(request, 503, "busy", f"{STREAMS_AT_MOST} pages are live already")
        refusal.headers["Retry-After"] = "30"
        return refusal
