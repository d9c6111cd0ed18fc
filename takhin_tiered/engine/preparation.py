"""Before the archive is written to, or read by name: the prefix is ours, and the catalog knows what is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import INCARNATIONS, Journal
from takhin_tiered.engine.guards import Guards
from takhin_tiered.engine.rebuild import Rebuilder, Reconciliation
from takhin_tiered.engine.relying import Reliance
from takhin_tiered.errors import ObjectCorrupt, SegmentBusy, StoreDenied, StoreError
from takhin_tiered.segments.model import Segment
from takhin_tiered.store import StoreHealth, is_outage
from takhin_tiered.vault.orphans import remove_stale_uploads
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.ownership import IDENTIFIER, Owned


class Preparation:
    """``may_write``: whether the journal is ours."""

    def __init__(
        self,
        guards: Guards,
        catalog: Catalog,
        health: StoreHealth,
        rebuilder: Rebuilder,
        journal: Journal | None,
        *,
        reliance: Reliance,
        may_write: bool,
    ) -> None:
        self._guards, self._catalog, self._health, self._rebuilder = guards, catalog, health, rebuilder
        self._reliance, self._journal, self._may_write = reliance, journal, may_write
        self._lock = asyncio.Lock()
        self._has_all_to_learn = False
        self._found: Reconciliation | None = None
        self.is_reconciled = journal is not None and journal.was_clean

    async def load(self) -> None:
        """A journal of an earlier release does not know the incarnations: then every manifest is read."""
        await self._know_replica()
        if self._journal is not None and await self._journal.get_meta(INCARNATIONS) == "unknown":
            self._has_all_to_learn, self.is_reconciled = True, False

    async def own(self) -> OwnedPrefix:
        """Own the prefix, and know what is in it.

        Raises `HeldElsewhere` where another owner is alive or may be, `StoreChanged` where the store is not the one
        that was archived to, and other `StoreError`.
        """
        async with self._lock:
            try:
                owned, known = await self._guards.own()
                self._health.recognised()
                await self._know_replica()
                if known is not Owned.ALREADY:
                    # This process owns the prefix, so unfinished uploads are those of a dead process.
                    await remove_stale_uploads(owned, self._catalog, 0)
                    # The catalog does not know what another owner did meanwhile.
                    self.is_reconciled = self.is_reconciled and known is Owned.AGAIN
                await self._reconcile_once()
                await self._keep_records(owned)
            except StoreError as error:
                if is_outage(error) or isinstance(error, StoreDenied):
                    self._health.failed(error)
                raise
            return owned

    async def _know_replica(self) -> None:
        """The catalog knows by it which logs are those of this replica alone."""
        if self._journal is not None and not self._catalog.replica:
            self._catalog.replica = await self._journal.get_meta(IDENTIFIER) or ""

    async def know_archive(self) -> None:
        """Before something is read by its name: know what the archive holds, and of which incarnation it is."""
        await self._guards.judge_store_to_read()
        async with self._lock:
            await self._reconcile_once()

    async def rebuild(self, *, full: bool, progress: Callable[[int, int], None] = lambda *_: None) -> Reconciliation:
        """See `Rebuilder.rebuild`. A ``full`` one has also learned every incarnation."""
        result = await self._rebuilder.rebuild(full=full, progress=progress)
        if full and self._has_all_to_learn and self._may_write and self._journal is not None:
            await self._journal.set_meta(INCARNATIONS, "known")
        self._has_all_to_learn = self._has_all_to_learn and not full
        self.is_reconciled = True
        self._found = result
        return result

    async def reconcile(self) -> Reconciliation:
        """Compare the catalog with the store."""
        return await self.rebuild(full=self._has_all_to_learn)

    async def _keep_records(self, owned: OwnedPrefix) -> None:
        """Bring this replica's adoption records and marks in line with what the last comparison found."""
        found, self._found = self._found, None
        if found is None or not owned.is_shared:
            return
        for identity in found.unrecorded:
            async with self._catalog.lock(identity):
                if _is_held(self._catalog.get(identity)):
                    with suppress(SegmentBusy):
                        await owned.hold(identity)
        for identity in found.left:
            async with self._catalog.lock(identity):
                await owned.tidy(identity)
                is_used = _is_held(self._catalog.get(identity)) or self._catalog.intents(identity)
                if not is_used and await owned.store.head(identity.manifest_key) is None:
                    await owned.release(identity)

        recorded = set(found.parts)
        for part in found.spliced:
            if part.id not in recorded:
                with suppress(SegmentBusy):
                    await self._reliance.hold(owned, [part])
                    recorded.add(part.id)
        for identity in found.parts:
            with suppress(ObjectCorrupt):
                await self._reliance.drop(owned, identity)

    async def _reconcile_once(self) -> None:
        if not self.is_reconciled:
            await self.reconcile()


def _is_held(segment: Segment | None) -> bool:
    return segment is not None and segment.archive is not None and segment.archive.held
