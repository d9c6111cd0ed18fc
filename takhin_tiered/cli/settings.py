"""``config``: check, show, and an example of all settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import typer

from takhin_tiered import logs
from takhin_tiered.api.tokens import load_tokens
from takhin_tiered.cli.broker import directory_text, try_broker
from takhin_tiered.cli.findings import Finding, failures, run_abandonable, run_check
from takhin_tiered.cli.output import console, error_console, print_table
from takhin_tiered.cli.probe import check_data_dirs, check_disk, check_state_dir, probe_store
from takhin_tiered.cli.running import exit_on_failures, finish, settings_of
from takhin_tiered.config import Settings, find_config
from takhin_tiered.config_example import example
from takhin_tiered.config_listeners import API_TLS, SHORTEST_TOKEN
from takhin_tiered.errors import TakhinError
from takhin_tiered.store import open_store
from takhin_tiered.tls import tls_context
from takhin_tiered.vault.codecs import load_keys


def config_check(
    context: typer.Context,
    connect: Annotated[
        bool, typer.Option("--connect", help="Check the store, its permissions, the disk and the broker too.")
    ] = False,
) -> None:
    """Validate the settings and the files that they name, and report the broker found in the data directories.

    With --connect it writes one small object to the store, reads it and removes it.
    """
    settings = settings_of(context)
    for path in settings.data_dirs:
        if not os.path.isdir(path):  # noqa: PTH112 - it raises nothing
            error_console().print(f"Warning: storage.data.dir {path} is not a directory on this machine")
    for line in directory_text(settings):
        error_console().print(line)
    if settings.has_short_token:
        error_console().print(
            f"Warning: storage.tiered.api.token has less than {SHORTEST_TOKEN} characters: others could guess it. "
            "openssl rand -hex 32 makes a good one"
        )
    load_keys(settings)
    load_tokens(settings)
    if settings.api_tls_cert is not None and settings.api_tls_key is not None:
        tls_context(settings.api_tls_cert, settings.api_tls_key, API_TLS)
    if settings.kafka_port:
        # It takes a while to import.
        from takhin_tiered.kafka.service import Endpoint

        Endpoint(settings)
    if connect:
        logs.configure_for_command("error")
        finish(_connect(settings))
    console().print(f"The configuration is valid ({find_config(context.obj) or 'from the environment'})")


async def _connect(settings: Settings) -> None:
    """Run all checks; exit 1 if any failed."""
    found: list[Finding] = []
    for look in (check_data_dirs, check_state_dir, check_disk):
        found += await run_abandonable(partial(_listed, look, settings))
    if settings.has_store:
        try:
            async with open_store(settings) as store:
                advice = "Check the network, and that the server runs"
                found += await run_check("store", advice, probe_store(settings, store))
        except TakhinError as error:
            found.append(Finding("FAILED", "store", error.message, error.hint))
    for finding in found:
        finding.print()
    await try_broker(settings)
    exit_on_failures(failures(found))


def _listed(look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> list[Finding]:
    return list(look(settings))


def config_example() -> None:
    """Print a configuration file with every key, its default and what it does. Set storage.data.dir and a store."""
    sys.stdout.write(example())


def config_show(context: typer.Context) -> None:
    """Print the effective settings, each with its source. Secrets are masked."""
    settings = settings_of(context)
    rows = [(key, value, settings.source(key)) for key, value in settings.items()]
    print_table(("KEY", "VALUE", "FROM"), rows, wraps="VALUE")
