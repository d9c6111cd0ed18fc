"""What keeps an archive sound: verify, scrub, rebuild, reconcile, rekey. A part of the façade."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING

from takhin_tiered.engine.naming import known_segment
from takhin_tiered.engine.verifying import verify_told
from takhin_tiered.pace import Pace

if TYPE_CHECKING:
    from takhin_tiered.catalog.catalog import Catalog
    from takhin_tiered.config import Settings
    from takhin_tiered.engine.coverage import CoverageReader
    from takhin_tiered.engine.guards import Guards
    from takhin_tiered.engine.preparation import Preparation
    from takhin_tiered.engine.rebuild import Reconciliation
    from takhin_tiered.engine.rekey import Rekeyer
    from takhin_tiered.engine.scanning import Scanner
    from takhin_tiered.engine.scrub import Scrubber, Verdict, Verifier
    from takhin_tiered.engine.superseded import SupersededRemover
    from takhin_tiered.segments.names import SegmentId
    from takhin_tiered.segments.results import Hole, RekeyResult, VerifiedSegment
    from takhin_tiered.vault.owned import OwnedPrefix


class Maintenance:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        settings: Settings
        _catalog: Catalog
        _preparation: Preparation
        _scanner: Scanner

        async def prepare(self) -> OwnedPrefix: ...

        async def look_at_clock(self) -> None: ...

    def _maintain(  # noqa: PLR0917 - the façade gives them by name
        self,
        guards: Guards,
        coverage: CoverageReader,
        verifier: Verifier,
        scrubber: Scrubber,
        rekeyer: Rekeyer,
        superseded: SupersededRemover,
    ) -> None:
        """Take what these verbs use."""
        self._guards, self._coverage, self._verifier = guards, coverage, verifier
        self._scrubber, self._rekeyer, self._superseded = scrubber, rekeyer, superseded

    def verify(
        self, wanted: Callable[[SegmentId], bool] = lambda _: True, *, deep: bool = False
    ) -> AsyncIterator[Verdict]:
        """Compare the archive with its manifests; ``deep`` reads every byte back."""

        async def verdicts() -> AsyncIterator[Verdict]:
            await self._guards.judge_store_to_read()
            async for verdict in self._verifier.verify(wanted, deep=deep):
                yield verdict

        return verdicts()

    def verify_told(self, glob: str = "*", *, deep: bool = False) -> AsyncIterator[VerifiedSegment | Hole]:
        """The same in short, and behind the segments the holes between them."""
        return verify_told(self._coverage, self.verify, glob, deep=deep)

    async def rebuild(self, progress: Callable[[int, int], None] = lambda *_: None) -> Reconciliation:
        """Learn from the disk and the bucket what there is, whatever the catalog says."""
        await self._scanner.scan()
        # What it learns of an archive without an ID makes that one no more the known one.
        await self._guards.judge_store_to_read()
        return await self._preparation.rebuild(full=True, progress=progress)

    async def reconcile(self) -> Reconciliation:
        """Hold the catalog against the bucket, and mend it."""
        await self._guards.judge_store_to_read()
        return await self._preparation.reconcile()

    async def rekey(self, progress: Callable[[int], None] = lambda _: None) -> RekeyResult:
        """Wrap all data keys of the archive with the current key of the key file."""
        return await self._rekeyer.rekey(await self.prepare(), progress)

    async def scrub(self) -> None:
        """Read the whole archive once, at the configured pace; see `scrub_segment`."""
        await self._scrubber.scrub(await self.prepare(), Pace(self.settings.scrub_mbps * 1e6))

    async def scrub_segment(self, path: str, *, topic_id: str | None = None) -> Verdict:
        """Read one archived segment back; a bad one is quarantined, and healed if it stands whole on disk."""
        identity = known_segment(self._catalog, path, topic_id).id
        return await self._scrubber.scrub_one(await self.prepare(), identity, Pace(0))

    async def remove_superseded(self, identities: Iterable[SegmentId], keep: float) -> int:
        """Remove generations that were superseded more than ``keep`` seconds ago; returns how many."""
        owned = await self.prepare()
        await self.look_at_clock()
        return await self._superseded.remove(owned, identities, keep)
