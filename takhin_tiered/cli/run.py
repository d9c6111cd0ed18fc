"""``run``: the daemon, or one cycle."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from takhin_tiered import logs
from takhin_tiered.cli.output import console, counted, escape, size
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import settings_of
from takhin_tiered.engine.report import CycleReport, Listener
from takhin_tiered.lifecycle import Interrupted, run_in_loop, run_once
from takhin_tiered.segments.plan import Step
from takhin_tiered.tiered_storage import TieredStorage

_FAILURES_SHOWN = 20


def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Run one cycle, then exit.")] = False,
) -> None:
    """The daemon: scan, archive what is cold, serve the API.

    With --once on a terminal: progress and a summary instead of log lines.
    """
    settings = settings_of(context)
    watched = once and sys.stderr.isatty()
    logs.configure("warning" if watched else settings.log_level, "text" if watched else settings.log_format)
    if not watched:
        logs.use_nonblocking_stderr()
    if watched:
        raise typer.Exit(run_in_loop(run_once(settings, _watched, _share)))
    if once:
        raise typer.Exit(run_in_loop(run_once(settings, after=_share)))
    # Imported here: the web framework takes half a second, and only the daemon needs it.
    # A SIGHUP during the import has nothing to do: the settings were read just now.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from takhin_tiered.daemon import run_daemon

    # A signal before the daemon's own handlers are in place ends it too.
    with suppress(Interrupted):
        run_in_loop(run_daemon(settings, lambda: settings_of(context)))


async def _share(storage: TieredStorage) -> None:
    """Write what the cycle changed to the fleet's table, if there is one. An outage of the table is no failure."""
    if storage.settings.fleet_mode != "local":
        from takhin_tiered.fleet.service import open_fleet

        async with open_fleet(storage) as fleet:
            await fleet.sync()


@contextmanager
def _watched(storage: TieredStorage) -> Iterator[Listener]:
    meter = _CycleMeter(storage)

    def listen(_: Step, event: str) -> None:
        if event == "begin":
            meter.total, meter.segments = storage.progress.planned_bytes, storage.progress.planned_segments
        else:
            meter.end()

    with shown("segments", meter):
        yield listen
    if storage.last_cycle is not None:
        _print_summary(storage.last_cycle)


class _CycleMeter(Meter):
    total_comes_later = True

    def __init__(self, storage: TieredStorage) -> None:
        metrics = storage.metrics
        before = metrics.bytes_moved()
        super().__init__(None, None, lambda: metrics.bytes_moved() - before)


def _print_summary(report: CycleReport) -> None:
    out = console()
    if not report.planned:
        out.print("Nothing to do: takhin-tiered plan says why each segment stays")
    done = [
        f"{counted(report.archived, 'segment')} archived",
        f"{report.copied} copied",
        f"{report.evicted} evicted",
        f"{report.expired} expired",
        f"{size(report.bytes_freed)} of files unlinked",
        f"{len(report.failures)} failed",
        f"{report.postponed} postponed",
    ]
    out.print(f"{', '.join(done)}; {report.ended_at - report.started_at:.1f} s")
    for path, error in report.failures[:_FAILURES_SHOWN]:
        out.print(f"[red]FAILED[/red] {escape(path)}: {escape(error)}", soft_wrap=True)
    if len(report.failures) > _FAILURES_SHOWN:
        out.print(f"and {len(report.failures) - _FAILURES_SHOWN} more: takhin-tiered ls --problem")
