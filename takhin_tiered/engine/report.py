"""What one cycle did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from takhin_tiered.segments.plan import Step
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import CycleResult, FailedSegment


@dataclass(slots=True)
class CycleReport:
    """What one cycle did. Times are seconds since the epoch; ``postponed`` steps were not begun.

    ``evicted`` are all that left the disk, just archived or before.

    ``bytes_freed`` are those of unlinked files. Their space is free once whoever has them open, as a live broker
    does, closes them. ``reserve_missing`` is as in `Outlook`.
    """

    started_at: float
    ended_at: float = 0.0
    planned: int = 0
    archived: int = 0
    copied: int = 0
    evicted: int = 0
    expired: int = 0
    postponed: int = 0
    bytes_freed: int = 0
    trimmed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    reserve_missing: int = 0

    @property
    def failed(self) -> bool:
        return bool(self.failures)

    @property
    def result(self) -> CycleResult:
        """As it stands now, in the stable form."""
        return CycleResult(
            started_at=iso_time(self.started_at),
            ended_at=iso_time(self.ended_at),
            archived=self.archived,
            copied=self.copied,
            evicted=self.evicted,
            expired=self.expired,
            postponed=self.postponed,
            bytes_freed=self.bytes_freed,
            trimmed=self.trimmed,
            failures=tuple(FailedSegment(path, error) for path, error in self.failures),
            reserve_missing_bytes=self.reserve_missing,
        )


Listener = Callable[[Step, str], None]
"""Told of each step: ``begin``, then ``done``, or why it failed."""
