"""The storage of a daemon that runs, reached through its API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import aiohttp

from takhin_tiered.disk.lock import Holder
from takhin_tiered.errors import HeldElsewhere, TakhinError
from takhin_tiered.segments.choice import Wanted

_PAGE = 1000
_OPERATION_SECONDS = 3600.0


class RemoteError(TakhinError):
    """What the daemon answered, with the code that it gave."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@asynccontextmanager
async def open_remote(holder: Holder, token: str) -> AsyncIterator[Remote]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(connect=10.0, sock_read=_OPERATION_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield Remote(session, holder)


class Remote:
    """Keeps `Access`."""

    def __init__(self, session: aiohttp.ClientSession, holder: Holder) -> None:
        self._session = session
        self._holder = holder

    async def status(self) -> dict[str, Any]:
        return await self._ask("GET", "status")

    async def plan(self) -> dict[str, Any]:
        return await self._ask("POST", "plan")

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]:
        query: dict[str, str | int] = {"limit": _PAGE}
        query |= {name: value for name, value in (("tier", tier), ("state", state)) if value}
        found: list[dict[str, Any]] = []
        while True:
            page = await self._ask("GET", "segments", params=query)
            found += page["segments"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    async def partitions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._ask("GET", "partitions"))["partitions"]
        return found

    async def archive(self, path: str) -> None:
        await self._ask("POST", "archive", json={"segment_path": path})

    async def restore(self, path: str, *, force: bool, lease_hours: float | None) -> None:
        body = {"segment_path": path, "force": force, "lease_hours": lease_hours}
        await self._ask("POST", "restore", json=body)

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        return await self._ask("POST", "restore/plan", json=asdict(wanted))

    async def rebuild(self, progress: Callable[[int], None]) -> dict[str, Any]:  # noqa: ARG002 - the daemon tells at the end
        return await self._ask("POST", "rebuild")

    async def scrub(self, path: str) -> bool:
        return bool((await self._ask("POST", "scrub", json={"segment_path": path}))["healed"])

    async def _ask(self, method: str, endpoint: str, **arguments: Any) -> dict[str, Any]:
        url = f"{self._holder.api}/api/v1/tiered/{quote(endpoint)}"
        try:
            async with self._session.request(method, url, **arguments) as answer:
                body = await answer.json(content_type=None)
            if not isinstance(body, dict):
                raise TypeError(f"status {answer.status}, and no words for it")
        except (aiohttp.ClientError, TimeoutError, TypeError, ValueError) as error:
            raise HeldElsewhere(
                f"the data directory is held by {self._holder.words}, and it does not answer: {error!r}",
                hint="Look at that process and its logs",
            ) from error
        if answer.status == 401:
            has_one = "Authorization" in self._session.headers
            wants = "refuses the API token that this command has" if has_one else "wants its API token"
            raise RemoteError(
                f"the data directory is held by {self._holder.words}, and it {wants}",
                hint="Give this command the daemon's configuration, which has it as storage.tiered.api.token, or set "
                "TAKHIN_STORAGE_TIERED_API_TOKEN",
                code="unauthorized",
            )
        if not answer.ok:
            raise RemoteError(str(body.get("error", answer.reason)), code=str(body.get("code", "error")))
        return body
