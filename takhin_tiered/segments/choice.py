"""What a restore brings back, and whether the broker would keep and serve it. Pure.

A log with a gap is worse than none: consumers skip the gap silently. And the broker deletes again, at its next start,
what lies below the log start or is past retention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from takhin_tiered.segments.broker import TopicSettings
from takhin_tiered.segments.coverage import Range, holes


@dataclass(frozen=True, slots=True)
class Wanted:
    """The segments that a restore asks for; a bound of None is open.

    ``paths`` are paths of segments or partitions, or globs. ``topic_id`` names an incarnation. ``offsets`` and
    ``times`` (milliseconds since the epoch) are (first, last); a segment is selected if it has any record in the range.
    ``force`` skips the checks.
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
    """Whether the range from ``first`` to ``last`` overlaps these bounds."""
    low, high = wanted
    return (low is None or last >= low) and (high is None or first <= high)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An archived segment to be restored: path, offsets, bytes, largest record timestamp in ms."""

    path: str
    span: Range
    size: int
    timestamp: int


def gap_problem(directory: str, chosen: Sequence[Candidate], local: Iterable[Range], archived: Iterable[Range]) -> str:
    """Why restoring these segments would leave a gap next to the local ones; empty if it would not.

    ``archived`` are the ranges that could be restored.
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
            f"with {_named(chosen)}, offsets {first}-{last} of {directory} would be missing: they are neither archived "
            f"nor on the disk. Consumers would skip this gap silently. Restore only what is above it "
            f"(--offsets {last + 1}-), or use --force"
        )
    first, last = touching[0]
    others = f", and {len(touching) - 1} more such gaps" if len(touching) > 1 else ""
    highest = max(*(span[1] for span in spans), *(gap[1] for gap in touching))
    whole = f"{min(span[0] for span in spans)}-{highest}"
    return (
        f"with {_named(chosen)} alone, offsets {first}-{last} of {directory} would be missing{others}. Consumers would "
        f"skip this gap silently. Restore the segments between too (--offsets {whole}), or use --force"
    )


def quarantine_problem(directory: str, chosen: Sequence[Candidate], bad: Sequence[Candidate]) -> str:
    """Why segments with a bad archived copy stop the restore of those below them; empty if there are none."""
    if not bad:
        return ""
    highest = max(bad, key=lambda candidate: candidate.span)
    above = [candidate for candidate in chosen if candidate.span > highest.span]
    advice = f"To restore what is above: --offsets {highest.span[1] + 1}-" if above else "Nothing is above it"
    return (
        f"the archived copy of {_named(bad)} of {directory} is bad, so the log would have a gap. {advice}. "
        "takhin-tiered verify shows what is wrong with the copy"
    )


def log_start_problem(directory: str, chosen: Sequence[Candidate], log_start: int) -> str:
    """Why Kafka would delete segments below its log start again; empty if there are none."""
    below = [candidate for candidate in chosen if candidate.span[1] < log_start]
    if not below:
        return ""
    return (
        f"{_named(below)} of {directory} would be deleted again when Kafka starts: the log start offset is {log_start} "
        f"(log-start-offset-checkpoint). To read it, restore it to another data directory. To restore what Kafka "
        f"keeps: --offsets {log_start}-. To restore it anyway: --force"
    )


def retention_problem(
    directory: str, chosen: Sequence[Candidate], local_bytes: int, settings: TopicSettings, now: float
) -> str:
    """Why Kafka's retention would delete these segments again; empty if it would not. ``now`` is in seconds."""
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
        "another data directory, or raise the topic's retention first. To restore it anyway: --force"
    )


def _named(chosen: Sequence[Candidate]) -> str:
    first = min(chosen, key=lambda candidate: candidate.span)
    return first.path if len(chosen) == 1 else f"{first.path} and {len(chosen) - 1} more"
