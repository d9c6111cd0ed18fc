"""What outlives the process of a cycle: its report, which segments were lost, how the disk filled up."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any, TypedDict

from takhin_tiered.catalog.journal import Journal
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.headroom import lasts
from takhin_tiered.engine.report import CycleReport
from takhin_tiered.engine.scanning import Scanner
from takhin_tiered.errors import TakhinError
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import CycleResult, LostSegment, from_json, to_json

_NAME = "last cycle"
_DAY = 86400.0
_LOST_KEPT = 100
_FAILURES_KEPT = 100


class _Kept(TypedDict):
    report: dict[str, Any] | None
    problem: str
    ended: float
    by: str
    lost: list[tuple[float, str]]
    free: list[tuple[float, int]]


class CycleHistory:
    """Kept in the catalog's database where there is one. ``daemon``: this process is the daemon."""

    def __init__(
        self, clock: Clock, data_dir: DataDirs, scanner: Scanner, journal: Journal | None, *, may_write: bool
    ) -> None:
        self._clock, self._data_dir, self._scanner = clock, data_dir, scanner
        self._journal, self._may_write = journal, may_write
        self.daemon = False
        self._began: float | None = None
        self._kept = _Kept(report=None, problem="", ended=0.0, by="", lost=[], free=[])

    async def load(self) -> None:
        text = await self._journal.get_meta(_NAME) if self._journal is not None else None
        if text is None:
            return
        try:
            kept = _Kept(**{**self._kept, **json.loads(text)})
            if kept["report"] is not None:
                from_json(CycleResult, kept["report"])
            self._kept = kept
        except (ValueError, TypeError):
            # A later release may have written another form. The next cycle writes it again.
            return

    def begin(self) -> None:
        self._began = time.monotonic()

    async def end(self, report: CycleReport | None, error: TakhinError | None) -> None:
        """Remember a cycle that ended. One that failed as a whole leaves the report of the one before."""
        self._began = None
        kept, now = self._kept, self._clock.now()
        if report is not None:
            # A hundred failures are enough to see what is wrong.
            result = report.result
            kept["report"] = to_json(replace(result, failures=result.failures[:_FAILURES_KEPT]))
        kept["problem"] = "" if error is None else str(error)
        kept["ended"], kept["by"] = now, "daemon" if self.daemon else "once"
        kept["lost"] = self._lost(now)[-_LOST_KEPT:]
        self._scanner.lost.clear()
        kept["free"] = [*(look for look in kept["free"] if 0 <= now - look[0] < _DAY), (now, self._free())]
        if self._journal is not None and self._may_write:
            await self._journal.set_meta(_NAME, json.dumps(kept))

    @property
    def last_cycle(self) -> CycleResult | None:
        report = self._kept["report"]
        return None if report is None else from_json(CycleResult, report)

    @property
    def failures(self) -> int:
        """Segments for which the last cycle failed; of one that could do nothing, those of the cycle before."""
        report = self._kept["report"]
        return 0 if report is None else len(report["failures"])

    @property
    def problem(self) -> str:
        """Why the last cycle could do nothing."""
        return self._kept["problem"]

    @property
    def ended(self) -> float:
        return self._kept["ended"]

    @property
    def by(self) -> str:
        """Who ran the last cycle: ``daemon`` or ``once``."""
        return self._kept["by"]

    @property
    def running_seconds(self) -> float | None:
        """How long the running cycle has taken so far."""
        return None if self._began is None else round(time.monotonic() - self._began, 3)

    def lost(self) -> tuple[LostSegment, ...]:
        return tuple(LostSegment(path, iso_time(at)) for at, path in self._lost(self._clock.now()))

    def headroom(self, measured: float | None) -> float | None:
        """How long the disk lasts, in seconds; ``measured`` is what a daemon knows of it."""
        return self._headroom(self._clock.now()) if measured is None and not self.daemon else measured

    def _lost(self, now: float) -> list[tuple[float, str]]:
        """Segments that were lost within the last day."""
        return [(at, path) for at, path in (*self._kept["lost"], *self._scanner.lost) if now - at < _DAY]

    def _free(self) -> int:
        """Of the fullest disk: room on another one is of no use to its partitions."""
        return min(self._data_dir.free_by_device().values(), default=0)

    def _headroom(self, now: float) -> float | None:
        """By how the disk filled up between the first cycle of the last day and now; None: it does not."""
        looks = [(at, free) for at, free in self._kept["free"] if now - _DAY <= at <= now]
        return lasts(now - looks[0][0], looks[0][1], self._free()) if looks else None
