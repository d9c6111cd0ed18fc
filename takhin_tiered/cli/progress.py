"""Progress on a terminal: bytes, their rate, the time left. Without a terminal nothing is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from takhin_tiered.cli.output import error_console


class Meter:
    """Progress so far: finished segments, and bytes. ``poll`` returns the bytes transferred so far, if known.

    Without ``poll``, as when a daemon does the work, the bytes are those of finished segments.
    """

    total_comes_later = False

    def __init__(self, total: int | None, segments: int | None, poll: Callable[[], int] | None = None) -> None:
        self.total, self.segments, self._poll = total, segments, poll
        self.ended = 0
        self._bytes = 0

    def end(self, size: int = 0) -> None:
        """A segment ended."""
        self.ended += 1
        self._bytes += size

    def reach(self, segments: int, size: int) -> None:
        """Set the totals so far."""
        self.ended, self._bytes = segments, size

    @property
    def bytes(self) -> int:
        done = self._bytes if self._poll is None else self._poll()
        # Manifests and retries count as transferred bytes too: never show more than the total.
        return done if self.total is None else min(done, self.total)

    @property
    def text(self) -> str:
        return f"{self.ended} of {self.segments}" if self.segments is not None else str(self.ended)


class _Bar(Progress):
    """Reads the meter each time it is drawn."""

    def __init__(self, verb: str, meter: Meter) -> None:
        errors = error_console()
        self._verb, self._meter = verb, meter
        self._bar: TaskID | None = None
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn()
            if meter.total is None and not meter.total_comes_later
            else TimeRemainingColumn(compact=True),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
            # If standard output is the terminal too, its lines go above the bar.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._bar = self.add_task(verb, total=meter.total)

    def make_tasks_table(self, tasks: Iterable[Task]) -> RenderableType:  # type: ignore[override]  # rich says Table
        # The first drawing comes before there is a task.
        if self._bar is not None:
            text = f"{self._verb} {self._meter.text}"
            self.update(self._bar, completed=self._meter.bytes, total=self._meter.total, description=text)
        return super().make_tasks_table(tasks)


@contextmanager
def shown(verb: str, meter: Meter) -> Iterator[None]:
    """Within: draw the meter, if standard error is a terminal."""
    with _Bar(verb, meter):
        yield
