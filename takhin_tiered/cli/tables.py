"""``tables``: hybrid tables, whose old items stand in the store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from takhin_tiered.cli.output import Json, console, counted, error_console, escape, print_json, print_table, size
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings
from takhin_tiered.errors import ConfigError, TakhinError

if TYPE_CHECKING:
    from takhin_tiered.hybrid import ArchivalResult, HybridTables
    from takhin_tiered.hybrid.estimate import Estimate

Table = Annotated[str, typer.Argument(metavar="[TABLE]", help="One table. Default: all that are configured.")]
OneTable = Annotated[str, typer.Argument(metavar="TABLE")]
PartitionKey = Annotated[str, typer.Argument(metavar="PK", help="The partition key; of bytes, in base64.")]
SortKey = Annotated[str | None, typer.Argument(metavar="[SK]", help="The sort key, where the table has one.")]


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[HybridTables]:
    if not settings.hybrid_tables:
        raise ConfigError(
            "no hybrid tables are configured",
            hint="List them in storage.tiered.hybrid.tables: name, partition_key, sort_key, timestamp",
        )
    # Imported here: who has no such tables needs none of it.
    from takhin_tiered.hybrid import HybridTables

    async with HybridTables.open(settings) as tables:
        yield tables


def ls(context: typer.Context, as_json: Json = False) -> None:
    """List the configured tables: their keys, what tells the age of an item, and their size as DynamoDB tells it.

    DynamoDB counts items and bytes about every six hours.
    """

    async def work(settings: Settings) -> None:
        rows: list[dict[str, Any]] = []
        async with _opened(settings) as tables:
            for each in settings.hybrid_tables:
                row: dict[str, Any] = {**each.model_dump(), "key_template": each.template}
                try:
                    schema = await tables.parts(each.name).schema()
                    row |= {"items": schema.items, "size_bytes": schema.size, "error": ""}
                except TakhinError as error:
                    row |= {"items": None, "size_bytes": None, "error": str(error)}
                rows.append(row)
        if as_json:
            print_json({"tables": rows})
        else:
            print_table(
                ("table", "keys", "timestamp", "after", "items", "size"),
                [
                    (
                        row["name"],
                        " ".join(filter(None, (row["partition_key"], row["sort_key"]))),
                        row["timestamp"],
                        f"{row['archive_after_days']:g} d",
                        "?" if row["error"] else str(row["items"]),
                        "?" if row["error"] else size(row["size_bytes"]),
                    )
                    for row in rows
                ],
                right=("after", "items", "size"),
            )
        failures = [row for row in rows if row["error"]]
        _print_errors([f"{row['name']}: {row['error']}" for row in failures])
        exit_on_failures(len(failures))

    run_work(context, work)


def plan(context: typer.Context, table: Table = "", as_json: Json = False) -> None:
    """Show how many items the next archive would move, and why the others stay. Nothing is changed.

    Each table is read as a whole, which costs read units.
    """
    archive(context, table, dry_run=True, as_json=as_json)


def archive(
    context: typer.Context,
    table: Table = "",
    *,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Only count what would be done.")] = False,
    with_estimate: Annotated[
        bool, typer.Option("--estimate", help="Only show what it saves, what it costs, and when it has paid off.")
    ] = False,
    capacity: Annotated[
        float | None,
        typer.Option(min=0.01, help="Capacity units a second. Default: half of what is provisioned, else no limit."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move items that are old enough to the store; pointers to them stay in the table.

    A run that broke off goes on where it was. Items that change meanwhile stay as they are.
    """

    async def work(settings: Settings) -> None:
        found: Estimate | None = None
        async with _opened(settings) as tables:
            _require_table(tables, table)
            if with_estimate:
                result, found = await tables.estimate(table=table)
            else:
                meter = Meter(None, None)
                with shown("items looked at:", meter):
                    result = await tables.archive_old_data(
                        dry_run, table=table, capacity=capacity, progress=lambda so_far: _note(meter, so_far)
                    )
        if as_json:
            print_json(_described(result) | ({"estimate": asdict(found)} if found else {}))
        else:
            _say(result, found)
        _print_errors(result.errors)
        if result.failed > len(result.errors):
            error_console().print(f"[red]Error:[/red] {result.failed - len(result.errors)} more items failed")
        exit_on_failures(result.failed)

    run_work(context, work)


def _note(meter: Meter, result: ArchivalResult) -> None:
    meter.reach(result.items_processed, result.bytes_archived)


def _described(result: ArchivalResult) -> dict[str, Any]:
    return {
        "dry_run": result.dry_run,
        "items_processed": result.items_processed,
        "items_archived": result.items_archived,
        "items_skipped": result.items_skipped,
        "skipped": dict(result.skipped),
        "bytes_archived": result.bytes_archived,
        "errors": result.errors,
        "failed": result.failed,
        "complete": result.is_complete,
    }


