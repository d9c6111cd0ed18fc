"""``archive``, and what it shares with ``restore``: many segments, with a progress bar on a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Annotated, Any

import typer

from takhin_tiered.cli.access import Access, View, open_access, open_view
from takhin_tiered.cli.broker import kept_text
from takhin_tiered.cli.output import console, counted, error_console, print_table, say, size
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings
from takhin_tiered.errors import (
    BucketMissing,
    InGlacier,
    SegmentNotFound,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
    TakhinError,
)
from takhin_tiered.segments.model import State
from takhin_tiered.segments.names import PLAIN, SegmentId, parse_partition
from takhin_tiered.segments.results import Status
from takhin_tiered.vault.opened import SMALL

_STORE_IS_DOWN = {StoreUnavailable.code, StoreDenied.code, StoreFull.code, BucketMissing.code}
Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="orders-0/00000000000000000000.log, or a glob.")]
_GLOB_CHARACTERS = frozenset("*?[")
# Round trips dominate small segments, so more of them run at the same time.
_SMALL_AT_ONCE = 64


def archive(
    context: typer.Context,
    paths: Paths,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what it would do; change nothing.")] = False,
) -> None:
    """Archive segments by hand, whatever their age."""

    async def work(settings: Settings) -> None:
        unlinks = settings.policy.unlinks_somewhere
        states = {str(State.LOCAL), str(State.COPIED)} if unlinks else {str(State.LOCAL)}
        if dry_run:
            async with open_view(settings) as view:
                _print_choice(await _chosen(view, paths, states), await view.status(), settings)
            return
        async with open_access(settings) as access:
            known = await _chosen(access, paths, states)
            sizes = {path: _to_upload(segment) for path, segment in known}
            together = settings.archive_concurrency
            poll = access.bytes_moved
            failures = await move_all(list(sizes), access.archive, "archived", sizes=sizes, at_once=together, poll=poll)
            found = await access.status()
            kept = {path: _kept(path, found, settings) for path in sizes}
            reasons = dict.fromkeys(kept.values())
            if why := "; ".join(filter(None, reasons)):
                console().print(f"The local files{' of some topics' if len(reasons) > 1 else ''} stay: {why}")
            if why := await _unlink_rest(access, {path for path in sizes if not kept[path]}):
                console().print(why)
            exit_on_failures(failures)

    run_work(context, work)


async def _unlink_rest(access: Access, paths: set[str]) -> str:
    """What was archived while a lower segment of its log was still on its way stays at first: now from below.

    Returns what to say of those that stay all the same; empty where none does.
    """
    errors: list[str] = []
    for path in (copied := await _copied(access, paths)):
        try:
            await access.archive(path)
        except TakhinError as error:
            errors.append(str(error))
    if not copied or not (left := await _copied(access, paths)):
        return ""
    why = errors[0] if errors else "a lower segment of the log is, and has to leave the disk first"
    return f"{counted(len(left), 'segment')} archived, and still on the disk too, as {left[0]}: {why}"


async def _copied(access: Access, paths: set[str]) -> list[str]:
    """Those of them that are archived, and on the disk too; the lowest ones first."""
    if not paths:
        return []
    known = await access.segments(tier=None, state=str(State.COPIED))
    return [each["segment_path"] for each in known if each["segment_path"] in paths and each["is_current"]]


async def _chosen(view: View, paths: list[str], states: set[str]) -> list[tuple[str, dict[str, Any] | None]]:
    """Each chosen path with what is known of the segment."""
    chosen = await expand(view, paths, states)
    known = {each["segment_path"]: each for each in await view.segments(tier=None, state=None) if each["is_current"]}
    return [(path, known.get(path)) for path in chosen]


def _print_choice(chosen: list[tuple[str, dict[str, Any] | None]], found: Status, settings: Settings) -> None:
    """A dry run: what `archive` would do with each."""
    rows, uploads, unlinked = [], 0, 0
    for path, segment in chosen:
        refusal = _refusal(segment, found)
        if segment is None or refusal:
            rows.append(("refuse", path, "", refusal))
            continue
        local = segment["local_size_bytes"]
        if segment["state"] == State.ARCHIVED:
            rows.append(("nothing", path, size(0), "already in the archive"))
            continue
        if segment["state"] == State.LOCAL:
            uploads += local
        kept = _kept(path, found, settings)
        unlinked += 0 if kept else local
        rows.append(("archive", path, size(local), kept or "upload, verify, unlink"))
    print_table(("ACTION", "SEGMENT", "SIZE", "WHAT"), rows, right=("SIZE",), path="SEGMENT", wraps="WHAT")
    moved = sum(row[0] == "archive" for row in rows)
    console().print(
        f"\n{counted(moved, 'segment')} to archive: {size(uploads)} to upload, {size(unlinked)} of files to be "
        f"unlinked; free on the disk: {size(found.disk_free_bytes)}"
    )
    exit_on_failures(sum(row[0] == "refuse" for row in rows))


def _kept(path: str, found: Status, settings: Settings) -> str:
    """Why its files stay; empty where they do not."""
    return kept_text(found, settings.mode_of(SegmentId.parse(path).topic) or found.mode)


def _to_upload(segment: dict[str, Any] | None) -> int:
    return segment["local_size_bytes"] if segment is not None and segment["state"] == State.LOCAL else 0


def _refusal(segment: dict[str, Any] | None, found: Status) -> str:
    if segment is None:
        return "neither on disk nor in the archive"
    if not found.enabled:
        return "tiered storage is not enabled"
    if segment["is_active"]:
        return "active: the broker still writes to it"
    return str(segment["reason"]) if segment["reason_code"] in {"excluded", "unsettled"} else ""


async def expand(access: View, patterns: list[str], states: set[str]) -> list[str]:
    """Paths unchanged; for partitions and globs the matching segments in one of ``states``.

    `SegmentNotFound` for a pattern that matches no segment at all.
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
            raise SegmentNotFound(f"no segment matches {pattern!r}", hint="takhin-tiered ls lists all segments")
        for segment in matching:
            if segment["state"] in states and not segment["is_active"]:
                found[segment["segment_path"]] = None
    return list(found)


