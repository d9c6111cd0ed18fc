"""Liveness, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from takhin_tiered.metrics import CONTENT_TYPE
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
        """Whether the catalog is loaded, the disk can be read and the store answers."""
        checks = readiness()
        ready = not any(checks.values())
        storage.metrics.ready.set(1 if ready else 0)
        return JSONResponse(
            {
                "status": "ready" if ready else "not ready",
                "checks": {name: problem or "ok" for name, problem in checks.items()},
            },
            200 if ready else 503,
        )

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        storage.update_metrics()
        storage.metrics.ready.set(0 if any(readiness().values()) else 1)
        return Response(storage.metrics.render(), media_type=CONTENT_TYPE)

    return routes
