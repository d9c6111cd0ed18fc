"""The dashboard: pages rendered here, over the façade, in the daemon's own process."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.dashboard.actions import Actions
from takhin_tiered.dashboard.assets import PATH as ASSETS
from takhin_tiered.dashboard.face import Face, route_of
from takhin_tiered.dashboard.live import Live
from takhin_tiered.dashboard.sessions import Sessions, Tokens
from takhin_tiered.dashboard.views.costs import cost_views
from takhin_tiered.dashboard.views.doing import doing_views
from takhin_tiered.dashboard.views.logins import login_views
from takhin_tiered.dashboard.views.overview import overview_views
from takhin_tiered.dashboard.views.planning import plan_views
from takhin_tiered.dashboard.views.problems import problem_views
from takhin_tiered.dashboard.views.reading import record_views
from takhin_tiered.dashboard.views.segments import segment_views
from takhin_tiered.dashboard.views.topics import topic_views
from takhin_tiered.dashboard.views.transfers import transfer_views
from takhin_tiered.tiered_storage import TieredStorage


class Dashboard:
    def __init__(self, storage: TieredStorage, tokens: Tokens) -> None:
        """Blocking: reads its templates and assets."""
        self._storage, self._actions = storage, Actions()
        self._live = Live(storage, self._actions)
        self._face = Face(storage, Sessions(tokens), self._actions)

    def install(self, app: FastAPI) -> None:
        """Add the pages. They ask for a login themselves, where there are tokens."""
        face = self._face
        routes = APIRouter(route_class=route_of(face), include_in_schema=False)
        for views in (
            overview_views,
            topic_views,
            segment_views,
            doing_views,
            plan_views,
            record_views,
            cost_views,
            problem_views,
            login_views,
        ):
            views(routes, face)
        transfer_views(routes, face, self._live)

        @routes.get(ASSETS + "/{name:path}")
        async def asset(request: Request, name: str) -> Response:
            found = face.assets.answer(name, request)
            return found or face.failure(request, 404, "not_found", "there is no such file")

        @routes.get("/dashboard")
        @routes.get("/dashboard/{rest:path}")
        async def nowhere(request: Request) -> Response:
            return face.failure(request, 404, "not_found", "there is no such page")

        app.include_router(routes)

    async def run(self) -> None:
        """Until the daemon stops, and what was begun by a click has ended; cancelled, that is cancelled too."""
        await self._storage.stopping.wait()
        await self._actions.finish()
