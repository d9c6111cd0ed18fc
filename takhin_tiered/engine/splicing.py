"""Where replicas share the archive: a log that this replica rolled at other offsets, in the logs that others archived.

Such a log is an incarnation that only this replica has. Whether its bytes stand in the archive is asked for each of its
segments; those that do not are stored like any other.

Others archive on their own time: what this log has above all that they archived may follow. It waits for that, for a
while, as that costs nothing but room on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.limits import Limits
from takhin_tiered.engine.relying import Reliance
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.formats.tail import last_offset
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.names import MAX_OFFSET, FileKind, Place, SegmentId, replica_of
from takhin_tiered.segments.splice import Part, Span, covering, reaches
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.opened import Content, OpenSegment
from takhin_tiered.vault.splicing import LocalLog, Matcher, NoMatchError

_PATIENCE_SECONDS = 24 * 3600.0


class NotYet(Exception):
    """Others have not archived as far as this log goes, and may follow."""


@dataclass(frozen=True, slots=True)
class Splicer:
    """Finds logs of this replica in what others archived."""

    catalog: Catalog
    store: ReadableStore
    clock: Clock
    limits: Limits
    metrics: Metrics
    codecs: Codecs
    reliance: Reliance
    # Segments that wait for others, and since when.
    _waiting: dict[SegmentId, float] = field(default_factory=dict)

    async def look(self, opened: OpenSegment, *, may_wait: bool) -> list[list[SegmentId]]:
        """Runs of archived segments that reach over all offsets of an open log, by what the catalog knows.

        There are none of a log that replicas share. `NotYet` where it may wait for others.
        """
        identity = opened.identity
        if not replica_of(identity.label):
            return []
        last = await in_thread(_end_of, opened)
        if last is None or last < identity.base_offset:
            return []
        whole = [[span.id for span in run] for run in self._runs(identity, last) if reaches(run, last)]
        if not whole and may_wait and self._end_of_others(identity) < last and self._may_wait(identity):
            raise NotYet
        self._waiting.pop(identity, None)
        return whole

    async def find(self, opened: OpenSegment, content: Content, runs: list[list[SegmentId]]) -> tuple[Part, ...]:
        """The parts of archived logs that this log is made of; none where the archive has other bytes.

        `NoKey` or `WrongKey` where they cannot be decrypted, and `StoreError`.
        """
        if not runs:
            return ()
        file, checksum = opened.files[FileKind.LOG], content.checksums[FileKind.LOG]
        local = LocalLog(
            opened.size(FileKind.LOG), checksum.sha256, checksum.part_size, content.summary.format, file.read
        )
        matcher = Matcher(self.store, self.codecs.keys, self._came)
        for run in runs:
            try:
                async with self.limits.ranges:
                    parts = await matcher.match(local, run)
            except (NoMatchError, ObjectCorrupt) as error:
                logs.logger().info(
                    "the archive has the offsets of a log, and not its bytes",
                    because=str(error),
                    beside=run[0].full_path,
                )
            else:
                logs.logger().info(
                    "the archive has the bytes of a log in others", segments=len(parts), bytes=local.size
                )
                return parts
        return ()

    def _runs(self, identity: SegmentId, last: int) -> list[list[Span]]:
        """How far each other incarnation reaches over these offsets; first those with which it shares records."""
        found: list[list[Span]] = []
        for place in self._others(identity):
            archived = self.catalog.archived_within(place, identity.base_offset, last)
            spans = [Span(each.id, each.archive.last_offset) for each in archived if each.archive and each.in_archive]
            if run := covering(spans, identity.base_offset, last):
                found.append(run)
        return found

    def _end_of_others(self, identity: SegmentId) -> int:
        """The last offset that is archived in another incarnation; -1 if there is none."""
        ends = [
            segment.archive.last_offset
            for place in self._others(identity)
            for segment in self.catalog.archived_within(place, MAX_OFFSET, MAX_OFFSET)
            if segment.archive is not None
        ]
        return max(ends, default=-1)

    def _others(self, identity: SegmentId) -> list[Place]:
        """The other incarnations of the same topic, those with which this one shares records first."""
        partition = identity.place.partition
        lineage = self.catalog.lineage(partition)
        topic = lineage.get(identity.label).topic_id
        followed = [label for label, _, _ in lineage.chain(identity.label)]
        others = [each.label for each in lineage.incarnations if each.topic_id in {"", topic} or not topic]
        return [Place(*partition, label) for label in dict.fromkeys([*followed, *others]) if label != identity.label]

    def _may_wait(self, identity: SegmentId) -> bool:
        """Whether it has not waited for others for long."""
        now = self.clock.now()
        return now - self._waiting.setdefault(identity, now) < _PATIENCE_SECONDS

    def _came(self, count: int) -> None:
        self.limits.downloads.spend_here(count)
        self.metrics.downloaded.inc(count)


def _end_of(opened: OpenSegment) -> int | None:
    log, index = opened.files[FileKind.LOG], opened.files.get(FileKind.INDEX)
    if index is None:
        return last_offset(log.read, log.found.size, lambda *_: b"", 0)
    return last_offset(log.read, log.found.size, index.read, index.found.size)
