"""The plan: what a cycle will do with each segment, and why. Pure.

The same value is printed by ``takhin-tiered plan`` and carried out by the cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

from takhin_tiered.segments.model import NO_FILES, LocalFiles, Segment, State, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.policy import UNREAD, Policy, Usage, classify

_WITHOUT_A_LOG = {"archived", "quarantined", "leftover", "read_only"}
_EMPTY_OUTLOOK = Outlook()
# What is archived whatever the hour: else the broker would delete it, or the disk would fill.
_URGENT = {"before_retention", "disk_pressure"}
_CHANGED = "its files changed after they were archived: compare, and archive again if they differ"


class Verb(StrEnum):
    """ARCHIVE: into the store and off the disk. COPY: into the store. EVICT: off the disk. EXPIRE: out of the store."""

    ARCHIVE = "archive"
    COPY = "copy"
    EVICT = "evict"
    EXPIRE = "expire"
    KEEP = "keep"

    @property
    def uploads(self) -> bool:
        return self in {Verb.ARCHIVE, Verb.COPY}


@dataclass(frozen=True, slots=True)
class Step:
    """The plan for one segment.

    ``uploads`` and ``frees`` are maximum bytes; the space of unlinked files becomes free when the broker closes them.
    ``local`` is the status of the files to be moved. ``reason_code`` is stable, for programs; ``reason`` is for people.
    ``again``: other files were archived under its name before.
    """

    id: SegmentId
    verb: Verb
    reason: str
    tier: Tier
    uploads: int = 0
    frees: int = 0
    local: LocalFiles = NO_FILES
    reason_code: str = ""
    again: bool = False

    @property
    def waits_for_window(self) -> bool:
        """Whether it is only done while a window to archive in is open."""
        return self.verb.uploads and self.reason_code not in _URGENT


@dataclass(frozen=True, slots=True)
class Plan:
    """Every segment, in the order of work: by topic, partition, base offset."""

    steps: tuple[Step, ...]
    made_at: float

    @property
    def work(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.verb is not Verb.KEEP)

    @property
    def bytes_freed(self) -> int:
        return sum(step.frees for step in self.steps)

    @property
    def bytes_uploaded(self) -> int:
        return sum(step.uploads for step in self.steps)


def make_plan(
    segments: Iterable[Segment],
    restored: Iterable[Segment],
    policy: Policy,
    now: float,
    *,
    work_only: bool = False,
    outlook: Outlook = _EMPTY_OUTLOOK,
    is_current: Callable[[SegmentId], bool] = lambda _: True,
    usage: Usage = UNREAD,
) -> Plan:
    """Decide for each segment, in the order given; ``work_only`` omits the kept ones.

    ``restored`` are the restored ones among them: they share the local cache. ``outlook`` is what the local Kafka
    broker is about to do. ``is_current``: whether a segment belongs to the current incarnation of its partition; the
    others are kept. ``usage``: how they are read.
    """
    sure = now - outlook.clock_ahead
    crowded = over_cache_size(restored, policy, usage, sure=sure)
    steps = (
        _earlier(segment, policy, now, usage, sure)
        if newer is None
        else _expired(segment, policy, sure, newer, usage)
        or _in_window(
            _decide(segment, policy.of(segment.id.topic), now, crowded, outlook, usage=usage), policy, outlook
        )
        for segment, newer in _with_newer_bytes(segments, is_current)
    )
    decided = _without_gaps(steps) if policy.kafka and policy.unlinks_somewhere else steps
    return Plan(tuple(step for step in decided if not (work_only and step.verb is Verb.KEEP)), now)


def _without_gaps(steps: Iterable[Step]) -> Iterator[Step]:
    """Keep every segment above one that stays on the disk: Kafka's consumers skip a gap silently."""
    for _, group in groupby(steps, key=lambda step: step.id.place.partition):
        stays = False
        for step in group:
            if stays and step.verb is Verb.ARCHIVE:
                reason = f"{step.reason}; stays on the disk because a lower segment stays"
                yield replace(step, verb=Verb.COPY, reason=reason, frees=0)
            elif stays and step.verb is Verb.EVICT:
                reason = "stays on the disk because a lower segment stays"
                yield replace(step, verb=Verb.KEEP, reason=reason, frees=0, reason_code="gap")
            else:
                yield step
            has_log = step.reason_code not in _WITHOUT_A_LOG or step.local.log is not None
            stays = stays or (step.verb in {Verb.KEEP, Verb.COPY} and has_log)


def explain(
    segment: Segment,
    policy: Policy,
    now: float,
    *,
    crowded: set[SegmentId],
    outlook: Outlook,
    is_current: bool,
    usage: Usage = UNREAD,
) -> Step:
    """The plan for one segment, except that retention by size is not applied."""
    sure = now - outlook.clock_ahead
    if not is_current:
        return _earlier(segment, policy, now, usage, sure)
    return _expired(segment, policy, sure, 0, usage) or _in_window(
        _decide(segment, policy.of(segment.id.topic), now, crowded, outlook, usage=usage), policy, outlook
    )


