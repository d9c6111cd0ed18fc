"""Whether what stands on the disk is the log that was archived under its names, or another incarnation of it.

What is on the disk was archived at other times: since then the topic may have been made anew, or its log truncated.
Then it is archived under keys of its own, and what was archived before stays as it is.
"""

from __future__ import annotations

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.errors import SegmentChanged
from takhin_tiered.formats.checkpoints import contradict
from takhin_tiered.formats.kafka import LogSummary
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.manifest import Manifest
from takhin_tiered.segments.names import SegmentId, replica_of
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.opened import OpenSegment
from takhin_tiered.vault.proof import load_manifest


class OtherIncarnation(Exception):
    """The segment is of another log than what was archived under its name, or beside it.

    ``why`` completes a sentence about it; ``is_other_topic``: the one that was archived has no topic ID.
    """

    def __init__(self, why: str, *, is_other_topic: bool) -> None:
        super().__init__(why)
        self.is_other_topic = is_other_topic


def require_same_topic(catalog: Catalog, opened: OpenSegment) -> None:
    """Raise `SegmentChanged` where the partition was made anew since the last scan: the next one sees it."""
    identity = opened.identity
    known = incarnation_of(catalog, identity).topic_id
    if opened.topic_id and known and opened.topic_id != known:
        raise SegmentChanged(
            f"{identity.directory} belongs to topic ID {opened.topic_id} now, and belonged to {known} at the last scan",
            segment=identity.path,
            hint="The local files stay, and nothing was archived; the next cycle tries again",
        )


def require_same_incarnation(
    catalog: Catalog, opened: OpenSegment, summary: LogSummary, existing: Manifest | None, sha256: str
) -> None:
    """Raise `OtherIncarnation` where records, epochs or times contradict what is archived.

    ``existing`` is the manifest under the segment's name; ``sha256`` is of the local log, in the form that it has.
    """
    if existing is not None and existing.topic_id and opened.topic_id and existing.topic_id != opened.topic_id:
        raise OtherIncarnation(f"it is of topic ID {opened.topic_id}, and that one is not", is_other_topic=False)
    if existing is not None and existing.log.plain_sha256 != sha256:
        if contradict(summary.leader_epochs, existing.leader_epochs, existing.end):
            raise OtherIncarnation(
                "its leader epochs are not those of the archived one", is_other_topic=not existing.topic_id
            )
        times = (summary.first_timestamp, summary.last_timestamp, existing.first_timestamp, existing.last_timestamp)
        if _are_apart(*times):
            raise OtherIncarnation("its times are not those of the archived one", is_other_topic=not existing.topic_id)
    if summary.last_offset is None:
        return
    identity = opened.identity
    below, above = catalog.archived_beside(identity)
    if below is not None and below.archive is not None and below.archive.last_offset >= identity.base_offset:
        raise OtherIncarnation(f"it overlaps {below.id.full_path}, which is archived", is_other_topic=False)
    if above is not None and summary.last_offset >= above.id.base_offset:
        raise OtherIncarnation(f"it overlaps {above.id.full_path}, which is archived", is_other_topic=False)


def _are_apart(*times: int | None) -> bool:
    """Whether the time ranges of two logs are disjoint. ``times``: first and last of each."""
    first, last, other_first, other_last = times
    if first is None or last is None or other_first is None or other_last is None or min(first, other_first) < 0:
        return False
    return first > other_last or last < other_first


async def branch(
    catalog: Catalog,
    store: ReadableStore,
    opened: OpenSegment,
    found: OtherIncarnation,
    topic_id: str,
    *,
    is_shared: bool,
) -> SegmentId:
    """Begin another incarnation of the partition's log at this segment. Returns the segment's identity in it.

    ``is_shared``: other replicas archive to the same place, and the new log is that of this replica alone.
    """
    old = opened.identity
    existing = await load_manifest(store, old)
    if existing is not None:
        # The archived manifest may name a topic ID that the catalog does not know yet.
        catalog.learn(old.place.partition, existing.incarnation)
    new = catalog.branch(old, topic_id=topic_id, is_other_topic=found.is_other_topic, is_shared=is_shared)
    await catalog.flush()
    if replica_of(new.label):
        logs.logger().info(
            "this replica's log differs from the archived one, and is archived beside it",
            because=str(found),
            archived_before=old.full_path,
            incarnation=new.label,
        )
        return new
    logs.logger().warning(
        "a log is not the one that was archived under its name: it is archived as another incarnation",
        because=str(found),
        archived_before=old.full_path,
        incarnation=new.label,
        hint="The topic was deleted and created again, or the log was truncated. Nothing archived is replaced",
    )
    return new


def incarnation_of(catalog: Catalog, identity: SegmentId) -> Incarnation:
    return catalog.lineage(identity.place.partition).get(identity.label)
