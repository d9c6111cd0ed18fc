"""``fleet``: the shared catalog's table, and what stands in it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

import typer

from takhin_tiered.catalog.journal import FILE_NAME
from takhin_tiered.cli.output import Json, console, counted, error_console, escape, print_json, print_table, say, size
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import exit_on_failures, run_work, settings_of
from takhin_tiered.config import Settings
from takhin_tiered.engine.verifying import matches
from takhin_tiered.errors import CatalogError, ConfigError
from takhin_tiered.fleet.exclusive import alone
from takhin_tiered.fleet.initialise import initialise, telling_what_is_wrong
from takhin_tiered.fleet.local import node_entity
from takhin_tiered.fleet.migration import LOCAL_ENTITIES, Migrated, Migrator
from takhin_tiered.fleet.operations import Calls, OperationLog
from takhin_tiered.fleet.overview import FleetInfo, look_at_fleet, nodes_of, segments_of
from takhin_tiered.fleet.repositories import Table
from takhin_tiered.fleet.rollback import Rollback
from takhin_tiered.fleet.service import facts_of, identity_of, region_of
from takhin_tiered.fleet.ulid import is_ulid
from takhin_tiered.fleet.verification import Deviation
from takhin_tiered.fleet.verification import verify as compare
from takhin_tiered.segments.model import State
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import to_json
from takhin_tiered.tiered_storage import TieredStorage

_QUICK_SECONDS = 10.0
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def init(context: typer.Context, as_json: Json = False) -> None:
    """Create the fleet's table as the contract says, and wait until it is active. May be run again."""

    async def work(settings: Settings) -> None:
        async with open_table(settings) as table:
            done = await initialise(table)
        if as_json:
            print_json(to_json(done))
            return
        did = "created" if done.created else "is there, as the contract says"
        ttl = ". Its operations end after 90 days from now on" if done.ttl_enabled and not done.created else ""
        console().print(f"table {escape(done.table)} {did}{ttl}")

    run_work(context, work)


def status(context: typer.Context, as_json: Json = False) -> None:
    """The table and every node of the fleet; exit 1 if the table cannot be reached."""

    async def work(settings: Settings) -> None:
        async with open_table(settings, seconds=_QUICK_SECONDS) as table:
            found = await look_at_fleet(table)
        if as_json:
            print_json(to_json(found))
        else:
            _print_status(found)

    run_work(context, work)


def ls(
    context: typer.Context,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Such as 'orders-*'.")] = "*",
    node: Annotated[str, typer.Option(help="Only this node.")] = "",
    state: Annotated[State | None, typer.Option(help="Only this state.")] = None,
    as_json: Json = False,
) -> None:
    """List the segments of all nodes, as the table has them."""

    async def work(settings: Settings) -> None:
        found = []
        async with open_table(settings) as table:
            names = [node] if node else [each.node async for each in nodes_of(table)]
            for name in names:
                every = segments_of(table, name, str(state) if state else "")
                found += [each async for each in every if matches(each.path, glob)]
        found.sort(key=lambda each: (each.topic, each.partition, each.base_offset, each.incarnation, each.node))
        if as_json:
            print_json([{"segment_path": each.path, **to_json(each)} for each in found])
            return
        rows = [
            (
                each.path,
                each.node,
                each.state + (" active" if each.active else ""),
                "" if each.size is None else size(each.size),
                (iso_time((each.modified_at or 0) / 1000) or "")[:19],
                each.incarnation,
            )
            for each in found
        ]
        columns = ("SEGMENT", "NODE", "STATE", "SIZE", "MODIFIED (UTC)", "INCARNATION")
        print_table(
            columns, rows, right=("SIZE",), path="SEGMENT", wraps="NODE", less=("MODIFIED (UTC)", "INCARNATION")
        )

    run_work(context, work)


def migrate(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Do everything except writing.")] = False,
    entity: Annotated[
        list[str] | None, typer.Option(metavar="E", help=f"Only this entity: {' or '.join(LOCAL_ENTITIES)}.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=25, help="Items in a request.")] = 25,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that did not finish.")] = False,
    yes: _Yes = False,
    as_json: Json = False,
) -> None:
    """Write the local catalog to the fleet's table, in a run that can be taken back by fleet rollback."""
    entities = entities_named(entity or list(LOCAL_ENTITIES))
    if not dry_run:
        settings = settings_of(context)
        _confirm(f"write the catalog of node {settings.fleet_node} to the table {settings.fleet_table}", yes=yes)

    async def work(settings: Settings) -> None:
        calls, meter = Calls(), Meter(None, None)
        async with AsyncExitStack() as stack:
            if not dry_run:
                stack.enter_context(alone(settings.state_dir))
            table = await stack.enter_async_context(open_table(settings, calls))
            storage = await stack.enter_async_context(open_catalog(settings))
            node = node_entity(facts_of(settings, storage.store_address), storage.stats())
            migrator = Migrator(table, storage, node, identity_of(settings.state_dir))
            meter.segments = storage.segment_count
            stack.enter_context(shown("segments", meter))
            log = await stack.enter_async_context(OperationLog(table, node.node, calls).operation("migrate"))
            done = await migrator.run(
                entities,
                batch_size=batch_size,
                resume=resume,
                dry_run=dry_run,
                progress=lambda count: meter.reach(count, 0),
            )
            log.run, log.written = done.run, 0 if dry_run else done.written
        _print_migrated(done, as_json=as_json)

    run_work(context, work)


