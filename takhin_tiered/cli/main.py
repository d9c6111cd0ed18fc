"""``takhin-tiered``: the commands. Results go to standard output, logs and errors to standard error.

Exit status: 0 done; 1 something failed, with a message; 2 usage or configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

import takhin_tiered
from takhin_tiered.cli import lazy
from takhin_tiered.errors import StoreUnavailable, TakhinError

_STORE = StoreUnavailable.usual_hint
_ADVICE = {
    "store": _STORE,
    "store_denied": _STORE,
    "bucket_missing": _STORE,
    "broker_unavailable": "Check that the broker runs, and storage.tiered.broker.bootstrap",
    "unauthorized": "Set storage.tiered.api.token, or TAKHIN_STORAGE_TIERED_API_TOKEN, to the daemon's token",
    "disk": "Check that disk. Nothing is moved until it can be read and written",
}
_TRACE_VARIABLE = "TAKHIN_TRACE"

app = typer.Typer(
    name="takhin-tiered",
    help="Moves a broker's cold log segments to S3, MinIO or a directory, verified, and brings them back.",
    epilog=lazy.examples(
        "takhin-tiered demo",
        "takhin-tiered config example > takhin.yaml",
        "takhin-tiered --config takhin.yaml doctor",
        "takhin-tiered --config takhin.yaml plan",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


lazy.add(
    app, "run", "run:run", "The daemon: scan, archive what is cold, serve the API.",
    "takhin-tiered run", "takhin-tiered run --once",
)  # fmt: skip
lazy.add(
    app, "plan", "listing:plan", "Dry run: what the next cycle would do, and why.",
    "takhin-tiered plan", "takhin-tiered plan --json | jq '.segments[].action'",
)  # fmt: skip
lazy.add(
    app, "status", "status:status", "Tiers, states, bytes, the last cycle, the store.",
    "takhin-tiered status", "takhin-tiered status --watch", "takhin-tiered status --json",
    "takhin-tiered status --check || mail -s takhin ops@example.com",
)  # fmt: skip
lazy.add(
    app, "ls", "listing:ls", "List segments, or partitions with their offsets.",
    "takhin-tiered ls 'orders-*' --state archived", "takhin-tiered ls --problem",
    "takhin-tiered ls --partitions orders-0",
)  # fmt: skip
lazy.add(
    app, "archive", "moves:archive", "Archive segments by hand, whatever their age.",
    "takhin-tiered archive orders-0/00000000000000000000.log", "takhin-tiered archive 'orders-*' -n",
)  # fmt: skip
lazy.add(
    app, "restore", "restore:restore", "Bring archived segments back to the disk.",
    "takhin-tiered restore 'orders-*'",
    "takhin-tiered restore orders-0 --offsets 1000-2000 -n",
    "takhin-tiered restore orders-0 --since 2026-11-01T06:00 --for 6h",
)  # fmt: skip
lazy.add(
    app, "read", "read:read", "Records of a partition, wherever they are, without a restore.",
    "takhin-tiered read orders-0 --offset 1000 --max 10 | jq -r '.value | @base64d'",
    "takhin-tiered read orders-0 --timestamp 2026-11-01T06:00 --format value",
)  # fmt: skip
lazy.add(
    app, "verify", "verify:verify", "Compare the archive with its manifests.",
    "takhin-tiered verify", "takhin-tiered verify 'orders-*' --deep",
)  # fmt: skip
lazy.add(
    app, "history", "history:history", "What happened to a segment, with correlation IDs.",
    "takhin-tiered history orders-0/00000000000000000000.log",
    "takhin-tiered history orders-0/00000000000000000000.log --json",
)  # fmt: skip
lazy.add(
    app, "cost", "cost:cost", "What the tiers cost a month, and what was saved.",
    "takhin-tiered cost", "takhin-tiered cost --json | jq .cost_savings_pct",
)  # fmt: skip
lazy.add(
    app, "rebuild", "rebuild:rebuild", "Rebuild the catalog from the disk and the bucket.",
    "takhin-tiered rebuild",
)  # fmt: skip
lazy.add(
    app, "rekey", "rekey:rekey", "Wrap the data keys of the archive with the current key.",
    "takhin-tiered rekey",
)  # fmt: skip
lazy.add(
    app, "doctor", "doctor:doctor", "Check configuration, disk, store, clock, owner, catalog.",
    "takhin-tiered doctor", "takhin-tiered --config takhin.yaml doctor",
)  # fmt: skip
lazy.add(
    app, "demo", "demo:demo", "Archive and restore sample segments: no cloud needed.",
    "takhin-tiered demo", "takhin-tiered demo --keep",
)  # fmt: skip

fleet_app = typer.Typer(
    help="The shared catalog of a fleet, on DynamoDB.",
    epilog=lazy.examples("takhin-tiered fleet init", "takhin-tiered fleet status"),
    no_args_is_help=True,
)
app.add_typer(fleet_app, name="fleet")
lazy.add(
    fleet_app, "init", "fleet:init", "Create the table, as the contract says.",
    "takhin-tiered fleet init",
)  # fmt: skip
lazy.add(
    fleet_app, "status", "fleet:status", "The table and every node.",
    "takhin-tiered fleet status", "takhin-tiered fleet status --json | jq '.nodes[].node'",
)  # fmt: skip
lazy.add(
    fleet_app, "ls", "fleet:ls", "List the segments of all nodes.",
    "takhin-tiered fleet ls 'orders-*'", "takhin-tiered fleet ls --node broker-1 --state archived",
)  # fmt: skip
lazy.add(
    fleet_app, "migrate", "fleet:migrate", "Write the local catalog to the table.",
    "takhin-tiered fleet migrate --dry-run", "takhin-tiered fleet migrate --yes",
    "takhin-tiered fleet migrate --resume --yes",
)  # fmt: skip
lazy.add(
    fleet_app, "verify", "fleet:verify", "Compare the table with the local catalog.",
    "takhin-tiered fleet verify", "takhin-tiered fleet verify --json",
)  # fmt: skip
lazy.add(
    fleet_app, "rollback", "fleet:rollback", "Take a migration back.",
    "takhin-tiered fleet rollback 01JDKZ3V5X2M8Q4T6W7Y9A1B3C",
)  # fmt: skip

tables_app = typer.Typer(
    help="Hybrid tables: old items of DynamoDB tables, in the store.",
    epilog=lazy.examples("takhin-tiered tables plan"),
    no_args_is_help=True,
)
app.add_typer(tables_app, name="tables")
lazy.add(
    tables_app, "ls", "tables:ls", "List the configured tables.",
    "takhin-tiered tables ls", "takhin-tiered tables ls --json",
)  # fmt: skip
lazy.add(
    tables_app, "plan", "tables:plan", "Dry run: what the next archive would move, and why not the rest.",
    "takhin-tiered tables plan", "takhin-tiered tables plan orders --json",
)  # fmt: skip
lazy.add(
    tables_app, "archive", "tables:archive", "Move items that are old enough to the store.",
    "takhin-tiered tables archive", "takhin-tiered tables archive orders -n --estimate",
    "takhin-tiered tables archive orders --capacity 100",
)  # fmt: skip
lazy.add(
    tables_app, "unarchive", "tables:unarchive", "Bring an archived item back into its table.",
    "takhin-tiered tables unarchive orders CUST_1 ORDER_1",
)  # fmt: skip
lazy.add(
    tables_app, "verify", "tables:verify", "Compare every pointer with its object.",
    "takhin-tiered tables verify", "takhin-tiered tables verify orders --json",
)  # fmt: skip
lazy.add(
    tables_app, "get", "tables:get", "Print an item, wherever it is.",
    "takhin-tiered tables get orders CUST_1 ORDER_1",
)  # fmt: skip

config_app = typer.Typer(
    help="Check and show the settings.",
    epilog=lazy.examples("takhin-tiered config check --connect"),
    no_args_is_help=True,
)
app.add_typer(config_app, name="config")
lazy.add(
    config_app, "check", "settings:config_check", "Validate the settings; with --connect the store too.",
    "takhin-tiered config check", "takhin-tiered --config takhin.yaml config check --connect",
)  # fmt: skip
lazy.add(
    config_app, "show", "settings:config_show", "Print the effective settings and their sources.",
    "takhin-tiered config show",
)  # fmt: skip
lazy.add(
    config_app, "example", "settings:config_example", "Print an annotated file with every key and default.",
    "takhin-tiered config example > takhin.yaml",
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"takhin-tiered {takhin_tiered.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file. Default: $TAKHIN_CONFIG, else /etc/takhin/takhin.yaml."),
    ] = None,
    accept_store: Annotated[  # noqa: ARG001 - `running.settings_of` takes it from the context
        str | None,
        typer.Option(metavar="ID", help="Use the store with this ID, although earlier archives went to another one."),
    ] = None,
    accept_clock: Annotated[  # noqa: ARG001
        bool, typer.Option("--accept-clock", help="Confirm that the clock is right, although it jumped.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    context.obj = config


def main() -> None:
    """The entry point: errors become one line and an exit status, never a traceback."""
    try:
        app(_global_options_first(sys.argv[1:]))
    except TakhinError as error:
        _end_with(error)
    except Exception as error:
        ours = _ours(error)
        if ours is not None:
            _end_with(ours)
        if os.environ.get(_TRACE_VARIABLE):
            raise
        _print_error(
            f"unexpected error: {_describe(error)}. No local file is removed before its archived copy is verified. Try "
            f"again. If it fails again, report this with the output of the command under {_TRACE_VARIABLE}=1"
        )
        sys.exit(1)


def _end_with(error: TakhinError) -> None:
    text = str(error)
    # An error that came through the daemon may say only what failed.
    advice = "" if error.hint or ". " in text else _ADVICE.get(error.code, "")
    _print_error(f"{text}. {advice}" if advice else text)
    sys.exit(error.exit_code)


def _print_error(text: str) -> None:
    # Imported here: only a failed command has to wait for it.
    from takhin_tiered.cli.output import error_console, escape

    error_console().print("[red]Error:[/red]", escape(text))


def _ours(error: BaseException) -> TakhinError | None:
    """The first of this project's errors in a group."""
    if isinstance(error, TakhinError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _ours(each)) is not None), None)
    return None


def _describe(error: BaseException) -> str:
    # Imported here: few commands fail like that.
    import traceback

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _global_options_first(arguments: Iterable[str]) -> list[str]:
    """Global options are accepted anywhere: move them before the command."""
    front, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += [argument, *remaining]
        elif argument in {"--config", "--accept-store"}:
            front += [argument, *([value] if (value := next(remaining, None)) is not None else [])]
        elif argument == "--accept-clock" or argument.startswith(("--config=", "--accept-store=")):
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest
