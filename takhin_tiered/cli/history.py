"""``history``: what happened to a segment, with the correlation IDs by which the log tells more."""

from __future__ import annotations

from typing import Annotated

import typer

from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.output import Json, console, print_json, print_table
from takhin_tiered.cli.running import run_work
from takhin_tiered.config import Settings
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.results import to_json

_COLUMNS = ("WHEN (UTC)", "EVENT", "WHAT", "CORRELATION ID")


def history(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="orders-0/00000000000000000000.log")],
    as_json: Json = False,
) -> None:
    """What happened to a segment, the oldest first. Also to one that is nowhere any more."""
    SegmentId.parse(path)

    async def work(settings: Settings) -> None:
        async with open_view(settings) as view:
            found = await view.history(path)
        if as_json:
            print_json({"events": [to_json(event) for event in found]})
            return
        if not found:
            console().print("Nothing has happened to it yet")
            return
        rows = [
            (
                event.at[:19].replace("T", " "),
                event.event,
                _words(event.detail, event.incarnation),
                event.correlation_id,
            )
            for event in found
        ]
        print_table(_COLUMNS, rows, wraps="WHAT")

    run_work(context, work)


def _words(detail: str, incarnation: str) -> str:
    return f"{detail} (incarnation {incarnation})" if incarnation else detail
