"""Disk pressure: which segments leave before their age, so that a share of each disk stays free. Pure.

The coldest go first: by tier, then by age. Only as many as it takes, by the bytes that the plan counts; what leaves
anyway, by its age or because the broker was asked already, counts too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import groupby
from typing import NamedTuple

from takhin_tiered.segments.model import Segment, Tier
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.segments.plan import Step, Verb
from takhin_tiered.segments.policy import Policy

_RANKS = {Tier.COLD: 0, Tier.WARM: 1, Tier.HOT: 2}
# What stays only because of its age, or because no window is open.
_EARLY = {"hot", "warm", "outside_window", "before_retention"}


@dataclass(frozen=True, slots=True)
class Room:
    """Of a file system, in bytes; ``paths`` are the data directories on it."""

    free: int
    size: int
    paths: tuple[str, ...] = ()

    def missing(self, reserve: float) -> int:
        """Bytes that are less free than this share of all."""
        return max(0, int(self.size * reserve) - self.free)

    def describe(self, reserve: float) -> str:
        free = 100 * self.free / self.size if self.size else 0.0
        where = ", ".join(self.paths)
        return f"{free:.1f} % of the disk of {where} is free, and local.reserve.percent is {100 * reserve:g}"


class _Log(NamedTuple):
    """A local log. ``leaves``: it goes without any pressure."""

    rank: int
    mtime: float
    id: SegmentId
    size: int
    leaves: bool


@dataclass(slots=True)
class _Disk:
    """``queues``: logs that can only go one after the other. Without an order, each is a queue of its own."""

    missing: int
    queues: list[deque[_Log]] = field(default_factory=list)

    def choose(self) -> list[SegmentId]:
        """The coldest that it takes; what is still missing then is in ``missing``."""
        chosen: list[SegmentId] = []
        for queue in self.queues:
            self._advance(queue)
        heap = [(*queue[0][:3], number) for number, queue in enumerate(self.queues) if queue]
        heapify(heap)
        while heap and self.missing > 0:
            *_, identity, number = heappop(heap)
            queue = self.queues[number]
            self.missing -= queue.popleft().size
            chosen.append(identity)
            self._advance(queue)
            if queue:
                heappush(heap, (*queue[0][:3], number))
        return chosen

    def _advance(self, queue: deque[_Log]) -> None:
        while queue and queue[0].leaves:
            self.missing -= queue.popleft().size


def relieve(
    segments: Iterable[Segment],
    decide: Callable[[Segment], Step],
    policy: Policy,
    missing: Mapping[int, int],
    *,
    sure: float,
    device_of: Callable[[Partition], int | None],
    is_led: Callable[[Partition], bool],
    log_start: Callable[[Partition], int],
) -> tuple[dict[SegmentId, int], dict[int, int]]:
    """The segments that leave early, each with its device, and the bytes that are missing on a device all the same.

    ``segments`` are those with local files, in order. ``decide`` is the plan without pressure, ``missing`` the bytes by
    device. In mode trim the broker frees what it leads (``is_led``), and what is below ``log_start`` leaves already.
    ``sure`` is as in `Segment.lease_left`.
    """
    disks = {device: _Disk(size) for device, size in missing.items() if size > 0}
    for partition, group in groupby(segments, key=lambda segment: segment.id.place.partition):
        disk = disks.get(device) if (device := device_of(partition)) is not None else None
        rules = policy.of(partition[0])
        if disk is None or not (rules.may_unlink or rules.trims):
            continue
        start = log_start(partition) if rules.trims else 0
        queue: deque[_Log] = deque()
        # Kafka's log has no gaps: from the lowest segment on, up to the first that stays.
        in_order = policy.kafka or rules.trims
        for segment in sorted(group, key=lambda segment: segment.id):
            if segment.local.log is None:
                continue
            step = decide(segment)
            log = (
                None
                if segment.lease_left(sure)
                else _log_of(segment, step, rules, start, may_trim=rules.trims and is_led(partition))
            )
            if log is not None and in_order:
                queue.append(log)
            elif log is not None:
                disk.queues.append(deque([log]))
            elif in_order:
                break
        disk.queues.append(queue)
    chosen = {identity: device for device, disk in disks.items() for identity in disk.choose()}
    return chosen, {device: disk.missing for device, disk in disks.items() if disk.missing > 0}


def _log_of(segment: Segment, step: Step, rules: Policy, log_start: int, *, may_trim: bool) -> _Log | None:
    """None for one that stays whatever the pressure."""
    size = segment.local.size
    if rules.trims:
        archive = segment.archive
        is_trimmed = archive is not None and -1 < archive.last_offset < log_start
        leaves = is_trimmed or step.reason_code == "trim" or (step.verb is Verb.COPY and step.reason_code == "cold")
        may_leave = may_trim or is_trimmed
    else:
        leaves, may_leave = step.verb in {Verb.ARCHIVE, Verb.EVICT}, True
    is_early = step.reason_code in _EARLY and (rules.auto_archive or segment.is_proven)
    if not may_leave or not (leaves or is_early):
        return None
    return _Log(_RANKS[step.tier], segment.mtime, segment.id, size, leaves)
