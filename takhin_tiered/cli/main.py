"""``takhin-tiered``: the commands. Results go to standard output, logs and errors to standard error.

Exit status: 0 done; 1 something failed, and it says what; 2 usage or configuration.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from takhin_tiered import logs
from takhin_tiered.cli.access import open_access
from takhin_tiered.cli.broker import broker_words, directory_words, kept_words, try_connections
from takhin_tiered.cli.listing import list_partitions
from takhin_tiered.cli.moves import expand, move_all, path_of
from takhin_tiered.cli.output import console, counted, error_console, matches, print_json, print_table, size
from takhin_tiered.cli.restore import restore
from takhin_tiered.cli.running import exit_if, finish, run_work, settings_of
from takhin_tiered.cli.verify import verify
from takhin_tiered.config import Settings, find_config
from takhin_tiered.errors import TakhinError
from takhin_tiered.lifecycle import Interrupted, run_in_loop, run_once
from takhin_tiered.segments.model import State, Tier

app = typer.Typer(
    name="takhin-tiered",
    help="Moves cold log segments of a broker to S3, MinIO or a directory, provably intact, and brings them back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(restore)
app.command()(verify)
config_app = typer.Typer(help="Check and show the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

_COUNTS = (
    "{total_segments}: {hot_segments} hot, {warm_segments} warm, {cold_segments} cold; "
    "{archived_segments} in the archive only"
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, in a form that stays the same.")]
Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="orders-0/00000000000000000000.log, or a glob.")]


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
) -> None:
    context.obj = config


@app.command()
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
    # A reload that is asked for meanwhile finds the settings read just now.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from takhin_tiered.daemon import run_daemon

    # Stopped before it has begun is stopped as well.
    with suppress(Interrupted):
        run_in_loop(run_daemon(settings, lambda: settings_of(context)))


@app.command()
def plan(context: typer.Context, as_json: Json = False) -> None:
    """Dry run: what the next cycle would do with each segment, and why. Changes nothing."""

    async def work(settings: Settings) -> None:
        async with open_access(settings, changing=False) as access:
            found = await access.plan()
        if as_json:
            print_json(found)
            return
        rows = [
            (s["action"], s["segment_path"], s["policy"], size(s["frees_bytes"]), s["reason"])
            for s in found["segments"]
        ]
        print_table(("ACTION", "SEGMENT", "TIER", "FREES", "WHY"), rows, right=("FREES",))
        moved = [s for s in found["segments"] if s["action"] != "keep"]
        console().print(
            f"\n{counted(len(moved), 'segment')} of {len(found['segments'])} to move: "
            f"{size(found['bytes_uploaded'])} to upload, {size(found['bytes_freed'])} of files to be unlinked, "
            f"about ${found['saved_usd_monthly']:.2f} a month saved"
        )
        if found["bytes_freed"]:
            console().print("The space of an unlinked file is free once the broker closes it")

    run_work(context, work)


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Tiers, states, bytes, the last cycle, and whether the store answers."""

    async def work(settings: Settings) -> None:
        async with open_access(settings, changing=False) as access:
            found = await access.status()
        if as_json:
            print_json(found)
            return
        _print_status(found)

    run_work(context, work)


@app.command()
def ls(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Such as 'orders-*'.")] = "*",
    tier: Annotated[Tier | None, typer.Option(help="Only this tier.")] = None,
    state: Annotated[State | None, typer.Option(help="Only this state.")] = None,
    partitions: Annotated[bool, typer.Option("--partitions", help="A row for each partition's offset ranges.")] = False,
    as_json: Json = False,
) -> None:
    """Segments, a row each; or partitions, with the offsets that are local, archived, nowhere, or there twice."""
    if partitions:
        run_work(context, partial(list_partitions, glob=glob, as_json=as_json))
        return

    async def work(settings: Settings) -> None:
        async with open_access(settings, changing=False) as access:
            found = await access.segments(tier=tier, state=state)
        chosen = [segment for segment in found if matches(segment["segment_path"], glob)]
        if as_json:
            print_json(chosen)
            return
        rows = [
            (
                path_of(s),
                s["policy"],
                s["state"] + (" active" if s["is_active"] else ""),
                size(s["size_bytes"]),
                (s["last_modified"] or "")[:19],
                s["problem"],
            )
            for s in chosen
        ]
        print_table(("SEGMENT", "TIER", "STATE", "SIZE", "MODIFIED (UTC)", "PROBLEM"), rows, right=("SIZE",))

    run_work(context, work)


@app.command()
def archive(context: typer.Context, paths: Paths) -> None:
    """Archive segments by hand, whatever their age."""

    async def work(settings: Settings) -> None:
        async with open_access(settings, changing=True) as access:
            states = {str(State.LOCAL)} if settings.policy.keep_local else {str(State.LOCAL), str(State.COPIED)}
            chosen = await expand(access, paths, states)
            failures = await move_all(chosen, access.archive, "archived", at_once=settings.archive_concurrency)
            found = await access.status()
            if found["broker"]["running"] or found["mode"] != "move":
                console().print("The local files stay: " + kept_words(found))
            exit_if(failures)

    run_work(context, work)


