"""The HTTP API: thin routes over the façade, in the daemon's own process and loop."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import takhin_tiered
from takhin_tiered.api.data import data_routes
from takhin_tiered.api.guard import ASSETS, Guard
from takhin_tiered.api.health import Readiness, health_routes
from takhin_tiered.api.problems import install_problem_handlers
from takhin_tiered.api.records import record_routes
from takhin_tiered.api.tiered import tiered_routes
from takhin_tiered.api.tiers import tiers_routes
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.api.verifying import verify_routes
from takhin_tiered.tiered_storage import TieredStorage


def make_app(storage: TieredStorage, readiness: Readiness, tokens: Tokens) -> FastAPI:
    """Every endpoint. Where there are ``tokens``, each request needs one; a reload may change them."""
    # /docs serves its own scripts, so that it works without Internet access.
    app = FastAPIOffline(
        title="Takhin Tiered",
        description="Cold log segments in an object store: list, archive, read, restore, verify.",
        version=takhin_tiered.__version__,
        redoc_url=None,
        static_url=ASSETS,
    )
    # Before the others: the path of a segment may contain anything.
    app.include_router(data_routes(storage))
    app.include_router(record_routes(storage))
    app.include_router(tiered_routes(storage))
    app.include_router(tiers_routes(storage))
    app.include_router(verify_routes(storage))
    app.include_router(health_routes(storage, readiness))
    install_problem_handlers(app)
    app.add_middleware(Guard, tokens=tokens, host=storage.settings.api_host)
    return app
