"""What the tiers cost a month, what that saves, and what this month has cost so far."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.concurrency import in_thread
from takhin_tiered.dashboard.face import Face
from takhin_tiered.dashboard.looking import bars


def cost_views(routes: APIRouter, face: Face) -> None:
    @routes.get("/dashboard/cost")
    async def cost(request: Request) -> Response:
        found = await in_thread(face.storage.cost)
        now = [
            ("disk", found.hot_storage_cost_monthly, "on disk"),
            ("store", found.cold_storage_cost_monthly, "in the archive"),
            ("saved", max(0.0, found.saved_monthly), "saved"),
        ]
        return face.page(request, "cost", cost=found, parts=bars(now))
