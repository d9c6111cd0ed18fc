"""Errors over HTTP: one form of body for all, with the request's correlation ID."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from takhin_tiered import logs
from takhin_tiered.errors import InGlacier, OffsetOutOfRange, TakhinError


class Problem(BaseModel):
    """The body of every error. ``code`` is stable, for programs; ``error`` is for people."""

    error: str
    code: str
    correlation_id: str
    next_offset: int | None = Field(default=None, description="For a missing offset: the next one that can be read.")
    estimate_seconds: int | None = Field(
        default=None, description="For in_glacier: when it can be read, at most, from now or from a restore on."
    )


def problem_response(status: int, code: str, error: str, **more: int | None) -> JSONResponse:
    """The response to a request that is refused or fails. Also writes the log line."""
    log = logs.logger().error if status >= 500 else logs.logger().warning
    log("request refused" if status < 500 else "request failed", status=status, code=code, error=error)
    identifier = str(structlog.contextvars.get_contextvars().get("correlation_id", ""))
    problem = Problem(error=error, code=code, correlation_id=identifier, **more)
    return JSONResponse(problem.model_dump(exclude_unset=True), status)


def install_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(TakhinError)
    async def ours(_: Request, error: TakhinError) -> Response:
        if isinstance(error, OffsetOutOfRange):
            return problem_response(error.http_status, error.code, str(error), next_offset=error.next_offset)
        if isinstance(error, InGlacier):
            return problem_response(error.http_status, error.code, str(error), estimate_seconds=round(error.seconds))
        return problem_response(error.http_status, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        details = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        return problem_response(400, "bad_request", details[:500])

    @app.exception_handler(HTTPException)
    async def by_status(_: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        code = {404: "not_found", 405: "method_not_allowed"}.get(status, status.phrase.lower().replace(" ", "_"))
        # For example, the framework raises a plain 400 for a body that is not JSON.
        return problem_response(status, code, str(error.detail))


ERRORS = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "Not a segment path, or an invalid request",
        401: "The token is missing or wrong",
        403: "The token may only read",
        404: "The segment is unknown, or no record has this offset",
        409: "The segment is active or changing, other bytes are in its place, the configuration does not allow it, or "
        "it has to be retrieved from an archive class first (code in_glacier, with estimate_seconds)",
        413: "The request body is too large",
        429: "Too many wrong tokens came from this address: Retry-After",
        416: "The segment has no such bytes; Content-Range has its size",
        500: "The archive or the disk is damaged",
        502: "The archived bytes are damaged, or cannot be decrypted: code damaged, no_key or wrong_key",
        503: "The object store does not answer",
        507: "No room on the disk",
    }.items()
}
"""For the OpenAPI document: pick with `errors`."""


def errors(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: dict(ERRORS[status]) for status in (*statuses, 401, 403, 429)}