def _say(result: ArchivalResult, found: Estimate | None) -> None:
    out = console()
    verb = "would be archived" if result.dry_run else "archived"
    out.print(
        f"{counted(result.items_archived, 'item')} {verb}, {size(result.bytes_archived)}; "
        f"{result.items_processed} looked at, {result.items_skipped} skipped, {result.failed} failed"
    )
    for reason, count in result.skipped.most_common():
        out.print(f"  {count} {reason}")
    if not result.is_complete:
        out.print("The run ended early. The next one goes on where it was")
    if found is None:
        return
    out.print(
        f"a month: {_dollars(found.monthly_before)} now, {_dollars(found.monthly_after)} then, "
        f"{_dollars(found.monthly_saved)} saved ({found.saved_percent:.0f} %)"
    )
    out.print(f"cost of archiving, once: {_dollars(found.cost)}")
    if found.months is None:
        out.print("it does not pay off" if found.items else "there is nothing to archive")
    else:
        out.print(f"it has paid off after {counted(found.months, 'month')}, in {found.pays_off}")


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if abs(amount) >= 1 else f"${amount:.4f}"


def unarchive(context: typer.Context, table: OneTable, partition_key: PartitionKey, sort_key: SortKey = None) -> None:
    """Bring an archived item back into its table, where it stays for 24 hours at least."""

    async def work(settings: Settings) -> None:
        async with _opened(settings) as tables:
            keys = await _typed(tables, table, partition_key, sort_key)
            came_back = await tables.table(table).unarchive(*keys)
            row = None if came_back else await tables.table(table).load_row(*keys)
        if came_back:
            console().print("the item is back in the table")
        elif row is not None:
            console().print("the item is in the table already")
        else:
            _no_such_item()

    run_work(context, work)


def get(context: typer.Context, table: OneTable, partition_key: PartitionKey, sort_key: SortKey = None) -> None:
    """Print an item as DynamoDB's JSON, with its types; bytes are in base64."""

    async def work(settings: Settings) -> None:
        async with _opened(settings) as tables:
            row = await tables.table(table).load_row(*await _typed(tables, table, partition_key, sort_key))
        if row is None:
            _no_such_item()
            return
        from takhin_tiered.hybrid.objects import to_json

        print_json(json.loads(to_json(row.item)))

    run_work(context, work)


def verify(context: typer.Context, table: Table = "", as_json: Json = False) -> None:
    """Read every object that a pointer names, and compare it; remove objects that no pointer names.

    What is bad is named, and stays as it is.
    """

    async def work(settings: Settings) -> None:
        async with _opened(settings) as tables:
            _require_table(tables, table)
            found = await tables.verify(table=table)
        if as_json:
            print_json(
                {
                    "verified": found.checked,
                    "bytes": found.size,
                    "bad": [asdict(problem) for problem in found.bad],
                    "orphans_removed": found.removed,
                    "orphans_waiting": found.waiting,
                    "unknown": found.unknown,
                }
            )
        else:
            out = console()
            for problem in found.bad:
                out.print(f"BAD {escape(f'{problem.item}: {problem.key}: {problem.problem}')}", soft_wrap=True)
            for key in found.unknown:
                out.print(f"UNKNOWN {escape(key)}: no object of an item of the table, or it cannot be read; it stays")
            out.print(
                f"{counted(found.checked, 'archived item')} verified, {size(found.size)}, {len(found.bad)} bad, "
                f"{counted(found.removed, 'object')} without a pointer removed"
            )
            if found.waiting:
                out.print(f"{counted(found.waiting, 'object')} without a pointer left: an archive is running")
        exit_on_failures(len(found.bad))

    run_work(context, work)


def _require_table(tables: HybridTables, table: str) -> None:
    if table:
        tables.parts(table)


async def _typed(tables: HybridTables, table: str, partition_key: str, sort_key: str | None) -> tuple[Any, ...]:
    """The words of the command line as values of the key's types. `ConfigError` where they are none."""
    import base64
    from decimal import Decimal

    from takhin_tiered.hybrid.typed import number_text

    schema = await tables.parts(table).schema()
    words = [partition_key, *([] if sort_key is None else [sort_key])]
    if len(words) != len(schema.keys):
        raise ConfigError(f"the items of {table} have the keys {' and '.join(schema.keys)}", hint="Give all of them")
    found: list[Any] = []
    for name, word in zip(schema.keys, words, strict=True):
        try:
            kind = schema.types[name]
            if kind == "N":
                number_text(number := Decimal(word))
                found.append(number)
            else:
                found.append(base64.b64decode(word, validate=True) if kind == "B" else word)
        except (ArithmeticError, ValueError):
            # No number at all, or one that DynamoDB does not have, such as infinity; no base64.
            raise ConfigError(f"{name} of {table} is of type {schema.types[name]}, and {word!r} is not") from None
    return tuple(found)


def _no_such_item() -> None:
    error_console().print("[red]Error:[/red] there is no such item. takhin-tiered tables ls lists the tables")
    exit_on_failures(1)


def _print_errors(errors: list[str]) -> None:
    for error in errors:
        error_console().print(f"[red]Error:[/red] {escape(error)}")
