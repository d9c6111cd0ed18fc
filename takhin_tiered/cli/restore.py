"""``restore``: select segments by path, offsets or times, check that they can be restored, and restore them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer

from takhin_tiered.cli.access import View, open_access, open_view
from takhin_tiered.cli.moves import move_all
from takhin_tiered.cli.output import console, counted, dollars, error_console, escape, print_table, size
from takhin_tiered.cli.retrieval import UNATTENDED, in_turn, wait_for
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings
from takhin_tiered.cost.retrieving import Quote
from takhin_tiered.errors import OverBudget
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.names import PLAIN
from takhin_tiered.segments.results import from_json

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 3650 * 86400.0
_OFFSETS = re.compile(r"([0-9]{0,19})-([0-9]{0,19})|([0-9]{1,19})")

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="orders-0/00000000000000000000.log, orders-0, or a glob.")
]


def restore(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    paths: Paths,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what it would do; change nothing.")] = False,
    lease: Annotated[
        str | None, typer.Option("--for", metavar="6h", help="How long it stays: a number and s, m, h or d.")
    ] = None,
    offsets: Annotated[
        str | None, typer.Option("--offsets", metavar="A-B", help="Segments with any of these offsets; A- or -B: open.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="T", help="Segments with records since T: ISO 8601, UTC by default."),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="T", help="Segments with records until T.")] = None,
    topic_id: Annotated[
        str | None,
        typer.Option("--topic-id", metavar="ID", help="An incarnation: its topic ID, or its label such as ~0 or ~1."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Restore even if it leaves a gap, or Kafka would delete it again.")
    ] = False,
    over_budget: Annotated[
        bool, typer.Option("--over-budget", help="Restore even if it costs more than the month's budget has left.")
    ] = False,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--no-wait",
            help="Wait for what is requested from an archive class such as Glacier. Default: wait on a terminal, and "
            f"elsewhere for {UNATTENDED:.0f} seconds at most.",
        ),
    ] = None,
) -> None:
    """Bring archived segments back to the disk."""
    wanted = Wanted(
        tuple(paths), topic_id, offsets_of(offsets), (milliseconds_of(since), milliseconds_of(until)), force
    )
    if wanted.has_times and None not in wanted.times and wanted.times > wanted.times[::-1]:
        raise typer.BadParameter("--until is before --since")
    seconds = seconds_of(lease)

    async def work(settings: Settings) -> None:
        if dry_run:
            async with open_view(settings) as view:
                found = await _choose(view, wanted)
            _print_choice(found)
            exit_on_failures(len(found["problems"]))
            return
        async with open_access(settings) as access:
            found = await _choose(access, wanted)
            if found["cost"]["over_budget"] and not over_budget:
                raise OverBudget(
                    f"nothing is restored: {_cost_text(found)}",
                    hint="Choose less, read it in place, wait for the next month, raise "
                    "storage.tiered.budget.restore.monthly, or restore it all the same with --over-budget",
                )
            if found["segments"] or not found["problems"]:
                _say_if_nothing(found)
                hours = None if seconds is None else seconds / 3600
                restored = partial(access.restore, force=True, lease_hours=hours, over_budget=over_budget)
                move = in_turn(restored) if found["in_order"] else restored
                requested: dict[str, str] = {}
                chosen = [segment["segment_path"] for segment in found["segments"]]
                together = settings.archive_concurrency
                failures = await move_all(
                    chosen,
                    move,
                    "restored",
                    sizes={segment["segment_path"]: segment["size_bytes"] for segment in found["segments"]},
                    at_once=together,
                    in_order=found["in_order"],
                    poll=access.bytes_moved,
                    requested=requested,
                )
                if requested and wait is not False:
                    failures += await wait_for(requested, restored, at_most=_patience(wait))
                    done = len(chosen) - len(requested) - failures
                    console().print(f"{counted(done, 'segment')} restored, {failures} failed")
                if requested:
                    console().print(
                        f"{counted(len(requested), 'segment')} requested: the daemon, or the next cycle, restores them "
                        "once they can be read"
                    )
                # Whoever asked to wait, or said nothing, takes a success for files that are there.
                exit_on_failures(failures + (len(requested) if wait is not False else 0))
            exit_on_failures(len(found["problems"]))

    run_work(context, work)


def _patience(wait: bool | None) -> float:
    """Seconds. A script must not hang for the hours that a retrieval may take, unless it asked for that."""
    return math.inf if wait or console().is_terminal else UNATTENDED


async def _choose(view: View, wanted: Wanted) -> dict[str, Any]:
    found = await view.restore_plan(wanted)
    for warning in found["warnings"]:
        error_console().print(f"Warning: {escape(warning)}")
    for problem in found["problems"]:
        error_console().print(f"[red]Refused:[/red] {escape(problem)}")
    return found


def _print_choice(found: dict[str, Any]) -> None:
    rows = [(each["segment_path"].removesuffix(f"@{PLAIN}"), size(each["size_bytes"])) for each in found["segments"]]
    print_table(("SEGMENT", "SIZE"), rows, right=("SIZE",), path="SEGMENT")
    console().print(
        f"\n{counted(len(rows), 'segment')} to restore, {size(found['bytes'])}; free: {size(found['disk_free_bytes'])} "
        f"of the disk, {size(found['cache_free_bytes'])} of the local cache"
    )
    console().print(f"{_cost_text(found)[0].upper()}{_cost_text(found)[1:]}")


def _cost_text(found: dict[str, Any]) -> str:
    quote = from_json(Quote, found["cost"])
    text = f"it costs about {dollars(quote.cost)}"
    if quote.budget_left is None:
        return text
    left = f"{dollars(quote.budget_left)} of the month's restore budget of {dollars(quote.budget_monthly)} are left"
    return f"{text}, and only {left}" if quote.over_budget else f"{text}; {left}"


def _say_if_nothing(found: dict[str, Any]) -> None:
    if not found["segments"]:
        console().print(
            f"Nothing to restore: {counted(found['matched'], 'segment')} matched, and the selected ones are on the disk"
        )


def offsets_of(text: str | None) -> tuple[int | None, int | None]:
    """``A-B``, ``A-``, ``-B`` or one offset. `typer.BadParameter` for anything else."""
    if text is None:
        return None, None
    match = _OFFSETS.fullmatch(text.strip())
    if match is None or text.strip() == "-":
        raise typer.BadParameter(f"{text!r} is not a range of offsets, such as 1000-2000, 1000- or -2000")
    if match[3]:
        return int(match[3]), int(match[3])
    first, last = (int(digits) if digits else None for digits in match.groups()[:2])
    if first is not None and last is not None and last < first:
        raise typer.BadParameter(f"{text!r} ends before it begins")
    return first, last


def milliseconds_of(text: str | None) -> int | None:
    """ISO 8601, in UTC if it has no zone. `typer.BadParameter` for anything else."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time, such as 2026-11-01 or 2026-11-01T12:30:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def seconds_of(text: str | None) -> float | None:
    """``90s``, ``30m``, ``6h`` or ``7d``. `typer.BadParameter` for anything else."""
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration, such as 30m, 6h or 7d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _LONGEST:
        raise typer.BadParameter(f"{text!r} is zero, or more than ten years")
    return seconds
