"""Segments, partitions and plans in their stable JSON form, for the API and the command line. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from takhin_tiered.cost.planning import PlanCost
from takhin_tiered.segments.coverage import Coverage
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.model import Segment, State
from takhin_tiered.segments.names import Partition
from takhin_tiered.segments.plan import Plan, Step
from takhin_tiered.segments.policy import UNREAD, Policy, Usage, classify
from takhin_tiered.segments.results import PlannedStep, PlanResult
from takhin_tiered.segments.retrieval import Retrieval


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment, for people and programs. Times are ISO 8601 in UTC, or None; sizes are bytes.

    ``policy`` is the tier. ``in_archive``: the store has a whole copy; ``archive_only``: and nothing is local.
    ``is_archived`` is true in state ``archived``, sound or not. ``damage`` was found in the bytes of its log,
    ``last_failure`` is the last failed attempt, ``quarantine`` is why the archived object is not trusted, and
    ``problem`` joins all three. ``last_offset`` is that of its last record, null if unknown. ``incarnation`` is the
    label in its keys, empty for the plain ones; ``is_current``: it belongs to the current incarnation of its
    partition. ``retrieval_expected_at``: when a segment that was requested from an archive class such as GLACIER can be
    read, at most, by the usual times; null for all others. ``reason`` says, for people, why it stays or is moved;
    ``reason_code`` is stable, for programs.
    """

    segment_path: str
    topic: str
    partition: int
    base_offset: int
    policy: str
    state: str
    is_archived: bool
    in_archive: bool
    archive_only: bool
    is_active: bool
    size_bytes: int
    local_size_bytes: int
    archived_size_bytes: int
    last_modified: str | None
    archived_at: str | None
    lease_until: str | None
    lease_by: str
    last_access_at: str | None
    generation: int | None
    problem: str
    damage: str
    last_failure: str
    quarantine: str
    last_offset: int | None
    topic_id: str
    incarnation: str
    is_current: bool
    reason: str
    reason_code: str
    retrieval_requested_at: str | None
    retrieval_expected_at: str | None

    @property
    def cursor(self) -> str:
        """The cursor of the page after this segment."""
        return f"{self.segment_path}@{self.incarnation}" if self.incarnation else self.segment_path


def describe_segment(
    segment: Segment,
    policy: Policy,
    now: float,
    incarnation: Incarnation,
    step: Step,
    *,
    is_current: bool,
    sure: float,
    usage: Usage = UNREAD,
    retrieval: Retrieval | None = None,
) -> SegmentInfo:
    """``step`` is the segment's step in the next plan; ``retrieval`` is there while it is waited for.

    ``sure`` is as in `Segment.lease_left`.
    """
    archived = segment.archive
    return SegmentInfo(
        segment_path=segment.id.path,
        topic=segment.id.topic,
        partition=segment.id.partition,
        base_offset=segment.id.base_offset,
        policy=str(classify(segment, policy, now, usage, sure=sure)),
        state=str(segment.state),
        is_archived=segment.state is State.ARCHIVED,
        in_archive=segment.in_archive,
        archive_only=segment.archive_only,
        is_active=segment.active,
        size_bytes=segment.size,
        local_size_bytes=segment.local.size,
        archived_size_bytes=archived.stored_size if archived else 0,
        last_modified=iso_time(segment.mtime),
        archived_at=iso_time(archived.archived_at) if archived else None,
        lease_until=iso_time(segment.lease_until),
        lease_by=segment.lease_by,
        last_access_at=iso_time(segment.last_access),
        generation=archived.generation if archived else None,
        problem="; ".join(filter(None, (segment.quarantine, segment.damage, segment.last_failure))),
        damage=segment.damage,
        last_failure=segment.last_failure,
        quarantine=segment.quarantine,
        last_offset=archived.last_offset if archived and archived.last_offset >= 0 else None,
        topic_id=incarnation.topic_id,
        incarnation=incarnation.label,
        is_current=is_current,
        reason=step.reason,
        reason_code=step.reason_code,
        retrieval_requested_at=iso_time(retrieval.requested_at) if retrieval else None,
        retrieval_expected_at=iso_time(retrieval.expected_at) if retrieval else None,
    )


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """The offset ranges of one incarnation of a partition, each [first, last]. A stable form.

    ``topic_id`` is empty if unknown; ``incarnation`` is the label in the keys, empty for the plain ones.
    """

    topic: str
    partition: int
    topic_id: str
    incarnation: str
    current: bool
    local: list[list[int]]
    archived: list[list[int]]
    holes: list[list[int]]
    overlaps: list[list[int]]


def describe_partition(
    partition: Partition, incarnation: Incarnation, found: Coverage, *, is_current: bool
) -> PartitionInfo:
    return PartitionInfo(
        *partition,
        topic_id=incarnation.topic_id,
        incarnation=incarnation.label,
        current=is_current,
        local=[list(each) for each in found.local],
        archived=[list(each) for each in found.archived],
        holes=[list(each) for each in found.holes],
        overlaps=[list(each) for each in found.overlaps],
    )


def describe_plan(plan: Plan, cost: PlanCost) -> PlanResult:
    return PlanResult(
        made_at=iso_time(plan.made_at),
        bytes_uploaded=plan.bytes_uploaded,
        bytes_freed=plan.bytes_freed,
        saved_usd_monthly=cost.saved_monthly,
        segments=tuple(
            PlannedStep(
                segment_path=step.id.full_path,
                action=str(step.verb),
                reason=step.reason,
                reason_code=step.reason_code,
                policy=str(step.tier),
                uploads_bytes=step.uploads,
                frees_bytes=step.frees,
            )
            for step in plan.steps
        ),
        cost=cost,
    )


def iso_time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
