"""What is wrong by a status, each with what to do: for monitoring, the command line and the dashboard. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from takhin_tiered.segments.results import DaemonStatus, Status
from takhin_tiered.segments.words import counted, size, span

_DAY = 86400.0
_INTERVALS_MISSED = 2.5
# A daemon retries a failed cycle sooner than this, so a short interval does not raise an alarm at once.
_AT_LEAST = 300.0
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Trouble:
    """``code`` is stable, for programs. ``advice`` says what to do; empty where the text says it."""

    code: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.text}. {self.advice}" if self.advice else self.text


def troubles_of(found: Status, daemon: DaemonStatus | None, now: float) -> Iterator[Trouble]:
    """``daemon`` is the process that holds the data directory, if there is one."""
    if found.store_reachable is False:
        yield Trouble("store", f"the store is down: {found.store_problem}")
    if count := found.quarantined_segments:
        yield Trouble(
            "quarantined",
            f"{counted(count, 'segment')} quarantined: the archived copy is damaged or missing",
            "takhin-tiered ls --problem lists them",
        )
    if found.last_cycle_problem:
        yield Trouble("cycle", f"the last cycle could not run: {found.last_cycle_problem}")
    elif found.last_cycle is not None and (failures := found.last_cycle.failures):
        first = f"{failures[0].segment_path}: {failures[0].error}"
        yield Trouble("segments", f"the last cycle failed for {counted(len(failures), 'segment')}, first {first}")
    if (trouble := clock_trouble(found)) is not None:
        yield trouble
    if found.enabled:
        if lost := found.lost:
            names = ", ".join(each.segment_path for each in lost[:_NAMES_SHOWN])
            yield Trouble(
                "lost",
                f"{counted(len(lost), 'segment')} left the disk before being archived, within the last day: {names}"
                f"{', …' if len(lost) > _NAMES_SHOWN else ''}",
                "Lower storage.tiered.cold.age.hours below the broker's retention",
            )
        yield from _late(found, daemon, now)
    left = found.headroom_seconds
    if left is not None and left < _DAY:
        free = size(found.disk_free_bytes)
        yield Trouble("disk", f"the disk is full in {left / 3600:.1f} h at the current growth: {free} free")
    elif not found.disk_free_bytes:
        yield Trouble("disk", "the disk of the data directory is full")
    yield from _short_of(found)
    if found.fleet is not None and found.fleet.problem:
        yield Trouble("fleet", f"the fleet's table does not have all that this node knows: {found.fleet.problem}")
    yield from _daemon_trouble(found, daemon)


def _short_of(found: Status) -> Iterator[Trouble]:
    """What is set, and cannot be kept to."""
    if missing := found.reserve_missing_bytes:
        yield Trouble(
            "reserve",
            f"the reserve of the disk is not met: {size(missing)} less are free than local.reserve.percent asks for, "
            "and nothing else may leave",
            "takhin-tiered plan says why the other segments stay",
        )
    budget = found.restore_budget
    if budget is not None and budget.used_up:
        waiting = f", and restores that wait will cost ${budget.waiting:.2f}" if budget.waiting else ""
        yield Trouble(
            "budget",
            f"the month's restore budget of ${budget.monthly:.2f} is used up: ${budget.spent:.2f} are spent{waiting}",
            "Restores and promotions are refused until the next month (UTC), unless --over-budget is given. Raise "
            "storage.tiered.budget.restore.monthly if they have to go on",
        )


def clock_trouble(found: Status) -> Trouble | None:
    if not (problem := found.clock.problem):
        return None
    return Trouble(
        "clock",
        problem,
        "Until the clocks agree, nothing is removed for its age. Set the clock; if it is right: "
        "takhin-tiered run --once --accept-clock",
    )


def _late(found: Status, daemon: DaemonStatus | None, now: float) -> Iterator[Trouble]:
    allowed = max(_AT_LEAST, _INTERVALS_MISSED * found.cycle_interval_seconds)
    if found.last_cycle_at is None:
        if found.cycle_running_seconds is None and not daemon:
            yield Trouble("late", "no cycle has run here yet: start the daemon, or run takhin-tiered run --once")
        return
    ago = now - datetime.fromisoformat(found.last_cycle_at).timestamp()
    # The first cycle of a large disk may take days: a running cycle is not late.
    if ago > allowed and found.cycle_running_seconds is None:
        interval = found.cycle_interval_seconds / 60
        yield Trouble("late", f"no cycle has ended for {span(ago)}, and one is due every {interval:g} minutes")


def _daemon_trouble(found: Status, daemon: DaemonStatus | None) -> Iterator[Trouble]:
    if daemon is not None and daemon.answers is False:
        yield Trouble(
            "daemon",
            f"the daemon, process {daemon.pid} on {daemon.host}, does not answer: it is stopped or hung",
            "Check its log; a restart loses nothing",
        )
    elif daemon is None and found.last_cycle_by == "daemon":
        yield Trouble(
            "daemon", "the daemon is not running, although it ran the last cycle", "Check its log, and start it"
        )
