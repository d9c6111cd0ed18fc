"""What a person sees: tables, sizes, and one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from rich.console import Console
from rich.table import Table

from takhin_tiered.cli.stdout import OutputLost
from takhin_tiered.segments.names import SegmentId

_WIDE = 10_000


def console() -> Console:
    """Standard output. Piped into a file or a program, it is wide enough to cut no path."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def error_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """A line of many, without rich: it takes a millisecond for each. Nobody reading on stops no work."""
    with suppress(OutputLost):
        sys.stdout.write(f"{line}\n")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table without frames: ``right`` names the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def size(count: float) -> str:
    """Bytes for people: ``1.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def matches(path: str, glob: str) -> bool:
    """A glob for whole paths, or for the partition's directory alone."""
    return fnmatchcase(path, glob) or fnmatchcase(SegmentId.parse(path).directory, glob)
