"""When the next cycle comes, and by which ages it counts: a part of the façade."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from takhin_tiered.catalog.catalog import Catalog
    from takhin_tiered.engine.clock import Clock
    from takhin_tiered.engine.situation import Situation


class Plans:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        _catalog: Catalog
        _clock: Clock
        _situation: Situation

    @property
    def cycle_seconds(self) -> float:
        """The pause from the beginning of one cycle to the next: the broker's retention may shorten it."""
        return self._situation.view.cycle_seconds

    @property
    def opens_in(self) -> float:
        """Seconds until the next window to archive in opens; infinite while one is open."""
        now = self._clock.now()
        opens_at = self._situation.policy.windows.opens_at(now)
        return math.inf if opens_at is None else opens_at - now

    def count_again(self) -> None:
        """After settings by which topics may have other ages of their own were applied; blocking."""
        self._catalog.group_ages(self._situation.policy.ages_of)
