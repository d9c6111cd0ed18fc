"""``rebuild``: build the catalog again, from the disk and the bucket."""

from __future__ import annotations

import typer

from takhin_tiered.cli.access import open_access
from takhin_tiered.cli.output import console, counted
from takhin_tiered.cli.progress import Meter, shown
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings


def rebuild(context: typer.Context) -> None:
    """Rebuild the catalog from the disk and the bucket, as on a new machine."""

    async def work(settings: Settings) -> None:
        # The size of the bucket is known only at the end.
        meter = Meter(None, None)
        with shown("segments seen:", meter):
            async with open_access(settings) as access:
                found = await access.rebuild(meter.reach)
        for path in found.lost:
            console().print(f"LOST {path}: neither in the archive nor on disk")
        console().print(
            f"{counted(found.learned, 'archived segment')} added or updated in the catalog, {len(found.lost)} lost, "
            f"{counted(found.strays, 'object')} without a manifest ignored"
        )
        exit_on_failures(len(found.lost))

    run_work(context, work)
