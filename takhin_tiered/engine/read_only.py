"""Segments that stand only under a read-only prefix. Retention keeps them: nothing is removed there.

If the catalog forgot them instead, each rebuild would learn them again, and each cycle forget them again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.errors import StoreError
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb
from takhin_tiered.store import ReadableStore

REASON = "stands under a prefix that is only read (storage.tiered.s3.prefixes.read)"
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ReadOnlyPrefixes:
    """``is_used``: the store also reads what others wrote."""

    catalog: Catalog
    store: ReadableStore
    is_used: bool
    # Segments that are known to stand only there, each by when it was archived.
    found: dict[SegmentId, float] = field(default_factory=dict)

    async def is_read_only(self, identity: SegmentId) -> bool:
        """Whether the segment's manifest stands under such a prefix, and not under the own one. `StoreError`."""
        if not self.is_used:
            return False
        info = await self.store.head(identity.manifest_key)
        return info is not None and info.read_only

    async def keep(self, plan: Plan) -> Plan:
        """The plan, with such segments kept instead of expired. The store is asked once for each archive.

        Where the store does not answer, steps stay as they are: an expire asks again, before it removes anything.
        """
        if not self.is_used:
            return plan
        unknown = [step.id for step in plan.steps if step.verb is Verb.EXPIRE and not self._is_known(step.id)]
        try:
            for at in range(0, len(unknown), _AT_ONCE):
                some = unknown[at : at + _AT_ONCE]
                found = await asyncio.gather(*(self.is_read_only(identity) for identity in some))
                self.found.update(
                    {i: self._archived_at(i) for i, is_read_only in zip(some, found, strict=True) if is_read_only}
                )
        except StoreError:
            return plan
        return replace(plan, steps=tuple(_kept(step) if self._is_to_keep(step) else step for step in plan.steps))

    def _is_to_keep(self, step: Step) -> bool:
        return step.verb is Verb.EXPIRE and self._is_known(step.id)

    def _is_known(self, identity: SegmentId) -> bool:
        return self.found.get(identity) == self._archived_at(identity)

    def _archived_at(self, identity: SegmentId) -> float:
        """When it was archived last, in seconds since the epoch: an answer for an older archive is out of date."""
        segment = self.catalog.get(identity)
        return segment.archive.archived_at if segment is not None and segment.archive is not None else -1.0


def _kept(step: Step) -> Step:
    return replace(step, verb=Verb.KEEP, reason=f"{step.reason}, but it {REASON}", reason_code="read_only")
