"""How a command reaches the storage: through the daemon that holds the data directory, or directly.

Both ways give the same results. A read-only command falls back to the catalog if the daemon does not answer, and
prints a note.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from takhin_tiered.cli.output import error_console, escape
from takhin_tiered.cli.requester import requester
from takhin_tiered.config import Settings
from takhin_tiered.cost.report import CostReport
from takhin_tiered.disk.lock import Holder, read_holder
from takhin_tiered.engine.choosing import describe_choice
from takhin_tiered.errors import ConfigError, TakhinError
from takhin_tiered.formats.batch import Bytes
from takhin_tiered.reader.query import RecordQuery, described_page
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.events import SegmentEvent
from takhin_tiered.segments.report import describe_plan
from takhin_tiered.segments.results import (
    DaemonStatus,
    Hole,
    PlanResult,
    RebuildResult,
    RekeyResult,
    Status,
    StatusHere,
    VerifiedSegment,
)
from takhin_tiered.tiered_storage import TieredStorage

if TYPE_CHECKING:
    from takhin_tiered.cli.remote import Remote

STORE_SECONDS = 3.0
"""How long a read-only command waits for the store."""
Answer = TypeVar("Answer")


class View(Protocol):
    """What read-only commands use. Results have the same form as in the API."""

    async def status(self) -> StatusHere: ...

    async def plan(self) -> PlanResult: ...

    async def cost(self) -> CostReport: ...

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]: ...

    async def partitions(self) -> list[dict[str, Any]]: ...

    async def history(self, path: str) -> list[SegmentEvent]: ...

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        """Which segments a restore would bring back, and why it refuses others."""
        ...

    def verify(self, glob: str, *, deep: bool) -> AsyncIterator[VerifiedSegment | Hole]:
        """Each archived segment that matches, and then each hole, as they are found."""
        ...

    async def records(self, query: RecordQuery, max_records: int) -> dict[str, Any]:
        """A page: ``records`` and ``next_offset``."""
        ...

    def batches(self, query: RecordQuery) -> AsyncGenerator[Bytes, None]:
        """Whole record batches, as stored."""
        ...

    @property
    def bytes_moved(self) -> Callable[[], int] | None:
        """Counts the bytes sent to and received from the store so far; None where only the daemon knows."""
        ...


class Access(View, Protocol):
    """What commands use that change something."""

    async def archive(self, path: str) -> None: ...

    async def restore(
        self, path: str, *, force: bool, lease_hours: float | None, over_budget: bool, request_only: bool = False
    ) -> None:
        """``request_only``: only request what lies in an archive class."""
        ...

    async def rebuild(self, progress: Callable[[int, int], None]) -> RebuildResult: ...

    async def rekey(self, progress: Callable[[int], None]) -> RekeyResult: ...

    async def scrub(self, path: str) -> bool:
        """Read an archived segment back, then quarantine or repair it. True if it was bad and has been repaired."""
        ...


@asynccontextmanager
async def open_view(settings: Settings) -> AsyncIterator[View]:
    """Read-only access: through the daemon, or from the catalog and the disk, without a lock."""
    holder = read_holder(settings.state_dir)
    async with AsyncExitStack() as stack:
        if holder is not None and holder.api:
            # Imported here: a command without a daemon does not need the HTTP client.
            from takhin_tiered.cli.remote import open_remote

            remote = await stack.enter_async_context(open_remote(holder, settings, changing=False))
            yield _DaemonOrCatalog(settings, holder, remote, stack)
            return
        storage = await stack.enter_async_context(TieredStorage.open(settings, read_only=True))
        yield _Local(storage, None if holder is None else _state_of(holder, answers=None))


@asynccontextmanager
async def open_access(settings: Settings) -> AsyncIterator[Access]:
    """Access that may change something: through the daemon, or, if there is none, by locking the data directory."""
    holder = read_holder(settings.state_dir)
    if holder is not None and any(settings.accepted):
        raise ConfigError(
            f"the data directory is held by {holder.description}, which was started without --accept-…",
            hint="Stop the daemon, run this command again, then start the daemon",
        )
    if holder is not None and holder.api:
        from takhin_tiered.cli.remote import open_remote

        async with open_remote(holder, settings, changing=True) as remote:
            await remote.require_alive()
            yield remote
        return
    async with TieredStorage.open(settings) as storage:
        yield _Local(storage, None)


def _state_of(holder: Holder, *, answers: bool | None) -> DaemonStatus:
    return DaemonStatus(holder.pid, holder.host, holder.api, answers)


def _with_daemon(found: Status, daemon: DaemonStatus | None) -> StatusHere:
    return StatusHere(**{field.name: getattr(found, field.name) for field in fields(found)} | {"daemon": daemon})


class _Local:
    def __init__(self, storage: TieredStorage, daemon: DaemonStatus | None) -> None:
        self._storage, self._daemon = storage, daemon

    async def status(self) -> StatusHere:
        if self._storage.settings.has_store:
            await self._storage.check_store(seconds=STORE_SECONDS)
        return _with_daemon(self._storage.status(), self._daemon)

    async def plan(self) -> PlanResult:
        plan = await self._storage.plan()
        return describe_plan(plan, self._storage.plan_cost(plan))

    async def cost(self) -> CostReport:
        return self._storage.cost()

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]:
        return [
            asdict(info)
            for info in self._storage.segments()
            if tier in (None, info.policy) and state in (None, info.state)
        ]

    async def partitions(self) -> list[dict[str, Any]]:
        return [asdict(found) for found in await self._storage.partitions()]

    async def history(self, path: str) -> list[SegmentEvent]:
        return await self._storage.history(path)

    async def archive(self, path: str) -> None:
        await self._storage.archive_segment(path)

    async def restore(
        self, path: str, *, force: bool, lease_hours: float | None, over_budget: bool, request_only: bool = False
    ) -> None:
        lease = None if lease_hours is None else lease_hours * 3600
        by = requester(lease_hours)
        if request_only:
            await self._storage.request_retrieval(path, lease=lease, by=by, over_budget=over_budget)
            return
        await self._storage.restore_segment(path, force=force, lease=lease, by=by, over_budget=over_budget)

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        choice = await self._storage.choose_restore(wanted)
        return describe_choice(choice, self._storage.room_bytes(), self._storage.quote_restore(choice.segments))

    def verify(self, glob: str, *, deep: bool) -> AsyncIterator[VerifiedSegment | Hole]:
        return self._storage.verify_told(glob, deep=deep)

    async def records(self, query: RecordQuery, max_records: int) -> dict[str, Any]:
        return described_page(await self._storage.read_records(query, max_records))

    def batches(self, query: RecordQuery) -> AsyncGenerator[Bytes, None]:
        return self._storage.read_batches(query)

    @property
    def bytes_moved(self) -> Callable[[], int] | None:
        metrics = self._storage.metrics
        before = metrics.bytes_moved()
        return lambda: metrics.bytes_moved() - before

    async def rebuild(self, progress: Callable[[int, int], None]) -> RebuildResult:
        return (await self._storage.rebuild(progress)).result

    async def rekey(self, progress: Callable[[int], None]) -> RekeyResult:
        return await self._storage.rekey(progress)

    async def scrub(self, path: str) -> bool:
        return (await self._storage.scrub_segment(path)).healed


class _DaemonOrCatalog:
    """Asks the daemon; once the daemon fails to answer, reads the catalog and the disk."""

    def __init__(self, settings: Settings, holder: Holder, remote: Remote, stack: AsyncExitStack) -> None:
        self._settings, self._holder, self._remote, self._stack = settings, holder, remote, stack
        self._local: _Local | None = None

    async def status(self) -> StatusHere:
        found = await self._ask(lambda view: view.status())
        return found if self._local else replace(found, daemon=_state_of(self._holder, answers=True))

    async def plan(self) -> PlanResult:
        return await self._ask(lambda view: view.plan())

    async def cost(self) -> CostReport:
        return await self._ask(lambda view: view.cost())

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]:
        return await self._ask(lambda view: view.segments(tier=tier, state=state))

    async def partitions(self) -> list[dict[str, Any]]:
        return await self._ask(lambda view: view.partitions())

    async def history(self, path: str) -> list[SegmentEvent]:
        return await self._ask(lambda view: view.history(path))

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        return await self._ask(lambda view: view.restore_plan(wanted))

    async def verify(self, glob: str, *, deep: bool) -> AsyncIterator[VerifiedSegment | Hole]:
        view: View = self._remote if await self._answers() else await self._open_local()
        async for result in view.verify(glob, deep=deep):
            yield result

    async def records(self, query: RecordQuery, max_records: int) -> dict[str, Any]:
        return await self._ask(lambda view: view.records(query, max_records))

    async def batches(self, query: RecordQuery) -> AsyncGenerator[Bytes, None]:
        view: View = self._remote if await self._answers() else await self._open_local()
        async with aclosing(view.batches(query)) as batches:
            async for batch in batches:
                yield batch

    @property
    def bytes_moved(self) -> Callable[[], int] | None:
        return self._local.bytes_moved if self._local else None

    async def _answers(self) -> bool:
        from takhin_tiered.cli.remote import DaemonUnresponsive

        try:
            await self._remote.require_alive()
        except DaemonUnresponsive as error:
            _note(error)
            return False
        return True

    async def _open_local(self) -> _Local:
        if self._local is None:
            storage = await self._stack.enter_async_context(TieredStorage.open(self._settings, read_only=True))
            self._local = _Local(storage, _state_of(self._holder, answers=False))
        return self._local

    async def _ask(self, question: Callable[[View], Awaitable[Answer]]) -> Answer:
        from takhin_tiered.cli.remote import DaemonUnresponsive

        if self._local is None:
            try:
                await self._remote.require_alive()
                return await question(self._remote)
            except DaemonUnresponsive as error:
                _note(error)
        return await question(await self._open_local())


def _note(error: TakhinError) -> None:
    error_console().print(f"[warning]Note:[/warning] {escape(str(error))}. The output comes from the catalog")
