"""What is moved now, what was begun by click, the last cycle; and the stream of news."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.dashboard.face import Face
from takhin_tiered.dashboard.live import STREAMS_AT_MOST, Live


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
        if (stream := live.open(lambda: face.sessions.visitor(request) is not None)) is not None:
            return stream
        refusal = face.failure(request, 503, "busy", f"{STREAMS_AT_MOST} pages are open already")
        refusal.headers["Retry-After"] = "30"
        return refusal
