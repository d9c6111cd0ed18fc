"""The catalog's map: rows of segments by partition and incarnation, and the incarnations of each partition.

Only segments of the current incarnation have local files. Nothing here waits; one lock guards everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from sortedcontainers import SortedSet

from takhin_tiered.catalog.bases import SortedBases
from takhin_tiered.catalog.due import Wanted, due
from takhin_tiered.catalog.record import archived_end, has_archive, is_older, is_unproven, pack, unpack
from takhin_tiered.catalog.tallies import AgesOf, Stats, Tallies, as_all
from takhin_tiered.segments.lineage import Lineage
from takhin_tiered.segments.listing import has_local, has_log
from takhin_tiered.segments.model import Segment
from takhin_tiered.segments.names import Partition, Place, SegmentId
from takhin_tiered.segments.policy import Policy

_SINGLE = Lineage()


class Rows:
    """Every known segment, as bytes."""

    def __init__(self, ages_of: AgesOf = as_all) -> None:
        self._guard = threading.RLock()
        self._rows: dict[Place, dict[int, bytes]] = {}
        self._lineages: dict[Partition, Lineage] = {}
        self._tallies = Tallies(ages_of)
        self._bases, self._archived_bases, self._local_bases, self._unarchived_bases = self._orders = (
            SortedBases(self._at, lambda _: True),
            SortedBases(self._at, has_archive),
            SortedBases(self._at, has_log),
            SortedBases(self._at, lambda row: has_log(row) and (not has_archive(row) or is_unproven(row))),
        )
        # Base offsets that changed since the last write; their rows are read when they are written.
        self._unwritten: dict[Place, set[int]] = {}
        self._unwritten_lineages: set[Partition] = set()
        # Base offsets of archived segments whose local log is not verified to equal the archived one.
        self._unproven: dict[Partition, SortedSet[int]] = {}
        # Partitions with changes since the last `take_touched`.
        self._touched: set[Partition] = set()
        # Another number after each change of a partition.
        self._versions: dict[Partition, int] = {}
        # The identifier of the replica whose disk this is: it is in the labels of logs that only this one has.
        self.replica = ""

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def get(self, identity: SegmentId) -> Segment | None:
        with self._guard:
            row = self._rows.get(identity.place, {}).get(identity.base_offset)
        return None if row is None else unpack(identity, row)

    def has(self, identity: SegmentId) -> bool:
        """Whether it is known: cheaper than `get`."""
        return identity.base_offset in self._rows.get(identity.place, {})

    def lineage(self, partition: Partition) -> Lineage:
        return self._lineages.get(partition, _SINGLE)

    def current(self, partition: Partition, base_offset: int) -> SegmentId:
        """The segment of this base offset in the partition's current incarnation."""
        return SegmentId(*partition, base_offset, self.lineage(partition).label_of(base_offset))

    def is_current(self, identity: SegmentId) -> bool:
        return self.lineage(identity.place.partition).is_current(identity.label, identity.base_offset)

    def partitions(self) -> list[Partition]:
        """The partitions with a known segment, in order."""
        with self._guard:
            return sorted({place.partition for place in self._rows})

    def places(self) -> list[Place]:
        """The partitions' incarnations with a known segment, in order."""
        with self._guard:
            return sorted(self._rows)

    def packed(self, place: Place) -> dict[int, bytes]:
        """The rows there by base offset: a copy of the map."""
        with self._guard:
            return self._rows.get(place, {}).copy()

    def take_touched(self) -> set[Partition]:
        """The partitions that changed since the last call."""
        with self._guard:
            touched, self._touched = self._touched, set()
        return touched

    def version(self, partition: Partition) -> int:
        """Another number after each change of the partition's segments."""
        return self._versions.get(partition, 0)

    def count(self, place: Place) -> int:
        return len(self._rows.get(place, ()))

    def segments(
        self,
        *,
        topic: str | None = None,
        after: SegmentId | None = None,
        within: Callable[[Partition], bool] = lambda _: True,
    ) -> Iterator[Segment]:
        """Each segment of the partitions ``within``, by partition, incarnation and base offset.

        A partition is read when the iteration reaches it.
        """
        start = after.place if after else Place("", -1)

        def choose(place: Place) -> Wanted | None:
            if place < start or topic not in (None, place.topic) or not within(place.partition):
                return None
            first = after.base_offset + 1 if after and place == start else 0
            return lambda base_offset, _: base_offset >= first

        return self._chosen(choose)

    def log_of(
        self, partition: Partition, label: str | None = None, wanted: Callable[[int], bool] = lambda _: True
    ) -> list[Segment]:
        """The segments of an incarnation's log (default: the current one) whose base offset is ``wanted``, in order."""
        rows = self._rows_of(partition, label)
        return [unpack(place.segment(base), row) for base, place, row in rows if wanted(base)]

    def _rows_of(self, partition: Partition, label: str | None) -> list[tuple[int, Place, bytes]]:
        """The rows of an incarnation's log, by base offset."""
        found: list[tuple[int, Place, bytes]] = []
        with self._guard:
            for at, first, end in self.lineage(partition).chain(label):
                place = Place(*partition, at)
                rows = self._rows.get(place, {})
                found += [(base, place, row) for base, row in rows.items() if first <= base < end]
        return sorted(found)

    def is_contiguous(self, partition: Partition) -> bool:
        """Whether each segment of the current log ends where the next one begins, as far as the archive knows ends."""
        rows = self._rows_of(partition, None)
        return all(
            last < 0 or last + 1 == other
            for (_, _, row), (other, _, _) in pairwise(rows)
            for last in (archived_end(row),)
        )

    def has_local_below(self, identity: SegmentId) -> bool:
        """Whether the partition has a lower log on the disk."""
        return self._has_below(identity, self._local_bases)

    def has_unarchived_below(self, identity: SegmentId) -> bool:
        """Whether the partition has a lower log on the disk that is not verified to equal an archived one."""
        return self._has_below(identity, self._unarchived_bases)

    def _has_below(self, identity: SegmentId, bases: SortedBases) -> bool:
        partition = identity.place.partition
        with self._guard:
            return any(
                bases.has(Place(*partition, label), first, min(end, identity.base_offset))
                for label, first, end in self.lineage(partition).chain()
            )

    def unproven_below(self, identity: SegmentId) -> SegmentId | None:
        """The lowest segment below this one whose local log is not verified to equal the archived one."""
        partition = identity.place.partition
        with self._guard:
            bases = self._unproven.get(partition)
            lowest = bases[0] if bases else identity.base_offset
        return self.current(partition, lowest) if lowest < identity.base_offset else None

    def archived(self) -> Iterator[Segment]:
        """Of `segments`, those with an archived copy."""
        return self._chosen(lambda _: lambda _, row: has_archive(row))

    def on_disk(self) -> Iterator[Segment]:
        """Of `segments`, those with local files."""
        return self._chosen(lambda _: lambda _, row: has_local(row))

    def may_have_work(self, policy: Policy, now: float) -> Iterator[Segment]:
        """Of `segments`, those that a cycle might have work for."""
        return self._chosen(lambda place: due(place, self.lineage(place.partition), policy, now))

    def archived_beside(self, identity: SegmentId) -> tuple[Segment | None, Segment | None]:
        """The archived segments of the same incarnation right below and right above this one."""
        place = identity.place
        with self._guard:
            rows, bases = self._rows.get(place, {}), self._archived_bases[place]
            at, behind = bases.bisect_left(identity.base_offset), bases.bisect_right(identity.base_offset)
            below = unpack(place.segment(bases[at - 1]), rows[bases[at - 1]]) if at else None
            above = unpack(place.segment(bases[behind]), rows[bases[behind]]) if behind < len(bases) else None
        return below, above

    def archived_within(self, place: Place, first: int, last: int) -> list[Segment]:
        """The archived segments of an incarnation that may have any of these offsets, in order."""
        with self._guard:
            rows, bases = self._rows.get(place, {}), self._archived_bases[place]
            low = max(0, bases.bisect_right(first) - 1)
            return [unpack(place.segment(base), rows[base]) for base in bases[low : bases.bisect_right(last)]]

    def at_or_below(self, partition: Partition, offset: int, label: str | None = None) -> Segment | None:
        """The segment of an incarnation's log (default: the current one) with the highest base, up to ``offset``."""
        with self._guard:
            for at, first, end in self.lineage(partition).chain(label):
                bases = self._bases[Place(*partition, at)]
                index = bases.bisect_right(min(offset, end - 1)) - 1
                if index >= 0 and bases[index] >= first:
                    return self.get(SegmentId(*partition, bases[index], at))
        return None

    def above(self, partition: Partition, offset: int, label: str | None = None) -> Segment | None:
        """In the same log, the segment with the lowest base above ``offset``."""
        with self._guard:
            # The oldest part of the log has the lowest offsets.
            for at, first, end in reversed([*self.lineage(partition).chain(label)]):
                bases = self._bases[Place(*partition, at)]
                index = bases.bisect_left(max(first, offset + 1))
                if index < len(bases) and bases[index] < end:
                    return self.get(SegmentId(*partition, bases[index], at))
        return None

    def not_older(
        self, partition: Partition, timestamp: int, label: str | None = None, *, from_offset: int = 0
    ) -> Segment | None:
        """In the same log, the first segment from a base on that is not known to have only records older than this."""
        with self._guard:
            for at, first, end in reversed([*self.lineage(partition).chain(label)]):
                place = Place(*partition, at)
                rows = self._rows.get(place, {})
                for base in self._bases[place].irange(max(first, from_offset), end, inclusive=(True, False)):
                    if not is_older(rows[base], timestamp):
                        return unpack(place.segment(base), rows[base])
        return None

    def restored(self) -> list[Segment]:
        """The restored segments that are still on disk."""
        with self._guard:
            return self._tallies.restored()

    def later_than(self, moment: float) -> int:
        """How many segments have a later modification time, without active and restored ones."""
        with self._guard:
            return self._tallies.later_than(moment)

    def stats(self, policy: Policy, now: float, hot: Iterable[SegmentId] = (), *, sure: float) -> Stats:
        """``hot`` are segments that are hot whatever their age; ``sure`` is as in `Segment.lease_left`."""
        with self._guard:
            return self._tallies.stats(policy, now, filter(None, map(self.get, hot)), sure=sure)

    @property
    def quarantined(self) -> int:
        """The number of segments whose archived copy is damaged or missing."""
        return self._tallies.quarantined

    @property
    def damaged(self) -> int:
        """The number of segments with damage in the bytes of their log."""
        return self._tallies.damaged

    @property
    def copies(self) -> int:
        """The number of segments that have an archived copy."""
        return self._tallies.copies

    @property
    def unwritten(self) -> int:
        """The number of changes that are not flushed yet."""
        return sum(map(len, self._unwritten.values()))

    def _chosen(self, choose: Callable[[Place], Wanted | None]) -> Iterator[Segment]:
        """``choose`` returns the filter for a place's rows, or None to skip the place."""
        with self._guard:
            places = sorted(self._rows)
        for place in places:
            if (wanted := choose(place)) is None:
                continue
            with self._guard:
                rows = list(self._rows.get(place, {}).items())
            for base_offset, row in sorted(item for item in rows if wanted(*item)):
                yield unpack(place.segment(base_offset), row)

    def _places_of(self, partition: Partition) -> list[Place]:
        return [Place(*partition, each.label) for each in self.lineage(partition).incarnations]

    def _replace(self, segment: Segment) -> None:
        place, base_offset = segment.id.place, segment.id.base_offset
        rows = self._rows.setdefault(place, {})
        old = rows.get(base_offset)
        row = pack(segment)
        if row != old:
            before = None if old is None else unpack(segment.id, old)
            self._tallies.replace(before, segment)
            self._tell(before, segment)
            rows[base_offset] = row
            self._note_bases(place, base_offset, old, row)
            self._note_proven(place, base_offset, row)
            self._note_change(place, base_offset)

    def _remove(self, identity: SegmentId) -> None:
        place, base_offset = identity.place, identity.base_offset
        rows = self._rows[place]
        old = rows.pop(base_offset)
        before = unpack(identity, old)
        self._tallies.replace(before, None)
        self._tell(before, None)
        if not rows:
            del self._rows[place]
        self._note_bases(place, base_offset, old, None)
        self._note_proven(place, base_offset, None)
        self._note_change(place, base_offset)

    def _tell(self, old: Segment | None, new: Segment | None) -> None:
        """A segment changed from one to the other: for its history."""

    def _at(self, place: Place) -> Mapping[int, bytes]:
        return self._rows.get(place, {})

    def _note_bases(self, place: Place, base_offset: int, old: bytes | None, new: bytes | None) -> None:
        for bases in self._orders:
            bases.note(place, base_offset, old, new)

    def _note_proven(self, place: Place, base_offset: int, row: bytes | None) -> None:
        if row is not None and is_unproven(row):
            self._note_unproven(place.partition, [base_offset])
        elif (bases := self._unproven.get(place.partition)) and self.is_current(place.segment(base_offset)):
            bases.discard(base_offset)

    def _note_unproven(self, partition: Partition, base_offsets: list[int]) -> None:
        if base_offsets:
            self._unproven.setdefault(partition, SortedSet()).update(base_offsets)

    def _note_change(self, place: Place, base_offset: int) -> None:
        self._touch(place.partition)
        self._unwritten.setdefault(place, set()).add(base_offset)

    def _touch(self, partition: Partition) -> None:
        self._touched.add(partition)
        self._versions[partition] = self._versions.get(partition, 0) + 1
