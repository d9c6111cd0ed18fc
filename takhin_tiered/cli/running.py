"""How a command runs: its settings, its loop, its exit status."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import typer

from takhin_tiered import logs
from takhin_tiered.config import Accepted, Settings
from takhin_tiered.lifecycle import run_in_loop


def settings_of(context: typer.Context) -> Settings:
    """From the file and the environment, with the confirmations of the command line."""
    options = context.find_root().params
    return Settings.load(context.obj).accepting(
        Accepted(options.get("accept_store") or "", bool(options.get("accept_clock")))
    )


def run_work(context: typer.Context, work: Any) -> None:
    settings = settings_of(context)
    logs.configure_for_command()
    finish(work(settings))


def finish(work: Coroutine[Any, Any, None]) -> None:
    run_in_loop(work)


def exit_on_failures(failures: int) -> None:
    if failures:
        raise typer.Exit(1)
