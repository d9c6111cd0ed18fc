"""Restores are requested one by one. Small ones of a partition that are requested together share a batch.

What lies in an archive class is requested there, and restored later.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.gathering import Gatherer
from takhin_tiered.engine.naming import named_incarnation, named_segment
from takhin_tiered.engine.refresh import unknown
from takhin_tiered.engine.restore import Restorer, ToRestore
from takhin_tiered.engine.retrieving import Progress, Retriever
from takhin_tiered.engine.spending import Spending
from takhin_tiered.errors import (
    InGlacier,
    ObjectCorrupt,
    ObjectMissing,
    OverBudget,
    SegmentConflict,
    StoreError,
    TakhinError,
)
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import Place, SegmentId
from takhin_tiered.segments.retrieval import Retrieval
from takhin_tiered.store import is_outage
from takhin_tiered.vault.opened import SMALL
from takhin_tiered.verbs import named, only

if TYPE_CHECKING:
    from takhin_tiered.engine.preparation import Preparation

_TOGETHER = 32


class Retrieves:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        _catalog: Catalog
        _preparation: Preparation
        _restores: Restores

    async def request_retrieval(
        self,
        path: str,
        *,
        topic_id: str | None = None,
        lease: float | None = None,
        by: str = "",
        over_budget: bool = False,
    ) -> None:
        """Request what a restore of the segment needs from an archive class, and restore nothing now.

        `InGlacier` says when it is expected; it returns where nothing has to be retrieved.
        """
        SegmentId.parse(path)
        await self._preparation.know_archive()
        identity = named_segment(self._catalog, path, topic_id)
        segment = self._catalog.get(identity)
        if segment is None:
            raise unknown(identity)
        if segment.local.log is not None:
            return
        log = named_incarnation(self._catalog, identity.place.partition, topic_id) if topic_id else None
        await self._restores.request(ToRestore(identity, lease, log, logs.correlation_id(), by, over_budget))

    async def bring_back_retrieved(self) -> int:
        """Restore what was requested from an archive class, and can be read by now; returns how many segments."""
        if not self._restores.is_waiting:
            return 0
        await self._preparation.know_archive()
        return await self._restores.bring_back()


class Restores:
    def __init__(
        self, catalog: Catalog, restorer: Restorer, spending: Spending, retriever: Retriever, stopping: asyncio.Event
    ) -> None:
        self._catalog, self._restorer, self._spending, self._retriever = catalog, restorer, spending, retriever
        self._stopping = stopping
        self._is_bringing_back = False
        self._gatherer: Gatherer[tuple[Place, str | None], ToRestore, Segment] = Gatherer(
            self._together, lambda wanted: wanted.id, _TOGETHER
        )

    async def restore(self, wanted: ToRestore) -> Segment:
        """See `Restorer.restore_together`; an error is raised, also `OverBudget`.

        `InGlacier` where it was requested from an archive class, now or before: it is restored once it can be read.
        """
        await self._require(wanted.id)
        try:
            segment = await self._restore(wanted)
        except InGlacier as error:
            if not wanted.may_request:
                raise
            await self._request(wanted, because=error)
            # It became readable meanwhile.
            segment = await self._restore(wanted)
        await self._retriever.forget([wanted.id])
        return segment

    async def request(self, wanted: ToRestore) -> None:
        """See `Retrieves.request_retrieval`."""
        await self._require(wanted.id)
        await self._request(wanted)

    async def _require(self, identity: SegmentId) -> None:
        """Return if the segment was not requested, or can be read. `InGlacier` says when it is expected."""
        retrieval = self._retriever.pending.get(identity)
        if retrieval is None:
            return
        match await self._retriever.look(retrieval):
            case Progress.COMING:
                raise self._retriever.not_yet(retrieval)
            case Progress.GONE | Progress.LAPSED:
                await self._give_up(retrieval)

    async def _give_up(self, retrieval: Retrieval) -> None:
        """What was retrieved for nothing is paid for all the same."""
        if retrieval.sent and not retrieval.only_manifest:
            await self._spending.lose(self._catalog.get(retrieval.id), retrieval.storage_class)
        await self._retriever.forget([retrieval.id])

    @property
    def is_waiting(self) -> bool:
        """Whether something was requested from an archive class that is worth looking at now."""
        return bool(self._retriever.due())

    async def bring_back(self, seconds: float = math.inf) -> int:
        """Restore what was requested from an archive class, and can be read by now; returns how many segments.

        What cannot be restored yet, as the disk is full, is tried again. `StoreError` where the store does not answer.
        Nothing where another task is at it, and after so many ``seconds`` no further one is begun: whoever waits for it
        may have to archive before the broker's retention.
        """
        if self._is_bringing_back:
            return 0
        self._is_bringing_back, restored, until = True, 0, time.monotonic() + seconds
        try:
            for retrieval in self._retriever.due():
                if self._stopping.is_set() or time.monotonic() > until:
                    break
                with named("restore", retrieval.id.path, retrieval.correlation):
                    restored += await self._bring_back(retrieval)
        finally:
            self._is_bringing_back = False
        return restored

    async def _bring_back(self, retrieval: Retrieval) -> bool:
        identity, log = retrieval.id, logs.logger()
        match await self._retriever.look(retrieval):
            case Progress.COMING:
                return False
            case Progress.UNREQUESTED:
                await self._request_rest(retrieval)
                return False
            case Progress.LAPSED:
                log.warning("a requested segment is given up: its retrieved copy has lapsed; ask for it again")
                await self._give_up(retrieval)
                return False
            case Progress.GONE:
                log.warning("a requested segment is not restored: it is on the disk, or was removed")
                await self._give_up(retrieval)
                return False
        # What it costs was admitted when it was requested.
        wanted = ToRestore(
            identity, retrieval.lease, retrieval.log, retrieval.correlation, retrieval.by, over_budget=True
        )
        try:
            await self._restore(wanted)
        except TakhinError as error:
            if isinstance(error, StoreError) and is_outage(error):
                raise
            is_over = isinstance(error, SegmentConflict | ObjectMissing | ObjectCorrupt)
            log.warning("a requested segment is not restored", for_good=is_over, error=str(error))
            if is_over:
                await self._retriever.forget([identity])
            return False
        await self._retriever.forget([identity])
        return True

    async def _request_rest(self, retrieval: Retrieval) -> None:
        """Request what was noted and never sent, or what a retrieved manifest names, if the budget allows it."""
        wanted = ToRestore(
            retrieval.id,
            retrieval.lease,
            retrieval.log,
            retrieval.correlation,
            retrieval.by,
            over_budget=retrieval.over_budget,
        )
        try:
            await self._request(wanted)
        except InGlacier:
            return
        except OverBudget as error:
            logs.logger().warning("a requested segment is given up", error=str(error))
            await self._retriever.forget([retrieval.id])

    async def _request(self, wanted: ToRestore, because: InGlacier | None = None) -> None:
        await self._retriever.request(wanted, partial(self._within_budget, wanted), because=because)

    async def _restore(self, wanted: ToRestore) -> Segment:
        async with self._within_budget(wanted):
            return await self._fetch(wanted, self._catalog.get(wanted.id))

    async def require_possible(self, wanted: ToRestore) -> None:
        """Raise what a restore would fail with before it costs anything: `OverBudget`, `InGlacier`."""
        async with self._within_budget(wanted):
            await self._retriever.require_readable(wanted.id)

    def _within_budget(self, wanted: ToRestore, storage_class: str = "") -> AbstractAsyncContextManager[None]:
        """What was requested, and is waited for, counts as spent: nothing asks for its price again.

        ``storage_class`` is the one in which it was found, as a lifecycle rule may have moved it.
        """
        return self._spending.restoring(
            wanted.id.path,
            self.cost_of(self._catalog.get(wanted.id), storage_class),
            over_budget=wanted.over_budget,
            waiting=self.waiting_cost({wanted.id}),
        )

    def cost_of(self, segment: Segment | None, storage_class: str = "") -> Decimal:
        """See `Spending.cost_of`; of what waits for an archive class, by the one that it was requested from."""
        retrieval = None if segment is None else self._retriever.pending.get(segment.id)
        return self._spending.cost_of(segment, storage_class or (retrieval.storage_class if retrieval else ""))

    def waiting_cost(self, but: Collection[SegmentId] = ()) -> Decimal:
        """Dollars for the restores that wait for an archive class, but for these."""
        waiting = [self._catalog.get(each) for each in self._retriever.pending if each not in but]
        return sum(map(self.cost_of, waiting), Decimal(0))

    async def _fetch(self, wanted: ToRestore, known: Segment | None) -> Segment:
        if known is not None and known.archive is not None and known.archive.size <= SMALL:
            return await self._gatherer.ask((wanted.id.place, wanted.log), wanted)
        # A large one takes long, and no other should wait for it.
        return only(await self._together([wanted]))

    async def _together(self, wanted: Sequence[ToRestore]) -> list[Segment | TakhinError]:
        # The highest first: in Kafka's log each one has to stand right below what is on the disk.
        ordered = sorted(wanted, key=lambda each: each.id.base_offset, reverse=True)
        results = await self._restorer.restore_together(ordered)
        found = {each.id: result for each, result in zip(ordered, results, strict=True)}
        return [found[each.id] for each in wanted]
