"""``status``: for people, and with ``--check`` for monitoring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.broker import broker_text
from takhin_tiered.cli.output import Json, console, counted, escape, is_terminal, print_json, print_rows, size
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings
from takhin_tiered.segments.results import Consumer, CycleResult, FleetStatus, StatusHere, to_json
from takhin_tiered.segments.troubles import clock_trouble, troubles_of
from takhin_tiered.segments.words import span

if TYPE_CHECKING:
    from rich.console import RenderableType

_COUNTS = (
    "{it.total_segments}: {it.hot_segments} hot, {it.warm_segments} warm, {it.cold_segments} cold; "
    "{it.archived_segments} in the archive only"
)
_NAMES_SHOWN = 5


def status(
    context: typer.Context,
    as_json: Json = False,
    check: Annotated[bool, typer.Option("--check", help="Print one line per problem; exit 1 if there is one.")] = False,
    watching: Annotated[bool, typer.Option("--watch", help="Draw it again every few seconds, until Ctrl-C.")] = False,
    seconds: Annotated[float, typer.Option("--every", min=0.2, max=3600, help="Seconds between, with --watch.")] = 2.0,
) -> None:
    """Tiers, states, bytes, the last cycle, and whether the store answers."""
    if watching and (as_json or check or not is_terminal()):
        raise typer.BadParameter("--watch draws on a terminal: without one, and for programs, use --json or --check")

    async def work(settings: Settings) -> None:
        if watching:
            await _watch(settings, seconds)
            return
        async with open_view(settings) as view:
            found = await view.status()
        problems = list(problems_of(found, time.time())) if check else []
        if as_json:
            print_json(to_json(found) | ({"problems": problems} if check else {}))
        elif check:
            for problem in problems:
                console().print(f"[red]PROBLEM[/red] {escape(problem)}", soft_wrap=True)
            if not problems:
                console().print("ok: no problem found")
        else:
            _print_status(found)
        exit_on_failures(len(problems))

    run_work(context, work)


def problems_of(found: StatusHere, now: float) -> Iterator[str]:
    """One line for each problem in a status."""
    return map(str, troubles_of(found, found.daemon, now))


def _requested_text(found: StatusHere) -> str:
    """What is waited for from an archive class."""
    first = found.requested[0]
    return (
        f"{counted(found.requested_segments, 'segment')} from {first.storage_class}, to be restored; the first by "
        f"{(first.expected_at or '')[:16].replace('T', ' ')} UTC"
    )


def clock_text(found: StatusHere) -> str:
    """The problem with the clock; empty if there is none."""
    return str(clock_trouble(found) or "")


async def _watch(settings: Settings, seconds: float) -> None:
    # Imported here, as everywhere: rich takes long to load.
    from takhin_tiered.cli.summary import summary, watch

    async def look() -> RenderableType:
        async with open_view(settings) as view:
            found = await view.status()
        now = time.time()
        note = f"{time.strftime('%H:%M:%S', time.localtime(now))}, every {seconds:g} s; Ctrl-C ends it"
        return summary(found, _rows(found), list(problems_of(found, now)), note)

    await watch(look, seconds)


def _print_status(found: StatusHere) -> None:
    if is_terminal():
        from takhin_tiered.cli.summary import summary

        console().print(summary(found, _rows(found), list(problems_of(found, time.time()))))
    else:
        print_rows(_rows(found), (15,))


def _rows(found: StatusHere) -> list[tuple[str, str]]:
    cycle = found.last_cycle
    rows = [
        ("data directory", found.data_dir),
        ("daemon", daemon_text(found)),
        ("tiered storage", _mode_text(found)),
        ("broker", broker_text(found.broker)),
        ("segments", _COUNTS.format(it=found)),
        ("on disk", f"{size(found.local_size_bytes)}, {size(found.disk_free_bytes)} free{_lasts(found)}"),
        ("in the archive", size(found.archived_size_bytes)),
        ("quarantined", str(found.quarantined_segments)),
        ("damaged", _damaged_text(found.damaged_segments)),
        *([("requested", _requested_text(found))] if found.requested_segments else []),
        ("superseded", f"{counted(found.superseded_generations, 'generation')} kept in the archive"),
        ("store", store_text(found)),
        ("last cycle", _cycle_text(cycle) if cycle else "none yet"),
    ]
    if found.fleet is not None:
        rows.append(("fleet", fleet_text(found.fleet)))
    rows += [("consumer", _consumer_text(each)) for each in found.consumers[:_NAMES_SHOWN]]
    if len(found.consumers) > _NAMES_SHOWN:
        rows.append(("consumer", f"and {len(found.consumers) - _NAMES_SHOWN} more: takhin-tiered status --json"))
    if found.cycle_running_seconds is not None:
        rows.append(("this cycle", f"running for {span(found.cycle_running_seconds)}"))
    if found.future_segments:
        rows.append(("clock", f"{counted(found.future_segments, 'segment')} modified in the future"))
    if text := clock_text(found):
        rows.append(("clock", text))
    if found.lost:
        rows.append(("lost", f"{counted(found.lost_segments, 'segment')} left the disk before being archived"))
    if found.last_cycle_problem:
        rows.append(("problem", f"{(found.last_cycle_at or '')[:19]} UTC: {found.last_cycle_problem}"))
    rows += [("failed", f"{failure.segment_path}: {failure.error}") for failure in (cycle.failures if cycle else ())]
    return rows


def fleet_text(fleet: FleetStatus) -> str:
    text = f"node {fleet.node} of table {fleet.table}, mode {fleet.mode}"
    if fleet.problem:
        return f"{text}: NOT written, {fleet.problem}"
    return f"{text}: written {fleet.synced_at[:19]} UTC" if fleet.synced_at else text


def _consumer_text(consumer: Consumer) -> str:
    who = f"{consumer.client_id or 'without a name'} at {consumer.address}"
    user = f", user {consumer.user}" if consumer.user else ""
    return (
        f"{who}{user}: {consumer.topic}-{consumer.partition} at offset {consumer.offset}, {size(consumer.bytes)} read"
    )


def daemon_text(found: StatusHere) -> str:
    daemon = found.daemon
    if daemon is None:
        return "not running"
    text = f"process {daemon.pid} on {daemon.host}"
    if daemon.answers is None:
        return f"{text} holds the data directory and serves no API"
    if daemon.answers:
        return f"running, {text}, version {found.version}, {daemon.api}"
    return f"NOT answering: {text}; this output comes from the catalog"


def store_text(found: StatusHere) -> str:
    if found.store is None:
        return "none configured"
    return f"{found.store}: " + (
        "reachable" if found.store_reachable else f"NOT reachable{_since(found)}, {found.store_problem}"
    )


def _since(found: StatusHere) -> str:
    """Since when the daemon has found the store down. A command without a daemon has asked only once."""
    daemon, since = found.daemon, found.store_down_since
    return f" since {since[:19]} UTC" if since and daemon is not None and daemon.answers else ""


def _damaged_text(count: int) -> str:
    return f"{counted(count, 'log')}: takhin-tiered ls --problem lists them" if count else "0"


def _mode_text(found: StatusHere) -> str:
    if not found.enabled:
        return "not enabled: observing only"
    freed = ", archived segments are to be freed by the broker" if found.mode == "trim" else ""
    return f"enabled, mode {found.mode}{freed}"


def _lasts(found: StatusHere) -> str:
    left = found.headroom_seconds
    return "" if left is None else f", full in {span(left)} at the current growth"


def _cycle_text(cycle: CycleResult) -> str:
    return (
        f"{(cycle.ended_at or '')[:19]} UTC: {cycle.archived} archived, {cycle.copied} copied, "
        f"{cycle.evicted} evicted, {size(cycle.bytes_freed)} of files unlinked, "
        f"{len(cycle.failures)} failed, {cycle.postponed} postponed"
    )
