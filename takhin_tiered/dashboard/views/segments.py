"""Segments, a page at a time by a cursor; and everything of one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.concurrency import in_thread
from takhin_tiered.dashboard.face import Face, link
from takhin_tiered.dashboard.looking import COUNT_SECONDS, has_problem, troubled
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.report import SegmentInfo
from takhin_tiered.tiered_storage import TieredStorage

_ON_A_PAGE = 100
_LOOKED_AT_MOST = 50_000
_SECONDS_AT_MOST = 0.4
_AT_ONCE = 200
_EVENTS_SHOWN = 50

Topic = Annotated[str, Query(max_length=249)]
Cursor = Annotated[str, Query(max_length=4096)]


@dataclass(frozen=True, slots=True)
class Filter:
    topic: str = ""
    tier: str = ""
    state: str = ""
    problem: bool = False

    def admits(self, info: SegmentInfo) -> bool:
        return (
            self.tier in {"", info.policy}
            and self.state in {"", info.state}
            and (not self.problem or has_problem(info))
        )


@dataclass(slots=True)
class Page:
    """``next_cursor``: from where on there may be more. ``looked_at``: so many were, to find these."""

    infos: list[SegmentInfo] = field(default_factory=list)
    next_cursor: str | None = None
    looked_at: int = 0


def segment_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage

    @routes.get("/dashboard/segments")
    async def segments(  # noqa: PLR0917 - the framework gives them by name
        request: Request,
        topic: Topic = "",
        tier: Tier | Literal[""] = "",
        state: State | Literal[""] = "",
        problem: bool = False,
        after: Cursor = "",
    ) -> Response:
        wanted = Filter(topic.strip(), tier, state, problem)
        page = await (_problem_page(storage, wanted) if problem else _page(storage, wanted, after))
        query = {"topic": wanted.topic, "tier": tier, "state": state, "problem": "true" if problem else None}
        return face.page(
            request,
            "segments",
            page=page,
            wanted=wanted,
            rates=storage.heat_of(info.cursor for info in page.infos),
            after=after,
            first=link("/dashboard/segments", **query),
            more=link("/dashboard/segments", **query, after=page.next_cursor) if page.next_cursor else None,
        )

    @routes.get("/dashboard/segments/{path:path}")
    async def segment(request: Request, path: str) -> Response:
        info = storage.segment(path)
        actions = face.actions.recent(info.cursor)
        return face.page(
            request,
            "segment",
            info=info,
            access=storage.access(info.cursor),
            events=(await storage.history(info.cursor))[-_EVENTS_SHOWN:][::-1],
            actions=actions,
            running=next((action for action in actions if action.state == "running"), None),
        )


async def _page(storage: TieredStorage, wanted: Filter, after: str) -> Page:
    """Of many segments only some are looked at for a page: whoever reads it goes on from there."""
    page, end = Page(), time.monotonic() + _SECONDS_AT_MOST
    last = None
    for info in storage.segments(topic=wanted.topic or None, after=after or None):
        if len(page.infos) == _ON_A_PAGE or page.looked_at == _LOOKED_AT_MOST or time.monotonic() > end:
            page.next_cursor = last
            break
        if wanted.admits(info):
            page.infos.append(info)
        last = info.cursor
        page.looked_at += 1
        if page.looked_at % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return page


async def _problem_page(storage: TieredStorage, wanted: Filter) -> Page:
    """The partitions that have some are known, so that nothing else is looked at."""
    await storage.count(COUNT_SECONDS)

    def find() -> list[SegmentInfo]:
        within = [name for name in storage.partition_names() if wanted.topic in {"", name[0]}]
        return [info for info in troubled(storage, 10 * _ON_A_PAGE, within) if wanted.admits(info)][:_ON_A_PAGE]

    return Page(await in_thread(find))
