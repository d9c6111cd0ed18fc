"""Progress on a terminal: bytes, their rate, and the time left. Nowhere else is anything drawn."""

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
    """What was done so far: segments, as they end, and bytes. ``poll`` tells bytes as they pass, where it is known.

    Without it, as where a daemon does the work, the bytes are those of the segments that ended.
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
        """So many segments and bytes in all."""
        self.ended, self._bytes = segments, size

    @property
    def bytes(self) -> int:
        done = self._bytes if self._poll is None else self._poll()
        # What is stored with a segment, and what is sent again, makes no more than all of it.
        return done if self.total is None else min(done, self.total)

    @property
    def text(self) -> str:
        return f"{self.ended} of {self.segments}" if self.segments is not None else str(self.ended)


class _Bar(Progress):
    """Looks at the meter whenever it is drawn."""

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
            # Lines go above the bar where both go to the terminal, and else to where they were sent.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._bar = self.add_task(verb, total=meter.total)

    def make_tasks_table(self, tasks: Iterable[Task]) -> RenderableType:  # type: ignore[override]  # rich says Table
        # It is drawn once before there is a task.
        if self._bar is not None:
            text = f"{self._verb} {self._meter.text}"
            self.update(self._bar, completed=self._meter.bytes, total=self._meter.total, description=text)
        return super().make_tasks_table(tasks)


@contextmanager
def shown(verb: str, meter: Meter) -> Iterator[None]:
    """Within, the meter is drawn, if standard error is a terminal."""
    with _Bar(verb, meter):
        yield
