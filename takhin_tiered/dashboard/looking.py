"""What the views show of the storage, in the form that their templates use."""

from __future__ import annotations

import os
import socket
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from math import ceil

from takhin_tiered.engine.strips import Cell
from takhin_tiered.engine.summaries import Summary
from takhin_tiered.segments.names import Partition
from takhin_tiered.segments.report import SegmentInfo
from takhin_tiered.segments.results import DaemonStatus
from takhin_tiered.segments.troubles import Trouble, troubles_of
from takhin_tiered.tiered_storage import TieredStorage

COUNT_SECONDS = 0.3
"""A page waits so long at most for counts; what is not counted by then is shown as such."""
_GAP_PERCENT = 2.5
_GAPS_PERCENT = 40.0
"""So much of a strip is a hole, and all of them at most."""
_ADVICE = {
    "store": "Files stay on the disk until the store answers, and the daemon tries again by itself. Check the "
    "endpoint, the network and the credentials; takhin-tiered config check --connect tells more",
    "cycle": "The daemon tries again by itself, later each time. takhin-tiered doctor looks for the cause",
    "segments": "Each is tried again in the next cycle. They are listed below, with what failed",
    "quarantined": "They are listed below. takhin-tiered verify GLOB --deep reads them back; one that stands whole on "
    "the disk is stored again by a scrub",
    "late": "Look at the transfers: a cycle may be waiting for a slow store or disk. SIGUSR1 writes to the log where "
    "the daemon waits",
    "disk": "Archive by hand what is cold, lower storage.tiered.cold.age.hours, or end the lease of restored segments",
    "fleet": "The daemon works on, and writes what was missed once the table answers. takhin-tiered fleet status "
    "tells more",
}


def troubles(storage: TieredStorage) -> list[Trouble]:
    """What ``status --check`` tells, each with what to do."""
    daemon = DaemonStatus(pid=os.getpid(), host=socket.gethostname(), api="", answers=True)
    return [
        replace(each, advice=_ADVICE.get(each.code, each.advice))
        for each in troubles_of(storage.status(), daemon, time.time())
    ]


@dataclass(slots=True)
class TopicRow:
    name: str
    partitions: int = 0
    summary: Summary = field(default_factory=Summary)


def topic_rows(storage: TieredStorage, wanted: str = "") -> list[TopicRow]:
    """The topics whose name has this in it, in order."""
    found = []
    for topic, partitions in groupby(storage.partition_names(), key=lambda partition: partition[0]):
        if wanted.lower() in topic.lower():
            row = TopicRow(topic)
            for partition in partitions:
                row.partitions += 1
                row.summary.add(storage.summary(partition))
            found.append(row)
    return found


def total(rows: Sequence[TopicRow]) -> Summary:
    found = Summary()
    for row in rows:
        found.add(row.summary)
    return found


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a bar; ``x`` and ``width`` are in percent."""

    name: str
    x: float
    width: float
    label: str


def bars(parts: Sequence[tuple[str, float, str]]) -> list[Bar]:
    """Parts of a whole beside each other: a name, an amount, and what it is called. None is too small to be seen."""
    present = [(name, amount, label) for name, amount, label in parts if amount > 0]
    whole = sum(amount for _, amount, _ in present)
    widths = [max(100 * amount / whole, 0.75) for _, amount, _ in present]
    scale = 100 / sum(widths) if widths else 0.0
    found, x = [], 0.0
    for (name, _, label), width in zip(present, widths, strict=True):
        found.append(Bar(name, round(x, 3), round(width * scale, 3), label))
        x += width * scale
    return found


@dataclass(frozen=True, slots=True)
class Strip:
    """A log as bars above each other: where its segments are, how they are read, which have a problem.

    ``holes`` are gaps between them; one may stand for several, ``hole_count`` is of all.
    """

    places: list[Bar]
    heat: list[Bar]
    troubles: list[Bar]
    holes: list[Bar]
    segments: int
    troubled: int
    hole_count: int
    reads: float


def strip_of(cells: Sequence[Cell], holes: Sequence[Sequence[int]] = ()) -> Strip:
    """Neighbours that look the same are one bar. ``holes`` are the missing ranges, each [first, last], in order."""
    most = max((cell.rate for cell in cells), default=0.0)
    # By where they are, counted in cells from the left.
    gaps = {at: list(group) for at, group in groupby(holes, key=lambda hole: _gap_at(cells, hole[0]))}
    places = list(gaps)
    gap = min(_GAP_PERCENT, _GAPS_PERCENT / max(1, len(gaps)))
    unit = (100 - gap * len(gaps)) / max(1, len(cells))

    def joined(names: Sequence[str]) -> list[Bar]:
        found, start = [], 0
        for name, group in groupby(names):
            end = start + len(list(group))
            edges = [start, *(at for at in places if start < at < end), end]
            found += [
                Bar(name, round(one * unit + gap * bisect_right(places, one), 3), round((other - one) * unit, 3), "")
                for one, other in pairwise(edges)
                if name
            ]
            start = end
        return found

    return Strip(
        places=joined([f"place-{cell.place}" for cell in cells]),
        heat=joined([f"heat-{ceil(4 * cell.rate / most) if most else 0}" for cell in cells]),
        troubles=joined(["trouble" if cell.troubled else "" for cell in cells]),
        holes=[
            Bar("hole", round(at * unit + gap * number, 3), round(gap, 3), _told(gaps[at]))
            for number, at in enumerate(places)
        ],
        segments=sum(cell.segments for cell in cells),
        troubled=sum(cell.troubled for cell in cells),
        hole_count=len(holes),
        reads=sum(cell.rate for cell in cells),
    )


def _gap_at(cells: Sequence[Cell], first: int) -> float:
    """Behind the cell in which the hole begins; in its midst, where it has segments behind the hole too."""
    number = bisect_right(cells, first, key=lambda cell: cell.first)
    return number - 0.5 if number and first < cells[number - 1].last else number


def _told(holes: Sequence[Sequence[int]]) -> str:
    first, last = holes[0][0], holes[-1][1]
    if len(holes) == 1:
        return f"offsets {first} to {last} are nowhere"
    return f"{len(holes)} holes: offsets {first} to {last}"


def has_problem(info: SegmentInfo) -> bool:
    return bool(info.problem)


def troubled(storage: TieredStorage, at_most: int, within: Sequence[Partition] | None = None) -> Iterator[SegmentInfo]:
    """Segments with a problem, of the partitions that were counted to have any; blocking."""
    left = at_most
    for partition in storage.partition_names() if within is None else within:
        if storage.summary(partition).troubled:
            for info in storage.troubled_infos(partition):
                yield info
                left -= 1
                if not left:
                    return
