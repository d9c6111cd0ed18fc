"""``verify``: compare the archive with its manifests, and find holes between segments."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from takhin_tiered.cli.access import Access, open_access, open_view
from takhin_tiered.cli.output import Json, console, counted, error_console, escape, print_json, size
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings
from takhin_tiered.engine.verifying import matches
from takhin_tiered.errors import SegmentNotFound, TakhinError
from takhin_tiered.segments.results import Hole, VerifiedSegment, to_json


def verify(
    context: typer.Context,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Such as 'orders-*'.")] = "*",
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte back.")] = False,
    as_json: Json = False,
) -> None:
    """Compare the archive with its manifests: sizes and checksums, or with --deep every byte.

    A bad segment is reported and quarantined: it is never restored. If it is still whole on the disk, it is stored
    again from there. Offsets that are missing between segments are reported as holes.
    """

    async def work(settings: Settings) -> None:
        found = _Found()
        async with open_view(settings) as view:
            known = [s for s in await view.segments(tier=None, state=None) if _is_wanted(s, glob)]
            quarantined = {segment["segment_path"] for segment in known if segment.get("quarantine")}
            total = sum(segment["archived_size_bytes"] for segment in known)
            meter = Meter(total, len(known), view.bytes_moved if deep else None)
            with shown("verified", meter):
                async for result in view.verify(glob, deep=deep):
                    found.note(result)
                    if isinstance(result, Hole):
                        continue
                    meter.end(result.size_bytes)
                    if (
                        deep
                        and not (result.problem or result.skipped)
                        and result.segment_path.partition("@")[0] in quarantined
                    ):
                        found.sound.append(result)
                    if result.problem and not as_json:
                        console().print(f"BAD {result.segment_path}: {escape(result.problem)}", soft_wrap=True)
        if glob != "*" and not found.checked:
            raise SegmentNotFound(f"no archived segment matches {glob!r}", hint="takhin-tiered ls lists all segments")
        if as_json:
            print_json(found.described())
        else:
            found.say(deep=deep)
        if found.bad or found.sound:
            await _scrub(settings, [*found.bad, *found.sound], quiet=as_json)
        exit_on_failures(len(found.bad) + len(found.holes))

    run_work(context, work)


def _is_wanted(segment: dict[str, Any], glob: str) -> bool:
    return bool(segment["archived_size_bytes"]) and matches(segment["segment_path"], glob)


class _Found:
    def __init__(self) -> None:
        self.checked = self.total = self.lacking = self.skipped = 0
        self.bad: list[VerifiedSegment] = []
        # Quarantined before, and now found sound.
        self.sound: list[VerifiedSegment] = []
        self.holes: list[Hole] = []

    def note(self, result: VerifiedSegment | Hole) -> None:
        if isinstance(result, Hole):
            self.holes.append(result)
            return
        self.checked += 1
        self.total += result.size_bytes
        self.lacking += result.may_lack_files
        self.skipped += bool(result.skipped)
        if result.problem:
            self.bad.append(result)

    def described(self) -> dict[str, object]:
        return {
            "verified": self.checked,
            "bytes": self.total,
            "bad": [{"segment_path": result.segment_path, "problem": result.problem} for result in self.bad],
            "holes": [to_json(hole) for hole in self.holes],
            "may_lack_files": self.lacking,
            "skipped": self.skipped,
        }

    def say(self, *, deep: bool) -> None:
        out = console()
        for hole in self.holes:
            first, last = hole.offsets
            out.print(
                f"HOLE {hole.partition}: offsets {first}-{last} are neither archived nor local "
                f"(incarnation {hole.incarnation})"
            )
        how = "read back" if deep else "by sizes and checksums"
        holes_too = f", {counted(len(self.holes), 'hole')}" if self.holes else ""
        out.print(
            f"{counted(self.checked, 'archived segment')} verified {how}, {size(self.total)}, {len(self.bad)} bad"
            f"{holes_too}"
        )
        if self.skipped:
            out.print(
                f"{counted(self.skipped, 'segment')} in an archive class such as Glacier not read back: size and "
                "checksum are what the store says"
            )
        if self.lacking:
            out.print(
                f"{counted(self.lacking, 'segment')} archived by an earlier release may lack a transaction index and a "
                "producer snapshot. The next cycle archives those that are still on the disk"
            )


async def _scrub(settings: Settings, bad: list[VerifiedSegment], *, quiet: bool) -> None:
    """Quarantine, repair or release each segment, and print the result."""
    try:
        async with open_access(settings) as access:
            for result in bad:
                await _scrub_one(access, result, error_console() if quiet else console())
    except TakhinError as error:
        error_console().print(f"The result was not recorded in the catalog: {escape(str(error))}")


async def _scrub_one(access: Access, result: VerifiedSegment, out: Console) -> None:
    path = result.segment_path
    try:
        healed = await access.scrub(result.exact_path)
        if not result.problem:
            out.print(f"RELEASED {path}: its archived copy is sound")
        elif healed:
            out.print(f"HEALED {path}: stored again from the disk")
        else:
            out.print(
                f"QUARANTINED {path}: the disk has no whole copy. "
                "Look for an earlier version of its objects in the bucket"
            )
    except TakhinError as error:
        error_console().print(f"{path}: the result was not recorded in the catalog: {escape(str(error))}")
