"""``cost``: what storage costs a month, what it saves, and what the current month has cost so far."""

from __future__ import annotations

from decimal import Decimal

import typer

from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.output import Json, console, dollars, print_json, print_rows, print_table
from takhin_tiered.cli.running import run_work
from takhin_tiered.config import Settings
from takhin_tiered.cost.prices import GB
from takhin_tiered.cost.report import CostReport
from takhin_tiered.segments.results import to_json


def cost(context: typer.Context, as_json: Json = False) -> None:
    """What the tiers cost a month, in US dollars, and what was saved against all on the disk."""

    async def work(settings: Settings) -> None:
        async with open_view(settings) as view:
            found = await view.cost()
        if as_json:
            print_json(to_json(found))
        else:
            _print_cost(found)

    run_work(context, work)


def _print_cost(found: CostReport) -> None:
    stored = found.hot_storage_gb + found.cold_storage_gb
    rows = [
        ("disk", "", gigabytes(found.hot_storage_gb), dollars(found.hot_storage_cost_monthly)),
        *(
            (each.storage_class, str(each.segments), gigabytes(each.bytes / GB), dollars(each.cost_monthly))
            for each in found.classes
        ),
        ("together", "", gigabytes(stored), dollars(found.total_cost_monthly)),
        ("all on disk", "", gigabytes(found.all_local_gb), dollars(found.all_local_cost_monthly)),
    ]
    columns = ("WHERE", "SEGMENTS", "STORED", "A MONTH")
    print_table(columns, rows, right=columns[1:])
    saved = found.saved_monthly
    console().print(
        f"\nSaved: {dollars(saved)} a month, {found.cost_savings_pct:.1f} %\n"
        if saved >= 0
        else f"\n{dollars(-saved)} a month more than all on the disk: what stands in both places is paid for twice\n"
    )
    print_rows(_month_rows(found), (11,))


def _month_rows(found: CostReport) -> list[tuple[str, str]]:
    requests = ", ".join(f"{each.requests} {each.kind}" for each in found.requests if each.requests)
    budget = found.restore_budget
    spent = f"{dollars(budget.spent)} spent on restores and reads"
    spent += f", {dollars(budget.waiting)} for what waits for an archive class" if budget.waiting else ""
    left = (
        "; there is no budget"
        if budget.left is None
        else f" of {dollars(budget.monthly)}; {dollars(max(0.0, budget.left))} left"
    )
    return [
        ("restore", f"about {dollars(found.retrieval_cost_per_restore)} for a segment of average size"),
        ("month", f"{found.month} (UTC), so far"),
        ("requests", f"{dollars(found.requests_cost)}: {requests or 'none'}"),
        ("retrieval", f"{dollars(found.retrieval_cost)} for {gigabytes(found.received_gb)} that were read"),
        ("transfer", dollars(found.egress_cost)),
        ("budget", f"{spent}{left}"),
    ]


def gigabytes(number: float) -> str:
    """Of 10^9 bytes, as they are billed."""
    return f"{number:,.3f} GB" if number >= 0.001 or not number else f"{Decimal(f'{number:.2g}'):f} GB"
