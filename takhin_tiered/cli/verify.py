"""``verify``: the archive against its manifests, and what lies between them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from takhin_tiered.cli.access import Access, open_access
from takhin_tiered.cli.output import console, counted, error_console, matches, print_json, size
from takhin_tiered.cli.running import exit_if, run_work
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.engine.coverage import ArchivedSpans, Hole
from takhin_tiered.engine.scrub import Verdict
from takhin_tiered.errors import SegmentNotFound, TakhinError
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.tiered_storage import TieredStorage


def verify(
    context: typer.Context,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Such as 'orders-*'.")] = "*",
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in a form that stays the same.")] = False,
) -> None:
    """Compare the archive with its manifests: sizes and checksums, or with --deep every byte.

    What is bad is named, and quarantined: never restored. Where it still stands whole on the disk, it is stored again
    from there. Offsets that are in no segment, between segments that are there, are told as holes.
    """

    async def work(settings: Settings) -> None:
        found = _Found()
        async with TieredStorage.open(settings, read_only=True) as storage:
            async for verdict in storage.verify(lambda identity: found.wants(identity, glob), deep=deep):
                found.note(verdict)
                if verdict.problem and not as_json:
                    console().print(f"BAD {verdict.id.full_path}: {escape(verdict.problem)}")
            holes = await in_thread(lambda: found.holes(storage))
        if glob != "*" and not found.checked:
            raise SegmentNotFound(f"no archived segment matches {glob!r}", hint="takhin-tiered ls shows what there is")
        if as_json:
            print_json(found.described(holes))
        else:
            found.say(holes, deep=deep)
        if found.bad:
            await _scrub(settings, [verdict.id for verdict in found.bad], quiet=as_json)
        exit_if(len(found.bad) + len(holes))

    run_work(context, work)


class _Found:
    def __init__(self) -> None:
        self.checked = self.total = self.lacking = 0
        self.bad: list[Verdict] = []
        self._spans: dict[Partition, ArchivedSpans] = {}
        self._in_part: set[Partition] = set()

    def wants(self, identity: SegmentId, glob: str) -> bool:
        if matches(identity.path, glob):
            return True
        # What lies between some of a partition's segments tells nothing.
        self._in_part.add(identity.place.partition)
        return False

    def note(self, verdict: Verdict) -> None:
        self.checked += 1
        self.total += verdict.size
        self.lacking += verdict.may_lack_files
        if verdict.problem:
            self.bad.append(verdict)
        if verdict.manifest is not None:
            self._spans.setdefault(verdict.id.place.partition, ArchivedSpans()).note(verdict.manifest)

    def holes(self, storage: TieredStorage) -> list[Hole]:
        whole = [spans for partition, spans in sorted(self._spans.items()) if partition not in self._in_part]
        return [hole for spans in whole for hole in spans.holes(storage.engine)]

    def described(self, holes: list[Hole]) -> dict[str, object]:
        return {
            "verified": self.checked,
            "bytes": self.total,
            "bad": [{"segment_path": verdict.id.full_path, "problem": verdict.problem} for verdict in self.bad],
            "holes": [
                {"partition": hole.directory, "incarnation": hole.incarnation, "offsets": list(hole.range)}
                for hole in holes
            ],
            "may_lack_files": self.lacking,
        }

    def say(self, holes: list[Hole], *, deep: bool) -> None:
        out = console()
        for hole in holes:
            out.print(
                f"HOLE {hole.directory}: offsets {hole.range[0]}-{hole.range[1]} are neither archived nor local "
                f"(incarnation {hole.incarnation})"
            )
        how = "read back" if deep else "by sizes and checksums"
        holes_too = f", {counted(len(holes), 'hole')}" if holes else ""
        out.print(
            f"{counted(self.checked, 'archived segment')} verified {how}, {size(self.total)}, {len(self.bad)} bad"
            f"{holes_too}"
        )
        if self.lacking:
            out.print(
                f"{counted(self.lacking, 'segment')} archived by an earlier release may lack a transaction index and a "
                "producer snapshot: what still stands on the disk is archived with them at the next cycle"
            )


async def _scrub(settings: Settings, bad: list[SegmentId], *, quiet: bool) -> None:
    """Take the consequences of what was found, and say what became of each segment."""
    try:
        async with open_access(settings, changing=True) as access:
            for identity in bad:
                await _scrub_one(access, identity, error_console() if quiet else console())
    except TakhinError as error:
        error_console().print(f"What is bad was not quarantined: {escape(str(error))}")


async def _scrub_one(access: Access, identity: SegmentId, out: Console) -> None:
    path = identity.full_path
    try:
        if await access.scrub(identity.exact_path):
            out.print(f"HEALED {path}: stored again from the disk")
        else:
            out.print(f"QUARANTINED {path}: no whole copy is on the disk. Look for an older version")
    except TakhinError as error:
        error_console().print(f"{path} was not quarantined: {escape(str(error))}")
