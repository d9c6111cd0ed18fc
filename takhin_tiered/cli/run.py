"""``run``: the daemon, or one cycle."""

from __future__ import annotations

from typing import Annotated

import typer

from takhin_tiered import logs
from takhin_tiered.cli.running import settings_of
from takhin_tiered.lifecycle import run_in_loop, run_once


def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Run one cycle, then exit.")] = False,
) -> None:
    """The daemon: scan, archive what is cold, serve the API."""
    settings = settings_of(context)
    logs.configure(settings.log_level, settings.log_format)
    if once:
        raise typer.Exit(run_in_loop(run_once(settings)))
    # Imported here, as the web framework takes half a second that nothing else need wait for.
    from takhin_tiered.daemon import run_daemon

    run_in_loop(run_daemon(settings))