async def move_all(
    paths: list[str],
    move: Callable[[str], Awaitable[None]],
    verb: str,
    *,
    sizes: dict[str, int],
    at_once: int,
    in_order: bool = False,
    poll: Callable[[], int] | None = None,
    requested: dict[str, str] | None = None,
) -> int:
    """Move each segment, print each failure and continue. Returns the number of failures.

    ``sizes`` are bytes by path. ``poll`` returns the bytes transferred so far, if known. ``requested`` gets those that
    have to be retrieved from an archive class first, with what is said of it: they have not failed.

    The first segment of a partition goes before the others: it decides which incarnation the others join. With
    ``in_order``, a partition's segments go one after the other, and a failure stops the rest of that partition.
    """
    failures = 0
    down = False
    large, small = asyncio.Semaphore(at_once), asyncio.Semaphore(max(at_once, _SMALL_AT_ONCE))
    errors = error_console()
    meter = Meter(sum(sizes.get(path, 0) for path in paths), len(paths), poll)
    with shown(verb, meter):

        async def one(path: str) -> bool:
            nonlocal failures, down
            shown = path.removesuffix(f"@{PLAIN}")
            async with small if sizes.get(path, SMALL + 1) <= SMALL else large:
                if down:
                    failures += 1
                    return False
                try:
                    await move(path)
                    say(f"{verb} {shown}")
                except TakhinError as error:
                    if requested is not None and error.code == InGlacier.code:
                        requested[path] = str(error)
                        say(f"requested {shown}")
                        meter.end(0)
                        return True
                    failures += 1
                    # Do not ask a store that is down again for each of a thousand segments.
                    down = error.code in _STORE_IS_DOWN
                    errors.print(f"[red]Error:[/red] {shown}:", error, markup=True)
                    return False
            meter.end(sizes.get(path, 0))
            return True

        async def in_turn(first: str, *others: str) -> None:
            nonlocal failures
            if in_order:
                for number, path in enumerate((first, *others)):
                    if not await one(path):
                        left = len(others) - number
                        failures += left
                        if left:
                            errors.print(f"{counted(left, 'segment')} below it not restored: the log would have a gap")
                        return
                return
            await one(first)
            async with asyncio.TaskGroup() as group:
                for path in others:
                    group.create_task(one(path))

        async with asyncio.TaskGroup() as group:
            for _, together in groupby(paths, key=lambda path: path.partition("/")[0]):
                group.create_task(in_turn(*together))
    later = f", {len(requested)} requested" if requested else ""
    console().print(
        f"{counted(len(paths) - failures - len(requested or ()), 'segment')} {verb}, {failures} failed{later}"
    )
    return failures
