"""What changes the incarnations of a partition: manifests, another log on the disk, a restore.

The local files go with the segment of the incarnation that is the current one then.
"""

from __future__ import annotations

from dataclasses import replace

from takhin_tiered.catalog.rows import Rows
from takhin_tiered.segments.lineage import Incarnation, Lineage
from takhin_tiered.segments.listing import has_local
from takhin_tiered.segments.model import NO_FILES, Segment
from takhin_tiered.segments.names import Partition, SegmentId


class Branches(Rows):
    """The catalog's map, with its incarnations as they change."""

    def learn(self, partition: Partition, incarnation: Incarnation) -> None:
        """Merge what a manifest says about its incarnation."""
        with self._guard:
            self._set_lineage(partition, self.lineage(partition).learned(incarnation, self.replica))

    def branch(self, identity: SegmentId, *, topic_id: str, is_other_topic: bool, is_shared: bool = False) -> SegmentId:
        """From this segment on, the disk has another log than the archive. Returns the segment's new ID.

        ``is_shared``: other replicas archive the same log, and this one's is labelled as its own.
        """
        with self._guard:
            partition = identity.place.partition
            lineage = self.lineage(partition)
            if lineage.is_current(identity.label, identity.base_offset):
                branched = lineage.with_branch(
                    identity.base_offset,
                    topic_id=topic_id,
                    is_other_topic=is_other_topic,
                    replica=self.replica if is_shared else "",
                )
                self._set_lineage(partition, branched)
            return self.current(partition, identity.base_offset)

    def adopt(self, partition: Partition, label: str) -> str | None:
        """Make an incarnation the current one: a restore puts a segment of it on a disk without its partition.

        Returns the previous label; None if it is unchanged.
        """
        with self._guard:
            lineage = self.lineage(partition)
            if lineage.current == label:
                return None
            self._set_lineage(partition, lineage.with_current(label))
            return lineage.current

    def _set_lineage(self, partition: Partition, lineage: Lineage) -> None:
        if lineage == self.lineage(partition):
            return
        self._lineages[partition] = lineage
        self._unwritten_lineages.add(partition)
        for place in self._places_of(partition):
            rows = self._rows.get(place, {})
            for base_offset in [base for base, row in rows.items() if has_local(row)]:
                if not lineage.is_current(place.label, base_offset):
                    self._move_local(place.segment(base_offset), self.current(partition, base_offset))

    def _move_local(self, old: SegmentId, new: SegmentId) -> None:
        """Move the local files of one segment to another incarnation's."""
        segment = self.get(old)
        assert segment is not None
        known = self.get(new) or Segment(new)
        if segment.archive is None:
            self._remove(old)
        else:
            self._replace(replace(segment, local=NO_FILES, active=False, settled=True, lease_until=0.0))
        # Damage of a segment that is not archived was found in these files.
        damage = known.damage or (segment.damage if segment.archive is None else "")
        self._replace(
            replace(known, local=segment.local, active=segment.active, settled=segment.settled, damage=damage)
        )