@app.command()
def rebuild(context: typer.Context) -> None:
    """Rebuild the catalog from the disk and the bucket, as on a new machine."""

    async def work(settings: Settings) -> None:
        errors = error_console()
        columns = (TextColumn("looking at manifests"), TextColumn("{task.completed}"), TimeElapsedColumn())
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
            task = progress.add_task("", total=None)
            async with open_access(settings, changing=True) as access:
                found = await access.rebuild(lambda count: progress.update(task, completed=count))
        for path in found["lost"]:
            console().print(f"LOST {path}: it is neither in the archive nor on disk")
        console().print(
            f"{counted(found['learned'], 'archived segment')} learned from the store, {len(found['lost'])} lost, "
            f"{counted(found['strays'], 'object')} of no archived segment left alone"
        )
        exit_if(len(found["lost"]))

    run_work(context, work)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the daemon serving afterwards.")] = False,
) -> None:
    """The main job on made-up Kafka segments and a directory store: no cloud needed."""
    from takhin_tiered.cli.demo import run_demo

    logs.configure("warning", "text")
    finish(run_demo(keep=keep))


@config_app.command("check")
def config_check(
    context: typer.Context,
    connect: Annotated[bool, typer.Option("--connect", help="Ask the store and the broker too.")] = False,
) -> None:
    """Validate the settings, and say what is found of the broker."""
    settings = settings_of(context)
    for key in settings.without_effect():
        error_console().print(f"Warning: {key} has no effect in this version")
    for path in settings.data_dirs:
        if not path.is_dir():
            error_console().print(f"Warning: storage.data.dir {path} is not a directory on this machine")
    for line in directory_words(settings):
        error_console().print(line)
    if connect:
        finish(try_connections(settings))
    console().print(f"The configuration is valid ({find_config(context.obj) or 'from the environment'})")


@config_app.command("show")
def config_show(context: typer.Context) -> None:
    """Print the effective settings, and where each came from. Secrets are masked."""
    settings = settings_of(context)
    rows = [(key, escape(value), settings.source(key)) for key, value in settings.items()]
    print_table(("KEY", "VALUE", "FROM"), rows)


def main() -> None:
    """The entry point: this project's errors become one line and an exit status."""
    try:
        app(_global_options_first(sys.argv[1:]))
    except TakhinError as error:
        error_console().print("[red]Error:[/red]", escape(str(error)))
        sys.exit(error.exit_code)


def _global_options_first(arguments: list[str]) -> list[str]:
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


def _print_status(found: dict[str, Any]) -> None:
    cycle = found["last_cycle"]
    rows = [
        ("data directory", found["data_dir"]),
        ("tiered storage", _mode_words(found)),
        ("broker", broker_words(found["broker"])),
        (
            "segments",
            _COUNTS.format_map(found),
        ),
        ("on disk", f"{size(found['local_size_bytes'])}, {size(found['disk_free_bytes'])} free"),
        ("in the archive", size(found["archived_size_bytes"])),
        ("quarantined", str(found["quarantined_segments"])),
        ("superseded", f"{counted(found['superseded_generations'], 'generation')} kept in the archive"),
        ("store", _store_words(found)),
        ("last cycle", _cycle_words(cycle) if cycle else "none in this process"),
    ]
    if found["future_segments"]:
        rows.append(("clock", f"{counted(found['future_segments'], 'segment')} modified in the future"))
    if found["last_cycle_problem"]:
        rows.append(("problem", found["last_cycle_problem"]))
    for name, value in rows:
        console().print(f"{name:<16}{escape(value)}")
    for failure in cycle["failures"] if cycle else ():
        console().print(f"{'failed':<16}{escape(failure['error'])}")


def _mode_words(found: dict[str, Any]) -> str:
    if not found["enabled"]:
        return "not enabled: observing only"
    freed = ", what is archived is to be freed by the broker" if found["mode"] == "trim" else ""
    return f"enabled, mode {found['mode']}{freed}"


def _store_words(found: dict[str, Any]) -> str:
    if found["store"] is None:
        return "none configured"
    return f"{found['store']}: " + (
        "reachable" if found["store_reachable"] else f"NOT reachable, {found['store_problem']}"
    )


def _cycle_words(cycle: dict[str, Any]) -> str:
    return (
        f"{cycle['ended_at'][:19]} UTC: {cycle['archived']} archived, {cycle['copied']} copied, "
        f"{cycle['evicted']} evicted, {size(cycle['bytes_freed'])} of files unlinked, "
        f"{len(cycle['failures'])} failed, {cycle['postponed']} postponed"
    )
