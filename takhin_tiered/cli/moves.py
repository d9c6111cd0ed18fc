"""``archive`` and ``restore``: several segments by hand, with a progress bar on a terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from takhin_tiered.cli.access import Access
from takhin_tiered.cli.output import console, counted, error_console, say
from takhin_tiered.errors import BucketMissing, SegmentNotFound, StoreDenied, StoreFull, StoreUnavailable, TakhinError
from takhin_tiered.segments.names import PLAIN, SegmentId, parse_partition

_STORE_IS_DOWN = {StoreUnavailable.code, StoreDenied.code, StoreFull.code, BucketMissing.code}
_GLOB_CHARACTERS = frozenset("*?[")


def path_of(segment: dict[str, Any]) -> str:
    """A segment's path, with its incarnation where it is not the current one's."""
    path = str(segment["segment_path"])
    return path if segment["is_current"] else f"{path}@{segment['incarnation'] or PLAIN}"


async def expand(access: Access, patterns: list[str], states: set[str]) -> list[str]:
    """Paths as they are; partitions and globs as the segments that they match and that there is something to do for.

    `SegmentNotFound` for a glob that matches nothing at all.
    """
    known = None
    found: dict[str, None] = {}
    for pattern in patterns:
        is_partition = parse_partition(pattern) is not None
        if not _GLOB_CHARACTERS & set(pattern) and not is_partition:
            found[SegmentId.parse(pattern).path] = None
            continue
        if known is None:
            known = [each for each in await access.segments(tier=None, state=None) if each["is_current"]]
        glob = f"{pattern}/*" if is_partition else pattern
        matching = [segment for segment in known if fnmatchcase(segment["segment_path"], glob)]
        if not matching:
            raise SegmentNotFound(f"no segment matches {pattern!r}", hint="takhin-tiered ls shows what there is")
        for segment in matching:
            if segment["state"] in states and not segment["is_active"]:
                found[segment["segment_path"]] = None
    return list(found)


async def move_all(
    paths: list[str], move: Callable[[str], Awaitable[None]], verb: str, *, at_once: int, in_order: bool = False
) -> int:
    """Move each; tell each failure, and go on. Returns how many failed.

    The first of each partition goes before its others: it tells which incarnation the others join. ``in_order``: those
    of a partition go one after the other, and what comes after a failure is left.
    """
    failures = 0
    down = False
    room = asyncio.Semaphore(at_once)
    errors = error_console()
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(
        *columns,
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
        # Lines go above the bar where both go to the terminal, and else to where they were sent.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar as progress:
        task = progress.add_task(verb, total=len(paths))

        async def one(path: str) -> bool:
            nonlocal failures, down
            shown = path.removesuffix(f"@{PLAIN}")
            async with room:
                if down:
                    failures += 1
                    return False
                try:
                    await move(path)
                    say(f"{verb} {shown}")
                except TakhinError as error:
                    failures += 1
                    # Nothing would come of asking a store that is down for each of a thousand segments.
                    down = error.code in _STORE_IS_DOWN
                    errors.print(f"[red]Error:[/red] {shown}:", error, markup=True)
                    return False
            progress.advance(task)
            return True

        async def in_turn(first: str, *others: str) -> None:
            nonlocal failures
            if in_order:
                for number, path in enumerate((first, *others)):
                    if not await one(path):
                        left = len(others) - number
                        failures += left
                        if left:
                            errors.print(
                                f"{counted(left, 'segment')} below it left in the archive, as a gap would be made"
                            )
                        return
                return
            await one(first)
            async with asyncio.TaskGroup() as group:
                for path in others:
                    group.create_task(one(path))

        async with asyncio.TaskGroup() as group:
            for _, together in groupby(paths, key=lambda path: path.partition("/")[0]):
                group.create_task(in_turn(*together))
    console().print(f"{counted(len(paths) - failures, 'segment')} {verb}, {failures} failed")
    return failures