def verify(context: typer.Context, as_json: Json = False) -> None:
    """Compare the table with the local catalog of this node; exit 1 and name each difference.

    Of partitions that are not here, it sees what the table's index shows, which may be late.
    """

    async def work(settings: Settings) -> None:
        meter, found = Meter(None, None), list[Deviation]()
        async with open_table(settings) as table, open_catalog(settings) as storage:
            meter.segments = total = storage.segment_count
            node = node_entity(facts_of(settings, storage.store_address), storage.stats())
            with shown("segments", meter):
                async for each in compare(table, storage, node, lambda count: meter.reach(count, 0)):
                    found.append(each)
                    if not as_json:
                        incarnation = f"@{each.incarnation}" if each.incarnation else ""
                        say(f"{each.kind.upper()} {each.path}{incarnation}: {each.detail}")
        if as_json:
            print_json({"segments": total, "differences": [to_json(each) for each in found]})
        else:
            words = "no difference" if not found else counted(len(found), "difference")
            console().print(f"{counted(total, 'segment')} of node {settings.fleet_node}: {words}")
        exit_on_failures(len(found))

    run_work(context, work)


def rollback(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="As migrate and status name it.")],
    yes: _Yes = False,
    as_json: Json = False,
) -> None:
    """Remove what a migration wrote, and put back what it wrote over. What others wrote since stays."""
    if not is_ulid(run):
        raise typer.BadParameter(f"{run!r} is not the ID of a run", param_hint="RUN")
    _confirm(f"take back the migration {run}", yes=yes)

    async def work(settings: Settings) -> None:
        meter = Meter(None, None)
        with alone(settings.state_dir):
            async with open_table(settings) as table:
                taking_back = Rollback(table, run, identity_of(settings.state_dir))
                meter.segments = (await taking_back.migration()).total
                with shown("items", meter):
                    done = await taking_back.run(lambda count: meter.reach(count, 0))
        if as_json:
            print_json(to_json(done))
            return
        left = f", {done.left} left that others wrote since" if done.left else ""
        console().print(f"{counted(done.deleted, 'item')} deleted, {done.restored} put back{left}")
        console().print(f"run {run} is taken back")

    run_work(context, work)


@asynccontextmanager
async def open_table(settings: Settings, calls: Calls | None = None, *, seconds: float = 30.0) -> AsyncIterator[Table]:
    """``seconds``: how long each call is tried again."""
    # Imported here: --help does not need the AWS library.
    from takhin_tiered.aws.dynamodb import open_dynamodb

    if not settings.fleet_table:
        raise ConfigError("no table of a fleet is configured", hint="Set storage.tiered.fleet.table")
    async with open_dynamodb(
        region_of(settings), settings.fleet_endpoint, listener=calls, deadline=seconds
    ) as database:
        table = Table(database, settings.fleet_table)
        async with telling_what_is_wrong(table):
            yield table


@asynccontextmanager
async def open_catalog(settings: Settings) -> AsyncIterator[TieredStorage]:
    """The local catalog, as it is on the disk, with or without a daemon."""
    catalog = settings.state_dir / FILE_NAME
    if settings.has_store and not catalog.exists():
        # Without it only what is on the disk would be known.
        raise CatalogError(
            f"there is no catalog {catalog}", hint="Start the daemon, or run takhin-tiered rebuild, and then again"
        )
    async with TieredStorage.open(settings, read_only=True) as storage:
        yield storage


def entities_named(wanted: list[str]) -> list[str]:
    """By their names, in any case, in the singular or the plural."""
    known = {name.lower(): name for name in LOCAL_ENTITIES}
    found = []
    for each in wanted:
        name = known.get(each.lower().removesuffix("s"))
        if name is None:
            words = " and ".join(LOCAL_ENTITIES)
            raise typer.BadParameter(f"{each!r}: a local catalog has {words}", param_hint="--entity")
        found.append(name)
    return [name for name in LOCAL_ENTITIES if name in found]


def _confirm(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"this would {what}", hint="Add --yes to do it without being asked")
    if not typer.confirm(f"This will {what}. Go on?", err=True):
        raise typer.Exit(1)


def _print_migrated(done: Migrated, *, as_json: bool) -> None:
    if as_json:
        print_json({**to_json(done), "run": done.run or None, "dry_run": not done.run})
        return
    would = "" if done.run else "would be "
    console().print(
        f"{done.written} of {counted(done.total, 'item')} {would}written, {done.unchanged} were there already"
        f"{', continued' if done.resumed else ''}"
    )
    console().print(f"run {done.run}" if done.run else "dry run: nothing was written")


def _print_status(found: FleetInfo) -> None:
    out = console()
    out.print(f"table {escape(found.table)}: {found.status}, TTL {found.ttl}")
    for problem in found.problems:
        error_console().print(f"[warning]Warning:[/warning] the table is not as the contract says: {escape(problem)}")
    rows = [
        (
            each.node,
            str(each.segments),
            str(each.archived_segments),
            size(each.local_bytes),
            size(each.archived_bytes),
            (each.seen_at or "")[:19],
            f"{each.lease_host} (token {each.lease_token})" if each.lease_host else "no daemon",
        )
        for each in found.nodes
    ]
    columns = ("NODE", "SEGMENTS", "ARCHIVED", "ON DISK", "IN STORE", "SEEN (UTC)", "WRITTEN BY")
    print_table(columns, rows, right=columns[1:5], wraps="NODE", less=("WRITTEN BY", "IN STORE", "ON DISK"))
    if not rows:
        out.print("no node has written to it yet")
    for run in found.migrations:
        ended = f", ended {run.ended_at[:19]} UTC" if run.ended_at else ""
        out.print(
            f"run {run.run} of node {escape(run.node)}: {run.state}, {run.written} of {run.total} items written, "
            f"{run.unchanged} were there already{ended}"
        )
