"""``takhin-tiered``: the commands. Results go to standard output, logs and errors to standard error.

Exit status: 0 done; 1 something failed, and it says what; 2 usage or configuration.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import takhin_tiered
from takhin_tiered import logs
from takhin_tiered.cli.doctor import doctor
from takhin_tiered.cli.listing import ls, plan
from takhin_tiered.cli.moves import archive
from takhin_tiered.cli.output import error_console, examples
from takhin_tiered.cli.rebuild import rebuild
from takhin_tiered.cli.restore import restore
from takhin_tiered.cli.run import run
from takhin_tiered.cli.running import finish
from takhin_tiered.cli.settings import config_check, config_example, config_show
from takhin_tiered.cli.status import status
from takhin_tiered.cli.verify import verify
from takhin_tiered.errors import TakhinError

_STORE = "takhin-tiered doctor tries the store and its permissions. Local files stay where they are"
_ADVICE = {
    "store": _STORE,
    "store_unavailable": _STORE,
    "store_denied": _STORE,
    "bucket_missing": _STORE,
    "broker_unavailable": "See whether the broker runs: storage.tiered.broker.bootstrap",
    "unauthorized": "Set storage.tiered.api.token to the daemon's, or TAKHIN_STORAGE_TIERED_API_TOKEN",
    "disk": "Look at that disk. Nothing is moved until it can be read and written",
}
_TRACE_VARIABLE = "TAKHIN_TRACE"

app = typer.Typer(
    name="takhin-tiered",
    help="Moves cold log segments of a broker to S3, MinIO or a directory, provably intact, and brings them back.",
    epilog=examples(
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


_SHORT = {
    "run": "The daemon: scan, archive what is cold, serve the API.",
    "plan": "Dry run: what the next cycle would do, and why.",
    "status": "Tiers, states, bytes, the last cycle, the store.",
    "ls": "Segments, a row each; or partitions with their offsets.",
    "archive": "Archive segments by hand, whatever their age.",
    "restore": "Bring archived segments back to the disk.",
    "verify": "Compare the archive with its manifests.",
    "rebuild": "Rebuild the catalog from the disk and the bucket.",
    "doctor": "Check all that an operator would check by hand.",
    "demo": "The main job on made-up segments: no cloud needed.",
    "check": "Validate the settings; --connect tries the store too.",
    "example": "Print a file with every key, its default, what it does.",
    "show": "Print the effective settings, and where each came from.",
}
"""A line each in the list of commands, which cuts whatever is longer than it is wide."""


def _add(to: typer.Typer, name: str, command: Callable[..., Any], *lines: str) -> None:
    to.command(name, short_help=_SHORT[name], epilog=examples(*lines))(command)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the daemon serving afterwards.")] = False,
) -> None:
    """The main job on made-up Kafka segments and a directory store: no cloud needed."""
    from takhin_tiered.cli.demo import run_demo

    logs.for_a_command()
    finish(run_demo(keep=keep))


_add(app, "run", run, "takhin-tiered run", "takhin-tiered run --once")
_add(app, "plan", plan, "takhin-tiered plan", "takhin-tiered plan --json | jq '.segments[].action'")
_add(
    app, "status", status,
    "takhin-tiered status", "takhin-tiered status --json",
    "takhin-tiered status --check || mail -s takhin ops@example.com",
)  # fmt: skip
_add(
    app, "ls", ls,
    "takhin-tiered ls 'orders-*' --state archived", "takhin-tiered ls --problem",
    "takhin-tiered ls --partitions orders-0",
)  # fmt: skip
_add(
    app, "archive", archive,
    "takhin-tiered archive orders-0/00000000000000000000.log", "takhin-tiered archive 'orders-*' -n",
)  # fmt: skip
_add(
    app, "restore", restore,
    "takhin-tiered restore 'orders-*'",
    "takhin-tiered restore orders-0 --offsets 1000-2000 -n",
    "takhin-tiered restore orders-0 --since 2026-11-01T06:00 --for 6h",
)  # fmt: skip
_add(app, "verify", verify, "takhin-tiered verify", "takhin-tiered verify 'orders-*' --deep")
_add(app, "rebuild", rebuild, "takhin-tiered rebuild")
_add(app, "doctor", doctor, "takhin-tiered doctor", "takhin-tiered --config takhin.yaml doctor")
_add(app, "demo", demo, "takhin-tiered demo", "takhin-tiered demo --keep")

config_app = typer.Typer(
    help="Check and show the settings.", epilog=examples("takhin-tiered config check --connect"), no_args_is_help=True
)
app.add_typer(config_app, name="config")
_add(
    config_app, "check", config_check,
    "takhin-tiered config check", "takhin-tiered --config takhin.yaml config check --connect",
)  # fmt: skip
_add(config_app, "show", config_show, "takhin-tiered config show")
_add(config_app, "example", config_example, "takhin-tiered config example > takhin.yaml")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"takhin-tiered {takhin_tiered.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The file to read; else $TAKHIN_CONFIG, else /etc/takhin/takhin.yaml."),
    ] = None,
    accept_store: Annotated[  # noqa: ARG001 - `running.settings_of` takes it from the context
        str | None,
        typer.Option(metavar="ID", help="Use the store that has this ID, although it is not the one archived to."),
    ] = None,
    accept_clock: Annotated[  # noqa: ARG001
        bool, typer.Option("--accept-clock", help="The clock is right, although it jumped.")
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
        error_console().print(
            "[red]Error:[/red]", escape(f"this was not foreseen: {_words(error)}. No local file is removed before "
            f"the archive is proven. Try again; if it comes again, report it with what {_TRACE_VARIABLE}=1 before the "
            "command prints")
        )  # fmt: skip
        sys.exit(1)


def _end_with(error: TakhinError) -> None:
    words = str(error)
    # What comes from afar, or through the daemon, may say only what failed.
    advice = "" if error.hint or ". " in words else _ADVICE.get(error.code, "")
    error_console().print("[red]Error:[/red]", escape(f"{words}. {advice}" if advice else words))
    sys.exit(error.exit_code)


def _ours(error: BaseException) -> TakhinError | None:
    """The first of this project's errors among those that came together."""
    if isinstance(error, TakhinError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _ours(each)) is not None), None)
    return None


def _words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _global_options_first(arguments: Iterable[str]) -> list[str]:
    """What belongs before a command is taken wherever it stands."""
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
