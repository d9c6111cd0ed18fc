"""Output for people: tables, sizes, one line for an error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from takhin_tiered.cli.stdout import OutputLost
from takhin_tiered.segments import words

if TYPE_CHECKING:
    from rich.console import Console

# Rich is imported in functions: JSON and plain rows do not need it.

# Yellow and cyan are hard to read on a light terminal, and dim on some dark ones: warnings are bold.
_STYLES = {
    "warning": "bold magenta",
    "progress.elapsed": "default",
    "progress.remaining": "default",
    "progress.download": "default",
    "progress.data.speed": "default",
    "progress.percentage": "default",
}
# With one of these set, rich draws as if on a terminal.
_TERMINAL_ANYWAY = ("FORCE_COLOR", "TTY_COMPATIBLE")
_SPELLED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_WIDE = 10_000
_ENOUGH = 24
_OFFSET = len("00000000000000000000.log")
size, counted, dollars = words.size, words.counted, words.dollars
Json = Annotated[bool, typer.Option("--json", help="Print JSON, in a stable format.")]


def console() -> Console:
    """Standard output. If it is not a terminal, it is wide enough to cut no path."""
    return _console(width=None if sys.stdout.isatty() else _WIDE)


def error_console() -> Console:
    return _console(stderr=True, soft_wrap=True)


def _console(**how: Any) -> Console:
    from rich.console import Console
    from rich.theme import Theme

    return Console(highlight=False, theme=Theme(_STYLES), **how)


def is_terminal() -> bool:
    """Whether standard output is one, or is to be drawn on as if it were."""
    if not sys.stdout.isatty() and not any(map(os.environ.get, _TERMINAL_ANYWAY)):
        return False
    return console().is_terminal


def escape(words: str) -> str:
    """Text without markup, printed unchanged; control characters are escaped, as a terminal would obey them."""
    from rich import markup

    return markup.escape(words.translate(_SPELLED))


def say(line: str) -> None:
    """Print one of many lines without rich, which takes a millisecond for each. A closed output stops no work."""
    with suppress(OutputLost):
        sys.stdout.write(f"{line}\n")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    path: str = "",
    wraps: str = "",
    less: Sequence[str] = (),
) -> None:
    """A table without frames; no cell is ever cut.

    ``right`` names the columns of numbers. On a narrow terminal the column ``wraps`` gets the remaining width, the
    columns ``less`` are omitted, and the column ``path`` breaks after its slash, so that an offset stays whole.
    """
    from rich.table import Table
    from rich.text import Text

    out, all_rows = console(), [[str(cell) for cell in row] for row in rows]
    widths = {name: _widest(name, all_rows, at) for at, name in enumerate(columns)}
    shown = list(columns)

    def left() -> int:
        """The width that remains for the wrapping column, or unused if there is none."""
        return out.width - sum(widths[name] + 1 for name in shown if name != wraps)

    enough = min(widths.get(wraps, 0), _ENOUGH)
    for name in less:
        if left() < enough:
            shown.remove(name)
    if left() < enough and path:
        at = columns.index(path)
        for row in all_rows:
            row[at] = row[at].replace("/", "/\n")
        widths[path] = min(_widest(path, all_rows, at), max(_OFFSET, widths[path] + left() - enough))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in shown:
        width = min(widths[name], max(left(), _ENOUGH)) if name == wraps else widths[name]
        table.add_column(name, justify="right" if name in right else "left", width=width, overflow="fold")
    for row in all_rows:
        table.add_row(*(Text(cell) for name, cell in zip(columns, row, strict=True) if name in shown))
    out.print(table)


def fits(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether each row of such a table fits on one line."""
    return sum(_widest(name, rows, at) + 1 for at, name in enumerate(columns)) - 1 <= console().width


def print_rows(rows: Iterable[tuple[str, ...]], widths: Sequence[int], *, style: str = "") -> None:
    """Columns of these widths, the first with a style, and a last one that wraps in the rest of the line.

    If the output is not a terminal, each row is one line.
    """
    if not is_terminal():
        _say_rows(rows, widths)
        return
    from rich.table import Table
    from rich.text import Text

    out = console()
    grid = Table.grid(padding=(0, 1, 0, 0))
    for width in widths:
        grid.add_column(width=width, no_wrap=True)
    grid.add_column(overflow="fold")
    for first, *others in rows:
        grid.add_row(Text.assemble((first, style)), *map(Text, others))
    out.print(grid)


def _say_rows(rows: Iterable[tuple[str, ...]], widths: Sequence[int]) -> None:
    for row in rows:
        say(" ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _widest(name: str, rows: Sequence[Sequence[str]], at: int) -> int:
    from rich.cells import cell_len

    lines = (line for row in rows for line in row[at].splitlines())
    return max([cell_len(name), *map(cell_len, lines)])
