"""``status``: for people, and with ``--check`` for monitoring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.broker import broker_text
from takhin_tiered.cli.output import Json, console, counted, escape, print_json, print_rows, size
from takhin_tiered.cli.running import exit_on_failures, run_work
from takhin_tiered.config import Settings
from takhin_tiered.segments.results import CycleResult, StatusHere, to_json

_COUNTS = (
    "{it.total_segments}: {it.hot_segments} hot, {it.warm_segments} warm, {it.cold_segments} cold; "
    "{it.archived_segments} in the archive only"
)
_DAY = 86400.0
_INTERVALS_MISSED = 2.5
# A daemon retries a failed cycle sooner than this, so a short interval does not raise an alarm at once.
_AT_LEAST = 300.0
_NAMES_SHOWN = 5


def status(
    context: typer.Context,
    as_json: Json = False,
    check: Annotated[bool, typer.Option("--check", help="Print one line per problem; exit 1 if there is one.")] = False,
) -> None:
    """Tiers, states, bytes, the last cycle, and whether the store answers."""

    async def work(settings: Settings) -> None:
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
    if found.store_reachable is False:
        yield f"the store is down: {found.store_problem}"
    if count := found.quarantined_segments:
        yield (
            f"{counted(count, 'segment')} quarantined: the archived copy is damaged or missing. "
            "takhin-tiered ls --problem lists them"
        )
    if found.last_cycle_problem:
        yield f"the last cycle could not run: {found.last_cycle_problem}"
    elif found.last_cycle is not None and (failures := found.last_cycle.failures):
        first = f"{failures[0].segment_path}: {failures[0].error}"
        yield f"the last cycle failed for {counted(len(failures), 'segment')}, first {first}"
    if text := clock_text(found):
        yield text
    if found.enabled:
        if lost := found.lost:
            names = ", ".join(each.segment_path for each in lost[:_NAMES_SHOWN])
            yield (
                f"{counted(len(lost), 'segment')} left the disk before being archived, within the last day: {names}"
                f"{', …' if len(lost) > _NAMES_SHOWN else ''}. Lower storage.tiered.cold.age.hours below the broker's "
                "retention"
            )
        yield from _late(found, now)
    left = found.headroom_seconds
    if left is not None and left < _DAY:
        yield f"the disk is full in {left / 3600:.1f} h at the current growth: {size(found.disk_free_bytes)} free"
    elif not found.disk_free_bytes:
        yield "the disk of the data directory is full"
    yield from _daemon_problem(found)


def clock_text(found: StatusHere) -> str:
    """The problem with the clock; empty if there is none."""
    problem = found.clock.problem
    if not problem:
        return ""
    return (
        f"{problem}. Until the clocks agree, nothing is removed for its age. Set the clock; if it is right: "
        "takhin-tiered run --once --accept-clock"
    )


def _late(found: StatusHere, now: float) -> Iterator[str]:
    allowed = max(_AT_LEAST, _INTERVALS_MISSED * found.cycle_interval_seconds)
    if found.last_cycle_at is None:
        if found.cycle_running_seconds is None and not found.daemon:
            yield "no cycle has run here yet: start the daemon, or run takhin-tiered run --once"
        return
    ago = now - datetime.fromisoformat(found.last_cycle_at).timestamp()
    # The first cycle of a large disk may take days: a running cycle is not late.
    if ago > allowed and found.cycle_running_seconds is None:
        interval = found.cycle_interval_seconds / 60
        yield f"no cycle has ended for {_span(ago)}, and one is due every {interval:g} minutes"


def _daemon_problem(found: StatusHere) -> Iterator[str]:
    daemon = found.daemon
    if daemon is not None and daemon.answers is False:
        yield (
            f"the daemon, process {daemon.pid} on {daemon.host}, does not answer: "
            "it is stopped or hung. Check its log; a restart loses nothing"
        )
    elif daemon is None and found.last_cycle_by == "daemon":
        yield "the daemon is not running, although it ran the last cycle. Check its log, and start it"


def _print_status(found: StatusHere) -> None:
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
        ("superseded", f"{counted(found.superseded_generations, 'generation')} kept in the archive"),
        ("store", store_text(found)),
        ("last cycle", _cycle_text(cycle) if cycle else "none yet"),
    ]
    if found.cycle_running_seconds is not None:
        rows.append(("this cycle", f"running for {_span(found.cycle_running_seconds)}"))
    if found.future_segments:
        rows.append(("clock", f"{counted(found.future_segments, 'segment')} modified in the future"))
    if text := clock_text(found):
        rows.append(("clock", text))
    if found.lost:
        rows.append(("lost", f"{counted(found.lost_segments, 'segment')} left the disk before being archived"))
    if found.last_cycle_problem:
        rows.append(("problem", f"{(found.last_cycle_at or '')[:19]} UTC: {found.last_cycle_problem}"))
    rows += [("failed", f"{failure.segment_path}: {failure.error}") for failure in (cycle.failures if cycle else ())]
    print_rows(rows, (15,))


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
    return "" if left is None else f", full in {_span(left)} at the current growth"


def _span(seconds: float) -> str:
    for length, name in ((_DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"


def _cycle_text(cycle: CycleResult) -> str:
    return (
        f"{(cycle.ended_at or '')[:19]} UTC: {cycle.archived} archived, {cycle.copied} copied, "
        f"{cycle.evicted} evicted, {size(cycle.bytes_freed)} of files unlinked, "
        f"{len(cycle.failures)} failed, {cycle.postponed} postponed"
    )
