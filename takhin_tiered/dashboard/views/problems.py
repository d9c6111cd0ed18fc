"""What is wrong, each with what to do, and the segments that it concerns."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.concurrency import in_thread
from takhin_tiered.dashboard.face import Face
from takhin_tiered.dashboard.looking import COUNT_SECONDS, troubled, troubles

_SHOWN = 100


def problem_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage

    @routes.get("/dashboard/problems")
    async def problems(request: Request) -> Response:
        is_whole = await storage.count(COUNT_SECONDS)
        infos = await in_thread(lambda: list(troubled(storage, _SHOWN + 1)))
        return face.page(
            request,
            "problems",
            troubles=troubles(storage),
            status=storage.status(),
            infos=infos[:_SHOWN],
            has_more=len(infos) > _SHOWN,
            is_whole=is_whole,
        )
