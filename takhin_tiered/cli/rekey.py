"""``rekey``: wrap the data keys of the archive with the current key of the key file."""

from __future__ import annotations

import typer

from takhin_tiered.cli.access import open_access
from takhin_tiered.cli.output import console, counted, error_console, escape
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings


def rekey(context: typer.Context) -> None:
    """Wrap the data keys of all archived segments with the first key of the key file.

    Only manifests are written, no data. Once none fails, the older keys can be removed from the file.
    """

    async def work(settings: Settings) -> None:
        # How many manifests there are is known only at the end.
        meter = Meter(None, None)
        with shown("manifests seen:", meter):
            async with open_access(settings) as access:
                found = await access.rekey(lambda count: meter.reach(count, 0))
        for failure in found.failures:
            error_console().print(f"[red]Error:[/red] {failure.segment_path}: {escape(failure.error)}")
        left = f", {found.read_only} under prefixes that are only read" if found.read_only else ""
        console().print(
            f"{counted(found.rewrapped, 'manifest')} rewrapped, {found.current} had the current key, "
            f"{found.plain} are not encrypted{left}, {len(found.failures)} failed"
        )
        exit_on_failures(len(found.failures))

    run_work(context, work)
