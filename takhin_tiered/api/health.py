"""Liveness, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from takhin_tiered.tiered_storage import TieredStorage

Readiness = Callable[[], dict[str, str]]
"""Each check by name, with its problem, or an empty text."""


def health_routes(storage: TieredStorage, readiness: Readiness) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive, and its event loop runs."""
        return {"status": "alive"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", responses={503: {"description": "A check fails; the body says which one and why"}})
    async def readyz() -> JSONResponse:
        """Whether the catalog is loaded, the disk can be read and the store answers.

        What is not needed to serve, such as the fleet's table, is told and does not count.
        """
        checks = readiness()
        ready = not any(checks.values())
        storage.metrics.ready.set(1 if ready else 0)
        return JSONResponse(
            {
                "status": "ready" if ready else "not ready",
                "checks": {name: problem or "ok" for name, problem in {**checks, **storage.notes()}.items()},
            },
            200 if ready else 503,
        )

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Metrics for Prometheus; as OpenMetrics, which has exemplars with correlation IDs, where `Accept` names it."""
        storage.update_metrics()
        storage.metrics.ready.set(0 if any(readiness().values()) else 1)
        body, content_type = storage.metrics.render_for(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return routes
