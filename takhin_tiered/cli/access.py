"""How a command reaches the storage: through the daemon that holds the data directory, or by itself.

Both ways answer alike, so that nobody has to know which one it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from takhin_tiered.config import Settings
from takhin_tiered.disk.lock import Holder, read_holder
from takhin_tiered.errors import HeldElsewhere, TakhinError
from takhin_tiered.segments.report import describe_plan
from takhin_tiered.tiered_storage import TieredStorage

_PAGE = 1000
_OPERATION_SECONDS = 3600.0


class Access(Protocol):
    """What commands ask for. Answers have the form that the API gives them."""

    async def status(self) -> dict[str, Any]: ...

    async def plan(self) -> dict[str, Any]: ...

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]: ...

    async def archive(self, path: str) -> None: ...

    async def restore(self, path: str) -> None: ...

    async def rebuild(self, progress: Callable[[int], None]) -> dict[str, Any]: ...

    async def scrub(self, path: str) -> bool:
        """Read a segment back, and take the consequences; True if it was bad and has been healed."""
        ...


@asynccontextmanager
async def open_access(settings: Settings, *, changing: bool) -> AsyncIterator[Access]:
    """Reach the storage; ``changing`` commands take the data directory where no daemon has it."""
    holder = read_holder(settings.state_dir)
    if holder is not None and holder.api:
        token = settings.api_token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(10.0, read=_OPERATION_SECONDS)
        async with httpx.AsyncClient(base_url=holder.api, headers=headers, timeout=timeout, trust_env=False) as client:
            yield _Remote(client, holder)
        return
    async with TieredStorage.open(settings, read_only=not changing) as storage:
        yield _Local(storage)


class _Local:
    def __init__(self, storage: TieredStorage) -> None:
        self._storage = storage

    async def status(self) -> dict[str, Any]:
        if self._storage.settings.has_store:
            await self._storage.check_store()
        return self._storage.status()

    async def plan(self) -> dict[str, Any]:
        return describe_plan(await self._storage.plan())

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]:
        return [
            asdict(info)
            for info in self._storage.segments()
            if tier in (None, info.policy) and state in (None, info.state)
        ]

    async def archive(self, path: str) -> None:
        await self._storage.archive_segment(path)

    async def restore(self, path: str) -> None:
        await self._storage.restore_segment(path)

    async def rebuild(self, progress: Callable[[int], None]) -> dict[str, Any]:
        return asdict(await self._storage.rebuild(progress))

    async def scrub(self, path: str) -> bool:
        return (await self._storage.scrub_segment(path)).healed


class RemoteError(TakhinError):
    """What the daemon answered, with the code that it gave."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class _Remote:
    def __init__(self, client: httpx.AsyncClient, holder: Holder) -> None:
        self._client = client
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

    async def archive(self, path: str) -> None:
        await self._ask("POST", "archive", json={"segment_path": path})

    async def restore(self, path: str) -> None:
        await self._ask("POST", "restore", json={"segment_path": path})

    async def rebuild(self, progress: Callable[[int], None]) -> dict[str, Any]:  # noqa: ARG002 - the daemon tells at the end
        return await self._ask("POST", "rebuild")

    async def scrub(self, path: str) -> bool:
        return bool((await self._ask("POST", "scrub", json={"segment_path": path}))["healed"])

    async def _ask(self, method: str, endpoint: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, f"/api/v1/tiered/{quote(endpoint)}", **arguments)
            body: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise HeldElsewhere(
                f"the data directory is held by {self._holder.words}, and it does not answer: {error!r}",
                hint="Look at that process and its logs",
            ) from error
        if answer.is_error:
            raise RemoteError(str(body.get("error", answer.text)), code=str(body.get("code", "error")))
        return body
