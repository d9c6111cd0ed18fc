"""The plan: what the next cycle would do, and why."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.concurrency import in_thread
from takhin_tiered.cost.planning import PlanCost
from takhin_tiered.dashboard.face import Face, link
from takhin_tiered.segments.plan import Plan, Step, Verb

_ALL_AT_MOST = 20_000
_KEPT_STEPS = 5_000
_ON_A_PAGE = 100
_FRESH_SECONDS = 60.0
_WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan in short: ``steps`` are its first ones, work before what stays. ``is_whole``: it has what stays too."""

    made_at: float
    is_whole: bool
    steps: list[Step]
    counts: Counter[str]
    reasons: Counter[tuple[str, str]]
    bytes_uploaded: int
    bytes_freed: int
    cost: PlanCost
    monotonic: float = field(default_factory=time.monotonic)


def plan_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage
    making = asyncio.Lock()
    known: list[Planned] = []

    async def planned(*, fresh: bool) -> Planned:
        async with making:
            if known and not fresh and time.monotonic() - known[0].monotonic < _FRESH_SECONDS:
                return known[0]
            is_whole = storage.segment_count <= _ALL_AT_MOST
            found = await storage.plan(work_only=not is_whole)
            known[:] = [_short(found, await in_thread(storage.plan_cost, found), is_whole=is_whole)]
            return known[0]

    @routes.get("/dashboard/plan")
    async def plan(
        request: Request,
        fresh: bool = False,
        action: Verb | None = None,
        reason: Annotated[str, Query(max_length=40)] = "",
        start: Annotated[int, Query(ge=0, le=_KEPT_STEPS)] = 0,
    ) -> Response:
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                found = await planned(fresh=fresh)
        except TimeoutError:
            return face.page(request, "plan_later", progress=storage.progress)
        wanted = [
            step
            for step in found.steps
            if (step.verb is action if action else step.verb is not Verb.KEEP) and reason in {"", step.reason_code}
        ]
        page = wanted[start : start + _ON_A_PAGE]
        end = start + len(page)

        def page_from(number: int) -> str:
            return link("/dashboard/plan", action=action, reason=reason, start=number or None)

        return face.page(
            request,
            "plan",
            plan=found,
            action=action,
            reason=reason,
            steps=page,
            start=start,
            matched=len(wanted),
            total=sum(count for verb, count in found.counts.items() if verb != Verb.KEEP),
            kept_steps=_KEPT_STEPS,
            more=page_from(end) if end < len(wanted) else None,
            back=page_from(max(0, start - _ON_A_PAGE)) if start else None,
        )


def _short(plan: Plan, cost: PlanCost, *, is_whole: bool) -> Planned:
    work = plan.work
    stays = [step for step in plan.steps if step.verb is Verb.KEEP]
    return Planned(
        made_at=plan.made_at,
        is_whole=is_whole,
        steps=[*work[:_KEPT_STEPS], *stays[:_KEPT_STEPS]],
        counts=Counter(str(step.verb) for step in plan.steps),
        reasons=Counter((str(step.verb), step.reason_code) for step in plan.steps),
        bytes_uploaded=plan.bytes_uploaded,
        bytes_freed=plan.bytes_freed,
        cost=cost,
    )
