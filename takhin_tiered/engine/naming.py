"""Find the segment that a path names, and of several incarnations the one that is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.branching import incarnation_of
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.refresh import unknown
from takhin_tiered.engine.situation import Situation, outlook_now, usage_now
from takhin_tiered.errors import SegmentNotFound
from takhin_tiered.segments.model import Segment, State, Tier
from takhin_tiered.segments.names import Partition, SegmentId
from takhin_tiered.segments.plan import explain, over_cache_size
from takhin_tiered.segments.policy import classify
from takhin_tiered.segments.report import SegmentInfo, describe_segment
from takhin_tiered.segments.retrieval import Retrieval


def named_segment(catalog: Catalog, path: str, topic_id: str | None = None) -> SegmentId:
    """``path`` is that of a segment of the current incarnation, or of the one that ``topic_id`` names, or has its
    label behind an ``@``.

    Raises `InvalidSegmentPath`, and `SegmentNotFound` where there is no such incarnation.
    """
    identity = SegmentId.parse(path)
    partition = identity.place.partition
    if "@" in path:
        if identity.label and not any(each.label == identity.label for each in catalog.lineage(partition).incarnations):
            raise _no_incarnation(catalog, partition, identity.label)
        return identity
    label = named_incarnation(catalog, partition, topic_id) if topic_id else None
    return SegmentId(*partition, identity.base_offset, catalog.lineage(partition).label_of(identity.base_offset, label))


def named_incarnation(catalog: Catalog, partition: Partition, topic_id: str) -> str:
    """The label of a partition's incarnation, by its topic ID or its own name. `SegmentNotFound` if there is none."""
    lineage = catalog.lineage(partition)
    label = lineage.named(topic_id)
    if label is None:
        raise _no_incarnation(catalog, partition, topic_id)
    return label


def _no_incarnation(catalog: Catalog, partition: Partition, name: str) -> SegmentNotFound:
    names = ", ".join(each.name for each in catalog.lineage(partition).incarnations)
    return SegmentNotFound(
        f"{partition[0]}-{partition[1]} has no incarnation {name}",
        hint=f"It has {names}. takhin-tiered ls --partitions shows them",
    )


def known_segment(catalog: Catalog, path: str, topic_id: str | None = None) -> Segment:
    """As it is known now; `SegmentNotFound` where nothing is known of it."""
    identity = named_segment(catalog, path, topic_id)
    segment = catalog.get(identity)
    if segment is None:
        raise unknown(identity, hint=where_else(catalog, identity))
    return segment


def where_else(catalog: Catalog, identity: SegmentId) -> str:
    """A hint for a segment that this incarnation lacks: another one may have it."""
    partition = identity.place.partition
    others = [
        each.name
        for each in catalog.lineage(partition).incarnations
        if each.label != identity.label and catalog.get(replace(identity, label=each.label)) is not None
    ]
    if others:
        return f"Another incarnation has it: --topic-id {' or --topic-id '.join(others)}"
    return "takhin-tiered ls shows what there is"


def has_incarnation(catalog: Catalog, topic_id: str | None, partition: Partition) -> bool:
    """Whether a partition has the incarnation that is named, if one is."""
    return not topic_id or catalog.lineage(partition).named(topic_id) is not None


def is_of(catalog: Catalog, segment: Segment, topic_id: str) -> bool:
    """Whether a segment belongs to the log of the incarnation that is named."""
    lineage = catalog.lineage(segment.id.place.partition)
    label = lineage.named(topic_id)
    return label is not None and lineage.label_of(segment.id.base_offset, label) == segment.id.label


@dataclass(frozen=True, slots=True)
class SegmentInfos:
    """What people are told of segments, as they stand now."""

    catalog: Catalog
    clock: Clock
    situation: Situation
    requested: Mapping[SegmentId, Retrieval]

    def info_of(self, segment: Segment, crowded: set[SegmentId] | None = None) -> SegmentInfo:
        """``crowded`` are the restored segments that outgrow the cache, where they are known already."""
        policy, now, is_current = self.situation.policy, self.clock.now(), self.catalog.is_current(segment.id)
        usage = usage_now(self.situation, self.clock)
        sure = self.clock.sure_now()
        if crowded is None:
            # A copy may only be too much once its lease is over. Only then are all others counted.
            crowded = self.crowded_out() if segment.restored and not segment.lease_left(sure) else set()
        step = explain(
            segment,
            policy,
            now,
            crowded=crowded,
            outlook=outlook_now(self.situation, self.clock),
            is_current=is_current,
            usage=usage,
        )
        retrieval = None if segment.local.log is not None else self.requested.get(segment.id)
        if retrieval is not None:
            step = replace(step, reason=retrieval.reason, reason_code="requested")
        incarnation = incarnation_of(self.catalog, segment.id)
        return describe_segment(
            segment,
            policy,
            now,
            incarnation,
            step,
            is_current=is_current,
            usage=usage,
            retrieval=retrieval,
            sure=sure,
        )

    def crowded_out(self) -> set[SegmentId]:
        """The restored segments that do not fit the local cache."""
        usage = usage_now(self.situation, self.clock)
        return over_cache_size(self.catalog.restored(), self.situation.policy, usage, sure=self.clock.sure_now())

    def list(
        self,
        *,
        topic: str | None,
        tier: Tier | None,
        state: State | None,
        after: SegmentId | None,
        topic_id: str | None,
    ) -> Iterator[SegmentInfo]:
        """Known segments in order, those behind ``after``; each as it stands now. None: whatever it is."""
        now, crowded, usage = self.clock.now(), self.crowded_out(), usage_now(self.situation, self.clock)
        sure = self.clock.sure_now()
        within = partial(has_incarnation, self.catalog, topic_id)
        for segment in self.catalog.segments(topic=topic, after=after, within=within):
            if state is not None and segment.state is not state:
                continue
            if tier is not None and classify(segment, self.situation.policy, now, usage, sure=sure) is not tier:
                continue
            if topic_id and not is_of(self.catalog, segment, topic_id):
                continue
            yield self.info_of(segment, crowded)
