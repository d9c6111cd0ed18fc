"""Whether a segment may be archived, by the content of its files; and the draft of its manifest."""

from __future__ import annotations

from dataclasses import replace

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.branching import (
    incarnation_of,
    require_same_incarnation,
    require_same_topic,
)
from takhin_tiered.engine.outlook import is_compacted
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import SegmentRefused
from takhin_tiered.formats.kafka import LogSummary
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.policy import Policy
from takhin_tiered.vault.opened import Content, OpenSegment


def judge(
    catalog: Catalog,
    policy: Policy,
    opened: OpenSegment,
    content: Content,
    existing: Manifest | None,
    *,
    is_adopted: bool = False,
) -> None:
    """Raise `SegmentChanged`, `SegmentRefused` or `OtherIncarnation` where it must not be archived.

    ``is_adopted``: it stands in the archive already, as another replica's.
    """
    identity, summary = opened.identity, content.summary
    require_same_topic(catalog, opened)
    if summary.problem and not policy.takes_corrupt:
        known = catalog.get(identity)
        if known is not None:
            catalog.put(replace(known, damage=summary.problem))
        raise SegmentRefused(
            f"segment {identity.path} is damaged: {summary.problem}",
            segment=identity.path,
            hint="It stays on disk. storage.tiered.archive.corrupt: archive moves it as it is",
        )
    if summary.has_gaps and policy.kafka and not policy.takes_compacted:
        catalog.gapped.add(identity.place.partition)
        raise SegmentRefused(
            f"segment {identity.path} is of a compacted topic, as its offsets have gaps",
            segment=identity.path,
            hint="It stays on disk. storage.tiered.topics.compacted: archive takes compacted topics too",
        )
    if not policy.takes_compacted and not is_adopted:
        # In a compacted topic the cleaner rewrites segments, and merges them: other bytes are no other incarnation
        # there.
        require_same_incarnation(catalog, opened, summary, existing, content.checksums[FileKind.LOG].sha256)


def is_compacting(situation: Situation, catalog: Catalog, identity: SegmentId, summary: LogSummary) -> bool:
    """Whether compaction rewrites this log, and rewritten segments are archived again."""
    # A compacted segment may have no gaps, for example where the cleaner has left no record of it.
    compacts = summary.has_gaps or is_compacted(situation.view, catalog, identity.place.partition)
    return compacts and situation.policy.kafka and situation.policy.takes_compacted


def draft_manifest(catalog: Catalog, policy: Policy, opened: OpenSegment, content: Content) -> Manifest:
    """The manifest without its objects, its generation and its time."""
    incarnation, summary = incarnation_of(catalog, opened.identity), content.summary
    return Manifest(
        id=opened.identity,
        files={},
        format=summary.format,
        first_offset=summary.first_offset,
        last_offset=summary.last_offset,
        first_timestamp=summary.first_timestamp,
        last_timestamp=summary.last_timestamp,
        problem=summary.problem,
        topic_id=opened.topic_id,
        leader_epochs=summary.leader_epochs,
        open_transactions=summary.open_transactions,
        kafka=policy.kafka,
        follows=incarnation.follows,
        from_offset=incarnation.from_offset,
    )
