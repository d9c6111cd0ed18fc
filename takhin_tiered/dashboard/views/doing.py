"""Archive and restore by click: a page that says what it would do, with a form that does it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from takhin_tiered.dashboard.actions import TooMany
from takhin_tiered.dashboard.face import READ_ONLY, Face, segment_url
from takhin_tiered.errors import InvalidQuery, TakhinError
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.model import Tier
from takhin_tiered.segments.report import SegmentInfo
from takhin_tiered.segments.retrieval import ARCHIVES

Verb = Literal["archive", "restore"]
_LONGEST_LEASE_HOURS = 1e6


def doing_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage

    @routes.get("/dashboard/do/{verb}")
    async def confirm(
        request: Request, verb: Verb, path: Annotated[str, Query(max_length=4096)], part: bool = False
    ) -> Response:
        """``part``: only what a dialog shows."""
        if not request.state.visitor.may_act:
            raise HTTPException(403, READ_ONLY)
        info = storage.segment(path)
        problems: list[str] = []
        warnings: list[str] = []
        quote = storage.quote_restore(())
        if verb == "restore":
            try:
                found = await storage.choose_restore(Wanted((info.cursor,)))
                problems, warnings = found.problems, found.warnings
                quote = storage.quote_restore(found.segments)
            except TakhinError as error:
                problems = [str(error)]
        rules = storage.rules_of(info.topic)
        cold_class = rules.class_of(Tier.COLD)
        values: dict[str, Any] = {
            "verb": verb,
            "info": info,
            "problems": problems,
            "warnings": warnings,
            "lease_hours": storage.settings.restore_lease_hours,
            "room": storage.room_bytes(),
            "quote": quote,
            "unlinks": rules.may_unlink,
            "archive_class": cold_class if cold_class in ARCHIVES else "",
        }
        return face.page(request, "confirm_part" if part else "confirm", **values)

    @routes.post("/dashboard/do/{verb}")
    async def do(request: Request, verb: Verb) -> Response:
        form = request.state.form
        info = storage.segment(form.get("path", ""))
        try:
            action = await face.actions.begin(verb, info.cursor, _work(verb, info, form, request))
        except TooMany as error:
            return face.failure(request, error.http_status, error.code, str(error))
        return RedirectResponse(f"{segment_url(info.cursor)}#action-{action.number}", 303)

    def _work(verb: Verb, info: SegmentInfo, form: dict[str, str], request: Request) -> Coroutine[Any, Any, object]:
        if verb == "archive":
            return storage.archive_segment(info.cursor)
        who = f"the dashboard ({request.client.host if request.client else 'unknown'})"
        return storage.restore_segment(
            info.cursor,
            force=form.get("force") == "yes",
            over_budget=form.get("over_budget") == "yes",
            lease=_lease(form),
            by=who,
        )


def _lease(form: dict[str, str]) -> float | None:
    """In seconds; None for the configured one."""
    given = form.get("lease_hours", "").strip()
    if not given:
        return None
    try:
        hours = float(given)
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= _LONGEST_LEASE_HOURS:
        raise InvalidQuery(f"a lease is a number of hours, not {given[:40]!r}")
    return hours * 3600
