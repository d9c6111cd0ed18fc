"""``status`` on a terminal: a coloured summary with bars, drawn once or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from takhin_tiered.cli.output import console, counted, size
from takhin_tiered.errors import TakhinError
from takhin_tiered.segments.results import StatusHere

_LABEL = 15
_BAR = 30
# Readable on light and on dark terminals.
_GOOD, _BAD, _HOT, _WARM, _COLD = "green", "bold red", "red", "magenta", "blue"
_EMPTY = "bright_black"


class _Measure(NamedTuple):
    """``part`` of ``whole`` as a bar, and in words."""

    label: str
    name: str
    part: float
    whole: float
    style: str
    words: str


def summary(
    found: StatusHere, rows: Sequence[tuple[str, str]], problems: Sequence[str], note: str = ""
) -> RenderableType:
    """``rows`` are those of the plain output, each a label and its text; ``note`` is for its first line."""
    # First what a low terminal must not lose.
    parts: list[RenderableType] = [_headline(found, problems, note)]
    parts += [Text.assemble(("PROBLEM ", _BAD), problem) for problem in problems]
    parts.append(Text())
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=_LABEL, no_wrap=True)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(width=_BAR)
    grid.add_column(overflow="fold")
    for each in _measures(found):
        # A bar of nothing would be drawn as one that is full.
        bar = ProgressBar(max(each.whole, 1), each.part, width=_BAR, style=_EMPTY, complete_style=each.style,
                          finished_style=each.style)  # fmt: skip
        grid.add_row(each.label, each.name, bar, each.words)
    parts += [grid, Text()]
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=_LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        style = _BAD if label in {"failed", "problem", "lost"} or "NOT " in text else ""
        table.add_row(label, Text(text, style))
    parts.append(table)
    return Group(*parts)


def _headline(found: StatusHere, problems: Sequence[str], note: str) -> Text:
    state = (f"{counted(len(problems), 'problem')}", _BAD) if problems else ("ok", f"bold {_GOOD}")
    return Text.assemble(("takhin-tiered ", "bold"), found.version, "  ", state, "  ", (note, _EMPTY))


def _measures(found: StatusHere) -> list[_Measure]:
    segments = found.total_segments
    tiers = (
        ("tiers", "hot", found.hot_segments, _HOT),
        ("", "warm", found.warm_segments, _WARM),
        ("", "cold", found.cold_segments, _COLD),
    )
    measured = [
        _Measure(label, name, count, segments, style, counted(count, "segment")) for label, name, count, style in tiers
    ]
    stored = found.local_size_bytes + found.archived_size_bytes
    measured += [
        _Measure("bytes", "disk", found.local_size_bytes, stored, _GOOD, size(found.local_size_bytes)),
        _Measure("", "archive", found.archived_size_bytes, stored, _COLD, size(found.archived_size_bytes)),
    ]
    archived = found.archived_segments
    measured.append(
        _Measure("", "there only", archived, segments, _COLD, f"{counted(archived, 'segment')} of {segments}")
    )
    return measured


async def watch(look: Callable[[], Awaitable[RenderableType]], seconds: float) -> None:
    """Draw what ``look`` returns on the whole terminal, until a signal ends it."""
    out = console()
    with Live(Text("…"), console=out, screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    shown = await look()
                except TakhinError as error:
                    shown = Text.assemble(("Error: ", _BAD), str(error))
                live.update(shown, refresh=True)
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            # Ctrl-C is how it ends: no error.
            return