def _in_window(step: Step, policy: Policy, outlook: Outlook) -> Step:
    if outlook.opens_at is None or not step.waits_for_window:
        return step
    opens = policy.windows.describe(outlook.opens_at)
    reason = f"{step.reason}; outside the windows to archive in, the next one opens {opens}"
    return Step(step.id, Verb.KEEP, reason, step.tier, reason_code="outside_window")


def _decide(
    segment: Segment, policy: Policy, now: float, crowded: set[SegmentId], outlook: Outlook, *, usage: Usage
) -> Step:
    """``policy`` is the topic's."""
    sure = now - outlook.clock_ahead
    tier = classify(segment, policy, now, usage, sure=sure)

    def keep(reason: str, code: str) -> Step:
        return Step(segment.id, Verb.KEEP, reason, tier, reason_code=code)

    def evict(reason: str, code: str = "evict") -> Step:
        return Step(
            segment.id, Verb.EVICT, reason, tier, frees=segment.local.size, local=segment.local, reason_code=code
        )

    if not segment.local:
        if segment.quarantine:
            return keep(f"quarantined: {segment.quarantine}", "quarantined")
        return keep("in the archive", "archived")
    if not policy.enabled:
        return keep("tiered storage is not enabled: observing only", "disabled")
    if not policy.covers(segment.id.topic):
        return keep("the configuration leaves this topic out", "excluded")
    if segment.local.log is None:
        is_kept = segment.archive is None or segment.quarantine or not policy.may_unlink
        if is_kept or (policy.kafka and not segment.is_proven):
            # Kafka creates empty indexes when it reads one whose log is gone: they are the broker's files.
            return keep("index files without a .log", "leftover")
        return evict("left over from an interrupted evict or restore")
    if segment.active:
        return keep("active segment", "active")
    if segment.quarantine and segment.is_proven:
        # The local files may be the last whole copy.
        return replace(keep(f"quarantined: {segment.quarantine}", "quarantined"), local=segment.local)
    place = segment.id.place.partition
    if place in outlook.compacted and not segment.is_proven:
        return keep(f"compacted topic: {outlook.compacted[place]}", "compacted")
    if segment.id in outlook.unsafe and not segment.is_proven:
        return keep(outlook.unsafe[segment.id], "unsettled")
    if segment.id in outlook.due and policy.auto_archive and not segment.is_proven:
        reason, size = outlook.due[segment.id], segment.local.size
        again = segment.archive is not None
        return Step(segment.id, Verb.COPY, reason, tier, size, 0, segment.local, "before_retention", again=again)
    if not segment.settled:
        return keep("changed since the last scan", "unsettled")
    if segment.id in crowded and segment.is_proven:
        return evict("restored segments exceed the local cache; this one is read the least")
    if left := segment.lease_left(sure):
        if segment.is_proven:
            who = f", by {segment.lease_by}" if segment.lease_by else ""
            return keep(f"restored{who}, its lease ends in {_hours(left)}", "leased")
        # Rewritten since it was restored: its age decides, as if it had no lease.
        tier = classify(replace(segment, lease_until=0.0), policy, now, usage, sure=sure)
    pressed = outlook.pressed.get(segment.id, "")
    if tier is Tier.HOT and usage.is_hot(segment.id) and not pressed:
        return _read_much(segment, policy, now, usage.reason(segment.id), keep)
    aged = f"{tier}, last modified {_hours(now - segment.mtime)} ago{_because(tier, policy)}"
    if tier is Tier.WARM and policy.warm_copy and not pressed:
        return _warm(segment, policy, aged, keep)
    if tier is not Tier.COLD and not pressed:
        return keep(aged, str(tier))
    if segment.is_proven:
        if policy.trims:
            early = f" early: {pressed}" if pressed else policy.because("archive.mode")
            return keep(f"archived; to be freed by the broker{early}", "disk_pressure" if pressed else "trim")
        if policy.keep_local:
            mode = policy.because("archive.mode")
            return keep(f"copied to the archive; mode copy keeps local files{mode}", "copied")
        if policy.broker_running:
            return keep("copied to the archive; local files stay while Kafka runs", "copied")
        if tier is not Tier.COLD:
            return evict(f"{aged}; already archived, and leaves early: {pressed}", "disk_pressure")
        return evict("archived, and its lease has ended" if segment.restored else "cold, already archived")
    if not policy.auto_archive:
        return keep("cold, but automatic archiving is off", "manual")
    size = segment.local.size
    reason, code = (f"{aged}; early: {pressed}", "disk_pressure") if pressed else (aged, "cold")
    if again := segment.state is State.LOCAL and segment.archive is not None:
        reason = _CHANGED
    if not policy.may_unlink or left:
        # A lease keeps the files on the disk; what the broker rewrote is archived all the same.
        reason += "; to be freed by the broker" if policy.trims else ""
        return Step(segment.id, Verb.COPY, reason, tier, size, 0, segment.local, code, again=again)
    return Step(segment.id, Verb.ARCHIVE, reason, tier, size, size, segment.local, code, again=again)


