"""How a command reaches the storage: through the daemon that holds the data directory, or by itself.

Both ways answer alike, so that nobody has to know which one it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Protocol

from takhin_tiered.config import Settings
from takhin_tiered.disk.lock import read_holder
from takhin_tiered.engine.choosing import describe_choice
from takhin_tiered.errors import ConfigError
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.report import describe_plan
from takhin_tiered.tiered_storage import TieredStorage


class Access(Protocol):
    """What commands ask for. Answers have the form that the API gives them."""

    async def status(self) -> dict[str, Any]: ...

    async def plan(self) -> dict[str, Any]: ...

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]: ...

    async def partitions(self) -> list[dict[str, Any]]: ...

    async def archive(self, path: str) -> None: ...

    async def restore(self, path: str, *, force: bool, lease_hours: float | None) -> None: ...

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        """Which segments a restore would bring back, and what stands against others."""
        ...

    async def rebuild(self, progress: Callable[[int], None]) -> dict[str, Any]: ...

    async def scrub(self, path: str) -> bool:
        """Read a segment back, and take the consequences; True if it was bad and has been healed."""
        ...


@asynccontextmanager
async def open_access(settings: Settings, *, changing: bool) -> AsyncIterator[Access]:
    """Reach the storage; ``changing`` commands take the data directory where no daemon has it."""
    holder = read_holder(settings.state_dir)
    if holder is not None and any(settings.accepted):
        raise ConfigError(
            f"the data directory is held by {holder.words}, which was started without --accept-…",
            hint="Stop it, run this command again, and start it",
        )
    if holder is not None and holder.api:
        # Imported here, as the HTTP client is of no use to a command that works by itself.
        from takhin_tiered.cli.remote import open_remote

        async with open_remote(holder, settings.api_token.get_secret_value()) as remote:
            yield remote
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

    async def partitions(self) -> list[dict[str, Any]]:
        return [asdict(found) for found in await self._storage.partitions()]

    async def archive(self, path: str) -> None:
        await self._storage.archive_segment(path)

    async def restore(self, path: str, *, force: bool, lease_hours: float | None) -> None:
        lease = None if lease_hours is None else lease_hours * 3600
        await self._storage.restore_segment(path, force=force, lease=lease)

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        return describe_choice(await self._storage.choose_restore(wanted), self._storage.room_bytes())

    async def rebuild(self, progress: Callable[[int], None]) -> dict[str, Any]:
        return asdict(await self._storage.rebuild(progress))

    async def scrub(self, path: str) -> bool:
        return (await self._storage.scrub_segment(path)).healed
