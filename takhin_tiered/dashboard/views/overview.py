"""The first view: tiers, what is wrong, the largest topics; and the history for the charts."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from takhin_tiered.dashboard.face import Face
from takhin_tiered.dashboard.looking import COUNT_SECONDS, bars, topic_rows, total, troubles
from takhin_tiered.dashboard.words import size
from takhin_tiered.trend import Sample

_TOPICS_SHOWN = 8
_HOUR = 3600.0
_TABLE_ROWS = 12
_CHART_POINTS = 300


def overview_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage

    @routes.get("/")
    async def overview(request: Request, hours: Annotated[int, Query(ge=1, le=168)] = 24) -> Response:
        await storage.count(COUNT_SECONDS)
        rows = topic_rows(storage)
        whole, status, stats = total(rows), storage.status(), storage.stats()
        by_bytes = [
            (tier, getattr(whole, f"{tier}_bytes"), f"{tier}: {size(getattr(whole, f'{tier}_bytes'))}")
            for tier in ("hot", "warm", "cold")
        ]
        trend = [] if storage.trend is None else storage.trend.since(time.time() - hours * _HOUR)
        return face.page(
            request,
            "overview",
            stats=stats,
            status=status,
            whole=whole,
            tier_bars=bars(by_bytes),
            troubles=troubles(storage),
            topics=sorted(rows, key=lambda row: (-row.summary.total_bytes, -row.summary.segments))[:_TOPICS_SHOWN],
            topic_count=len(rows),
            largest=max((row.summary.total_bytes for row in rows), default=0),
            hours=hours,
            trend=trend,
            trend_rows=_thinned(trend, _TABLE_ROWS),
        )

    @routes.get("/dashboard/history.json")
    async def history(hours: Annotated[int, Query(ge=1, le=168)] = 24) -> Response:
        """Each field of the samples as a list; no more of them than a chart has room for."""
        samples = [] if storage.trend is None else storage.trend.since(time.time() - hours * _HOUR)
        samples = _thinned(samples, _CHART_POINTS)[::-1]
        columns = list(zip(*samples, strict=True)) or [()] * len(Sample._fields)
        return JSONResponse(
            {
                name: [round(value) if value >= 0 else None for value in column]
                for name, column in zip(Sample._fields, columns, strict=True)
            }
        )


def _thinned(samples: list[Sample], at_most: int) -> list[Sample]:
    """So many of them, the last one first."""
    step = max(1, -(-len(samples) // at_most))
    return samples[::-1][::step]