def _warm(segment: Segment, policy: Policy, age: str, keep: Callable[[str, str], Step]) -> Step:
    """It is uploaded, and its files stay: when it is cold, nothing is left to upload."""
    if segment.is_proven:
        return keep(f"{age}; copied to the archive, its files stay until it is cold", "warm")
    if not policy.auto_archive:
        return keep(f"{age}; automatic archiving is off", "manual")
    again = segment.archive is not None
    reason = f"{age}: to be copied to the archive" if not again else _CHANGED
    return Step(segment.id, Verb.COPY, reason, Tier.WARM, segment.local.size, 0, segment.local, "warm", again=again)


def _read_much(segment: Segment, policy: Policy, now: float, reason: str, keep: Callable[[str, str], Step]) -> Step:
    """It stays. Where older ones are copied, so is this one: a lost disk would take it, however much it is read."""
    is_copied = segment.is_proven or now - segment.mtime < policy.warm_age
    if is_copied or not policy.warm_copy or not policy.auto_archive:
        return keep(reason, "hot")
    again = segment.archive is not None
    reason = f"{reason}; to be copied to the archive" if not again else _CHANGED
    return Step(segment.id, Verb.COPY, reason, Tier.HOT, segment.local.size, 0, segment.local, "warm", again=again)


def _with_newer_bytes(
    segments: Iterable[Segment], is_current: Callable[[SegmentId], bool]
) -> Iterator[tuple[Segment, int | None]]:
    """Each segment, with the bytes of newer segments of its log; None for a segment of an earlier incarnation."""
    for _, group in groupby(segments, key=lambda segment: segment.id.place.partition):
        partition = sorted(group, key=lambda segment: segment.id)
        newer = sum(segment.size for segment in partition if is_current(segment.id))
        for segment in partition:
            if is_current(segment.id):
                newer -= segment.size
                yield segment, newer
            else:
                yield segment, None


def _earlier(segment: Segment, policy: Policy, now: float, usage: Usage, sure: float) -> Step:
    """Only an explicit command removes what is archived of an earlier incarnation."""
    reason = "in the archive, from an earlier incarnation of its topic"
    tier = classify(segment, policy, now, usage, sure=sure)
    return Step(segment.id, Verb.KEEP, reason, tier, reason_code="archived")


def _expired(segment: Segment, policy: Policy, sure: float, newer: int, usage: Usage) -> Step | None:
    """The step that ends a segment's retention in the archive; never for one that has a local copy."""
    if segment.state is not State.ARCHIVED or segment.local or not policy.enabled or segment.archive is None:
        return None
    policy = policy.of(segment.id.topic)
    age, size = policy.max_age(segment.id.topic), policy.max_size(segment.id.topic)
    tier = classify(segment, policy, sure, usage, sure=sure)
    # Kafka's cleaner leaves a modification time of 0 if a source file was gone: that is not an age.
    modified = segment.mtime if segment.mtime > 0 else segment.archive.archived_at
    if age is not None and sure - modified > age:
        which = policy.because("retention.hours")
        reason = f"its retention of {_hours(age)}{which} is over: last modified {_hours(sure - modified)} ago"
        return Step(segment.id, Verb.EXPIRE, reason, tier, reason_code="retention")
    if size is not None and newer >= size:
        reason = f"newer segments reach its partition's retention of {size} bytes{policy.because('retention.bytes')}"
        return Step(segment.id, Verb.EXPIRE, reason, tier, reason_code="retention")
    return None


def over_cache_size(
    restored: Iterable[Segment], policy: Policy, usage: Usage = UNREAD, *, sure: float
) -> set[SegmentId]:
    """Restored segments that exceed the cache: those that are read the least first, and none within its lease.

    ``sure`` is as in `Segment.lease_left`.
    """
    if not policy.unlinks_somewhere:
        return set()
    copies = [segment for segment in restored if policy.of(segment.id.topic).may_unlink]
    over = [segment for segment in copies if not segment.lease_left(sure)]
    kept, leave = sum(segment.local.size for segment in copies if segment.lease_left(sure)), set()
    for segment in sorted(over, key=lambda each: (usage.rate(each.id), each.last_access), reverse=True):
        if kept + segment.local.size > policy.cache_size:
            leave.add(segment.id)
        else:
            kept += segment.local.size
    return leave


def _because(tier: Tier, policy: Policy) -> str:
    """The override that made a segment of this tier so."""
    if tier is Tier.COLD:
        return policy.because("cold.age.hours")
    return policy.because("warm.age.hours") or (policy.because("cold.age.hours") if tier is Tier.WARM else "")


def _hours(seconds: float) -> str:
    if seconds < 0:
        return "0 s (in the future)"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
