"""``plan`` and ``ls``: what a cycle would do with each segment, and where each segment is."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any

import typer

from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.output import Json, console, counted, dollars, fits, print_json, print_rows, print_table, size
from takhin_tiered.cli.running import run_work
from takhin_tiered.config import Settings
from takhin_tiered.cost.planning import PlanCost
from takhin_tiered.engine.verifying import matches
from takhin_tiered.segments.coverage import written
from takhin_tiered.segments.model import State, Tier
from takhin_tiered.segments.names import PLAIN
from takhin_tiered.segments.results import to_json

_RANGES = ("local", "archived", "holes", "overlaps")


def plan(context: typer.Context, as_json: Json = False) -> None:
    """Dry run: what the next cycle would do with each segment, and why. Changes nothing."""

    async def work(settings: Settings) -> None:
        async with open_view(settings) as access:
            found = await access.plan()
        if as_json:
            print_json(to_json(found))
            return
        rows = [(s.action, s.segment_path, s.policy, size(s.frees_bytes), s.reason) for s in found.segments]
        columns = ("ACTION", "SEGMENT", "TIER", "FREES", "WHY")
        print_table(columns, rows, right=("FREES",), path="SEGMENT", wraps="WHY")
        moved = [s for s in found.segments if s.action != "keep"]
        console().print(
            f"\n{counted(len(moved), 'segment')} of {len(found.segments)} to move: "
            f"{size(found.bytes_uploaded)} to upload, {size(found.bytes_freed)} of files to be unlinked"
        )
        if moved and found.cost is not None:
            console().print(_cost_text(found.cost))
        if found.bytes_freed:
            console().print("The space of an unlinked file becomes free when the broker closes the file")

    run_work(context, work)


def _cost_text(cost: PlanCost) -> str:
    saves = (
        f"saves about {dollars(cost.saved_monthly)} a month"
        if cost.saved_monthly >= 0
        else (f"costs about {dollars(-cost.saved_monthly)} a month more")
    )
    text = f"It {saves}, and costs about {dollars(cost.cost_once)} once, for {counted(cost.requests, 'request')}"
    if cost.payback_months is None:
        return text
    return f"{text}: that pays off in {cost.pays_off_in}, after {_months(cost.payback_months)}"


def _months(months: float) -> str:
    days = months * 30
    if days < 1:
        return "less than a day"
    return f"{days:.0f} days" if days < 60 else f"{months:.1f} months"


def ls(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Such as 'orders-*'.")] = "*",
    tier: Annotated[Tier | None, typer.Option(help="Only this tier.")] = None,
    state: Annotated[State | None, typer.Option(help="Only this state.")] = None,
    problem: Annotated[
        bool, typer.Option("--problem", help="Only segments that are damaged, quarantined, or failed the last time.")
    ] = False,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="One row per partition, with offset ranges.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List segments; or partitions, with local and archived offsets, holes and overlaps."""
    if partitions:
        run_work(context, partial(_list_partitions, glob=glob, as_json=as_json))
        return

    async def work(settings: Settings) -> None:
        async with open_view(settings) as access:
            found = await access.segments(tier=tier, state=state)
        chosen = [segment for segment in found if matches(segment["segment_path"], glob)]
        if problem:
            chosen = [segment for segment in chosen if segment["problem"]]
        if as_json:
            print_json(chosen)
            return
        rows = [
            (
                _path_of(s),
                s["policy"],
                _state_of(s),
                size(s["size_bytes"]),
                (s["last_modified"] or "")[:19],
                _problems_of(s),
            )
            for s in chosen
        ]
        columns = ("SEGMENT", "TIER", "STATE", "SIZE", "MODIFIED (UTC)", "PROBLEM")
        print_table(columns, rows, right=("SIZE",), path="SEGMENT", wraps="PROBLEM", less=("MODIFIED (UTC)",))

    run_work(context, work)


def _state_of(segment: dict[str, Any]) -> str:
    if segment["reason_code"] == "requested":
        return f"{segment['state']} requested"
    return str(segment["state"]) + (" active" if segment["is_active"] else "")


def _problems_of(segment: dict[str, Any]) -> str:
    found = (
        ("quarantined", segment["quarantine"]),
        ("damaged", segment["damage"]),
        ("failed", segment["last_failure"]),
    )
    return "; ".join(f"{what}: {text}" for what, text in found if text)


def _path_of(segment: dict[str, Any]) -> str:
    """A segment's path, with its incarnation unless that is the current one."""
    path = str(segment["segment_path"])
    return path if segment["is_current"] else f"{path}@{segment['incarnation'] or PLAIN}"


async def _list_partitions(settings: Settings, *, glob: str, as_json: bool) -> None:
    """Partitions whose directory name, such as ``orders-0``, or topic matches."""
    async with open_view(settings) as access:
        every = await access.partitions()
    found = [each for each in every if fnmatchcase(_directory(each), glob) or fnmatchcase(each["topic"], glob)]
    if as_json:
        print_json({"partitions": found})
        return
    rows = [
        (
            _directory(each),
            each["incarnation"] or each["topic_id"] or PLAIN,
            "yes" if each["current"] else "no",
            *(written(map(tuple, each[name])) for name in _RANGES),
        )
        for each in found
    ]
    columns = ("PARTITION", "INCARNATION", "CURRENT", *map(str.upper, _RANGES))
    if fits(columns, rows):
        print_table(columns, rows)
        return
    # A range that wraps within a number reads as another range: print a block for each partition instead.
    for partition, incarnation, current, *ranges in rows:
        console().print(f"{partition}, incarnation {incarnation}{', current' if current == 'yes' else ''}")
        print_rows([("", name, text) for name, text in zip(_RANGES, ranges, strict=True)], (1, 8))


def _directory(found: dict[str, Any]) -> str:
    return f"{found['topic']}-{found['partition']}"
