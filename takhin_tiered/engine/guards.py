"""Guards against mistakes: is this the known store, is its prefix ours, can the clock be believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import Shared
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.clock_watch import ClockWatch
from takhin_tiered.errors import ConfigError, StoreUnavailable
from takhin_tiered.store import ObjectStore
from takhin_tiered.vault.identity import Identity, Meta
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.ownership import Owned, Ownership

ANSWER_SECONDS = 5.0


@asynccontextmanager
async def answering_soon(address: str) -> AsyncIterator[None]:
    """Within: a small request, which a healthy store answers in seconds. `StoreUnavailable` otherwise."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError as error:
        raise StoreUnavailable(
            f"{address} does not answer within {ANSWER_SECONDS:g} s",
            hint="Look at the network, and whether the server runs. Local files stay where they are",
        ) from error


@dataclass(frozen=True, slots=True)
class Guards:
    """``identity`` is None where there is no store, ``ownership`` where nothing may be written."""

    clock: ClockWatch
    identity: Identity | None = None
    ownership: Ownership | None = None
    _to_read: Shared = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_to_read", Shared(self._judge_store_to_read))

    async def own(self) -> tuple[OwnedPrefix, Owned]:
        """See `Ownership.own`; `ConfigError` where nothing can be written to."""
        if self.ownership is None:
            raise ConfigError(
                "there is no archive that this process may write to",
                hint="Set storage.tiered.s3.bucket or storage.tiered.directory.path",
            )
        return await self.ownership.own()

    @property
    def replica(self) -> Callable[[], Awaitable[str]] | None:
        """What tells the name of this one of several replicas that share the prefix; None for a single owner."""
        return self.ownership.identifier if self.ownership is not None and self.ownership.shares else None

    async def judge_store(self) -> None:
        """`StoreChanged` where the store is not the known one, or cannot be told to be."""
        if self.identity is not None:
            await self.identity.judge()

    async def judge_store_to_read(self) -> None:
        """The same, but for an archive that never had an ID; `StoreUnavailable` where it does not answer soon."""
        await self._to_read.look()

    async def _judge_store_to_read(self) -> None:
        if self.identity is not None:
            async with answering_soon(self.identity.address):
                await self.identity.judge_to_read()

    async def wait_lost(self) -> None:
        """Until another owner has the prefix; for ever where there is none to have."""
        await (asyncio.Event().wait() if self.ownership is None else self.ownership.wait_lost())

    async def close(self) -> None:
        if self.ownership is not None:
            await self.ownership.close()


def make_guards(
    settings: Settings,
    clock: Clock,
    catalog: Catalog,
    data_dir: DataDirs,
    *,
    store: ObjectStore | None,
    meta: Meta | None,
    is_ours: bool,
) -> Guards:
    """``is_ours``: the data directory is locked, and the journal may be written."""
    accepted = settings.accepted
    # A directory store tells its time by a write, and a process that only observes writes nothing.
    timed = store if settings.enabled else None
    watch = ClockWatch(clock, timed, meta, may_write=is_ours, confirmed=accepted.clock)
    if store is None:
        return Guards(watch)
    identity = Identity(store, meta, catalog, accepted.store, may_write=is_ours)
    if meta is None or not is_ours:
        return Guards(watch, identity)
    return Guards(
        watch, identity, Ownership(store, identity, meta, data_dir, shares=settings.fleet_replicas == "adopt")
    )
