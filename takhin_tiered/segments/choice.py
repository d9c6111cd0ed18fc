"""What a restore is to bring back, and whether the broker would keep and serve it. Pure.

A log with a gap is worse than none: a consumer passes the gap without a word. And what lies below the log's start, or
past its retention, a broker deletes again at its next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from takhin_tiered.segments.broker import TopicSettings
from takhin_tiered.segments.coverage import Range, holes


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which segments a restore asks for; a bound of None is open.

    ``paths``: of segments, partitions, or globs of either. ``topic_id`` names an incarnation. ``offsets`` are the first
    and last one, ``times`` the same in milliseconds since the epoch; a segment that has any of them is wanted.
    ``force``: whatever becomes of it.
    """

    paths: tuple[str, ...]
    topic_id: str | None = None
    offsets: tuple[int | None, int | None] = (None, None)
    times: tuple[int | None, int | None] = (None, None)
    force: bool = False

    @property
    def has_times(self) -> bool:
        return self.times != (None, None)


def meets(wanted: tuple[int | None, int | None], first: int, last: int) -> bool:
    """Whether anything from ``first`` to ``last`` lies within these bounds."""
    low, high = wanted
    return (low is None or last >= low) and (high is None or first <= high)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An archived segment that is to be restored: its path, offsets, bytes, and largest record timestamp in ms."""

    path: str
    span: Range
    size: int
    timestamp: int


def gap_problem(directory: str, chosen: Sequence[Candidate], local: Iterable[Range], archived: Iterable[Range]) -> str:
    """Why these segments would not stand in one row with what is on the disk; empty where they would.

    ``archived`` is all that could be restored.
    """
    spans = [candidate.span for candidate in chosen]
    touching = [
        gap
        for gap in holes([*spans, *local])
        if any(first - 1 == gap[1] or last + 1 == gap[0] for first, last in spans)
    ]
    if not touching:
        return ""
    nowhere = [gap for gap in touching if not any(a <= gap[1] and gap[0] <= b for a, b in archived)]
    if nowhere:
        first, last = nowhere[-1]
        return (
            f"with {_named(chosen)}, offsets {first}-{last} of {directory} would be missing, and they are nowhere: "
            f"neither archived nor on the disk. Consumers pass such a gap without a word. Restore what is above "
            f"(--offsets {last + 1}-), or use --force"
        )
    first, last = touching[0]
    others = f", and {len(touching) - 1} more such gaps" if len(touching) > 1 else ""
    highest = max(*(span[1] for span in spans), *(gap[1] for gap in touching))
    whole = f"{min(span[0] for span in spans)}-{highest}"
    return (
        f"with {_named(chosen)} alone, offsets {first}-{last} of {directory} would be missing{others}: consumers pass "
        f"such a gap without a word. Restore what is between too (--offsets {whole}), or use --force"
    )


def quarantine_problem(directory: str, chosen: Sequence[Candidate], bad: Sequence[Candidate]) -> str:
    """Why segments whose archived copy is bad stop what is below them; empty where there are none."""
    if not bad:
        return ""
    highest = max(bad, key=lambda candidate: candidate.span)
    above = [candidate for candidate in chosen if candidate.span > highest.span]
    advice = f"What is above is restored by --offsets {highest.span[1] + 1}-" if above else "Nothing is above it"
    return f"the archived copy of {_named(bad)} of {directory} is bad, and a gap would be left. {advice}; see verify"


def log_start_problem(directory: str, chosen: Sequence[Candidate], log_start: int) -> str:
    """Why Kafka would not keep what lies below the start of its log; empty where it would."""
    below = [candidate for candidate in chosen if candidate.span[1] < log_start]
    if not below:
        return ""
    return (
        f"{_named(below)} of {directory} would be deleted again when Kafka starts: the log start offset is {log_start} "
        f"by log-start-offset-checkpoint. To read it, restore it to another data directory. What Kafka keeps is "
        f"restored by --offsets {log_start}-, and --force restores all the same"
    )


def retention_problem(
    directory: str, chosen: Sequence[Candidate], local_bytes: int, settings: TopicSettings, now: float
) -> str:
    """Why Kafka's retention would delete these again; empty where it would not. ``now`` is in seconds."""
    if "delete" not in settings.cleanup_policy:
        return ""
    if settings.retention_ms is not None:
        limit = settings.retention_ms
        old = [each for each in chosen if each.timestamp >= 0 and each.timestamp + limit < now * 1000]
        if old:
            return _retention(directory, old, f"retention.ms is {limit}, and its newest record is older")
    if settings.retention_bytes is not None:
        newer, old = local_bytes, []
        for each in sorted(chosen, key=lambda candidate: candidate.span, reverse=True):
            if newer >= settings.retention_bytes:
                old.append(each)
            newer += each.size
        if old:
            why = f"retention.bytes is {settings.retention_bytes}, and newer segments fill it"
            return _retention(directory, old[::-1], why)
    return ""


def _retention(directory: str, old: Sequence[Candidate], why: str) -> str:
    return (
        f"{_named(old)} of {directory} would be deleted again by Kafka's retention: {why}. To read it, restore it to "
        "another data directory, or raise the topic's retention first; --force restores it all the same"
    )


def _named(chosen: Sequence[Candidate]) -> str:
    first = min(chosen, key=lambda candidate: candidate.span)
    return first.path if len(chosen) == 1 else f"{first.path} and {len(chosen) - 1} more"
