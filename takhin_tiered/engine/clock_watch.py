"""Looks at the clocks, and remembers in the journal when they last agreed; `takhin_tiered.segments.clock` judges."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

from takhin_tiered import logs, machine
from takhin_tiered.engine.clock import Clock, Span
from takhin_tiered.errors import StoreError
from takhin_tiered.segments.clock import Anchor, Judgement, Reading, judge
from takhin_tiered.store import ObjectStore
from takhin_tiered.vault.identity import Meta

_ANCHOR = "clock"
_WORTH_WRITING = 60.0
_HINT = (
    "Until the clocks agree, nothing is removed for its age: retention, leases and leftovers wait. "
    "Set the clock right; if it is right: takhin-tiered run --once --accept-clock"
)


class ClockWatch:
    """``store`` is asked for its time, where there is one; ``may_write``: whether the journal is ours."""

    def __init__(
        self, clock: Clock, store: ObjectStore | None, meta: Meta | None, *, may_write: bool, confirmed: bool
    ) -> None:
        self._clock, self._store, self._meta = clock, store, meta
        self._may_write, self._confirmed = may_write, confirmed
        # Without boot IDs, no two processes are known to be of the same boot.
        self._boot = machine.boot_id() or uuid4().hex

    async def look(self, *, ask_store: bool) -> None:
        """Set the span of the clock. A store that does not answer tells no time."""
        if self._meta is None:
            return
        anchor = Anchor.parse(await self._meta.get_meta(_ANCHOR))
        reading = await self._reading(ask_store=ask_store)
        confirmed = self._confirmed and self._may_write and (ask_store or self._store is None)
        judged = judge(anchor, reading, confirmed=confirmed, asks_store=self._store is not None and self._may_write)
        self._set_span(judged, reading)
        if self._may_write and judged.anchor is not None and (confirmed or _is_worth_writing(anchor, judged.anchor)):
            await self._meta.set_meta(_ANCHOR, judged.anchor.dump())
            self._confirmed = self._confirmed and not confirmed

    async def _reading(self, *, ask_store: bool) -> Reading:
        told = None
        if ask_store and self._store is not None:
            with suppress(StoreError):
                told = await self._store.now()
        here = Reading(self._clock.now(), self._clock.uptime(), self._boot)
        if told is None:
            return here
        return Reading(here.wall, here.uptime, here.boot, told.seconds, told.is_independent)

    def _set_span(self, judged: Judgement, now: Reading) -> None:
        if judged.problem and judged.problem != self._clock.span.problem:
            logs.logger().error("the clock cannot be believed", problem=judged.problem, hint=_HINT)
        self._clock.span = Span(judged.earliest, judged.latest, now.uptime, judged.problem)


def _is_worth_writing(old: Anchor | None, new: Anchor) -> bool:
    if old is None or old.boot != new.boot:
        return True
    return old != new and abs(new.wall - old.wall) + abs(new.uptime - old.uptime) > _WORTH_WRITING
