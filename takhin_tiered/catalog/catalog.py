"""The catalog: every known segment, in memory, guarded by locks, written through to the journal.

One lock guards the map and is held briefly. One lock per segment is held through a whole operation, so
that an archive, an evict and a restore of the same segment run one after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

from takhin_tiered.catalog.branches import Branches
from takhin_tiered.catalog.events import EventRow
from takhin_tiered.catalog.journal import Journal
from takhin_tiered.catalog.record import (
    has_archive,
    head_of,
    is_restored,
    is_special,
    is_unchanged,
    is_unproven,
    may_be_unproven,
    unpack,
)
from takhin_tiered.catalog.survey import stored_sizes
from takhin_tiered.catalog.tallies import AgesOf, as_all
from takhin_tiered.logs import running_operation
from takhin_tiered.segments.classes import Walk
from takhin_tiered.segments.events import events_between
from takhin_tiered.segments.lineage import Lineage
from takhin_tiered.segments.listing import NOTHING_SEEN, PartitionListing, has_log, local_files
from takhin_tiered.segments.model import Intent, LocalFiles, Segment
from takhin_tiered.segments.names import Partition, Place, SegmentId
from takhin_tiered.segments.policy import Ages

_EVENTS_UNWRITTEN = 100_000


class Catalog(Branches):
    """Every known segment. Without a journal it exists in memory only."""

    def __init__(self, journal: Journal | None = None, ages_of: AgesOf = as_all) -> None:
        super().__init__(ages_of)
        self._journal = journal
        # What happened to segments since the last write.
        self._events: list[EventRow] = []
        # The highest base offset with a log, and all segments to which the broker might be writing.
        self._active: dict[Partition, int] = {}
        self._writable: dict[Partition, frozenset[int]] = {}
        self._unsettled: dict[Partition, set[int]] = {}
        self._locks: WeakValueDictionary[SegmentId, asyncio.Lock] = WeakValueDictionary()
        self._intents: dict[str, Intent] = {}
        self._unwritten_intents: dict[str, Intent | None] = {}
        self._write_lock = asyncio.Lock()
        self._changed_by_verbs: set[SegmentId] = set()
        # The number of superseded generations, at the last count.
        self.superseded = 0
        # Partitions whose logs have offset gaps, as compaction leaves them.
        self.gapped: set[Partition] = set()
        # The highest base offset whose retention was over here, while other replicas still rely on the archived copy.
        self.withdrawn: dict[Place, int] = {}

    async def load(self) -> None:
        """Read the journal. `CatalogError` if it cannot be read, or is damaged."""
        if self._journal is None:
            return
        with self._journal.reading():
            await self._load(self._journal)

    async def _load(self, journal: Journal) -> None:
        self._lineages = await journal.lineages()
        plain: defaultdict[Ages, list[bytes]] = defaultdict(list)
        async for place, rows in journal.places():
            if rows:
                self._rows[place] = rows
                self._touch(place.partition)
            ordinary, partition = rows.copy(), place.partition
            heads = tuple(filter(is_special, set(map(head_of, rows.values()))))
            for base_offset in [base_offset for base_offset, row in rows.items() if row.startswith(heads)]:
                segment = unpack(place.segment(base_offset), ordinary.pop(base_offset))
                self._tallies.replace(None, segment)
                if segment.active:
                    self._active[partition] = max(base_offset, self._active.get(partition, -1))
                    self._writable[partition] = self._writable.get(partition, frozenset()) | {base_offset}
            plain[self._tallies.ages_of(place.topic)] += ordinary.values()
            heads = tuple(filter(may_be_unproven, set(map(head_of, rows.values()))))
            self._note_unproven(partition, [b for b, row in rows.items() if row.startswith(heads) and is_unproven(row)])
        for ages, rows_of_them in plain.items():
            self._tallies.add(rows_of_them, ages)
        # Sort now, before requests arrive: a million segments take 0.3 s.
        self._tallies.sort()
        self._intents = {intent.key: intent for intent in await journal.intents()}

    def group_ages(self, ages_of: AgesOf) -> None:
        """Count anew, as topics have other ages of their own. A million segments take a second."""
        with self._guard:
            ordinary = (
                (place.topic, [row for row in rows.values() if not is_special(head_of(row))])
                for place, rows in self._rows.items()
            )
            self._tallies.group(ages_of, ordinary)

    def detach(self) -> None:
        """Stop writing to the journal: for a read-only process."""
        self._journal = None

    def stored_sizes(self, place: Place, cold_age: float, walk: Walk) -> tuple[list[int], list[int]]:
        """Bytes in the store of each archived copy: of those in the class of cold ones, and of the others."""
        return stored_sizes(list(self.packed(place).values()), cold_age, walk)

    def local_partitions(self) -> list[Partition]:
        """The partitions that had a log on disk at the last scan."""
        return [partition for partition, active in self._active.items() if active >= 0]

    def put(self, segment: Segment) -> None:
        """Set a segment's state after an operation. It overrides a scan that began earlier."""
        with self._guard:
            self._changed_by_verbs.add(segment.id)
            self._replace(segment)

    def confirm(self, identity: SegmentId) -> None:
        """Confirm a segment's known state after an operation: like `put`, without the write."""
        with self._guard:
            self._changed_by_verbs.add(identity)

    def remove(self, identity: SegmentId) -> None:
        """Forget a segment that no longer exists anywhere."""
        with self._guard:
            self._changed_by_verbs.add(identity)
            if self.get(identity) is not None:
                self._remove(identity)

    def touch(self, identity: SegmentId, now: float) -> bool:
        """Record a read; False for an unknown segment."""
        with self._guard:
            segment = self.get(identity)
            if segment is not None:
                self._replace(replace(segment, last_access=now))
        return segment is not None

    def active_offset(self, identity: SegmentId) -> int:
        """The partition's highest base offset with a log at the last scan; -1 if there was none."""
        return self._active.get(identity.place.partition, -1)

    def may_be_active(self, identity: SegmentId) -> bool:
        """Whether the broker might have been writing to it at the last scan; see `_writable_in`."""
        is_writable = identity.base_offset in self._writable.get(identity.place.partition, ())
        return is_writable and self.is_current(identity)

    def _writable_in(self, listing: PartitionListing, known: dict[int, bytes]) -> frozenset[int]:
        """The segments that the broker might be writing to: somebody may have placed segments above the active one.

        These are the highest one, a lower one that was modified later, and the highest that was not restored.
        """
        if listing.active is None:
            return frozenset()
        found = {listing.active}
        if listing.written_later is not None:
            found.add(listing.written_later)
        if is_restored(known.get(listing.active, b"")):
            brokers_own = (
                base for base, row in listing.rows.items() if has_log(row) and not is_restored(known.get(base, b""))
            )
            found.add(max(brokers_own, default=listing.active))
        return frozenset(found)

    @asynccontextmanager
    async def lock(self, identity: SegmentId) -> AsyncIterator[None]:
        """Lock a segment for an operation: its local files, and the archived copies of all its incarnations."""
        name = replace(identity, label="")
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield

    def is_held(self, identity: SegmentId) -> bool:
        """Whether an operation holds its lock."""
        lock = self._locks.get(replace(identity, label=""))
        return lock is not None and lock.locked()

    def held(self) -> list[SegmentId]:
        """The segments whose lock an operation holds now; without labels, as a lock is that of all incarnations."""
        return [identity for identity, lock in list(self._locks.items()) if lock.locked()]

    def intend(self, intents: Iterable[Intent]) -> None:
        """Record objects that are about to be written; the next `flush` makes that durable."""
        with self._guard:
            for intent in intents:
                before = self._intents.get(intent.key)
                found = replace(intent, is_earlier=True) if before is not None and before.is_earlier else intent
                self._intents[intent.key] = self._unwritten_intents[intent.key] = found

    def settle(self, keys: Iterable[str]) -> None:
        """Drop the intents of objects that belong to a committed manifest, or are gone."""
        with self._guard:
            for key in keys:
                if self._intents.pop(key, None) is not None:
                    self._unwritten_intents[key] = None

    def intents(self, identity: SegmentId | None = None) -> list[Intent]:
        """The intents that are not settled: it is unknown whether the object exists."""
        with self._guard:
            return [intent for intent in self._intents.values() if identity in (None, intent.id)]

    def intent(self, key: str) -> Intent | None:
        """The unsettled intent for this object, or None."""
        return self._intents.get(key)

    def begin_scan(self) -> None:
        """From here on, `observe` does not overwrite what operations change."""
        with self._guard:
            self._changed_by_verbs.clear()

    def observe(self, listing: PartitionListing) -> list[SegmentId]:
        """Apply the scan of one partition; returns the segments that no longer exist anywhere.

        A segment is unsettled if its files differ from those of the previous scan.
        """
        partition = (listing.topic, listing.partition)
        gone: list[SegmentId] = []
        with self._guard:
            if listing.topic_id:
                self._set_topic(partition, listing.topic_id)
            seen_of = self._by_place(partition, listing.rows)
            if not listing.partial:
                self._active[partition] = -1 if listing.active is None else listing.active
                known = {base: row for place, seen in seen_of.items() for base, row in self._known_of(place, seen)}
                self._writable[partition] = self._writable_in(listing, known)
            for place, seen in seen_of.items():
                gone += self._observe_place(place, seen, partial=listing.partial)
        return gone

    def _known_of(self, place: Place, seen: dict[int, bytes]) -> list[tuple[int, bytes]]:
        rows = self._rows.get(place, {})
        return [(base, row) for base in seen if (row := rows.get(base)) is not None]

    def _set_topic(self, partition: Partition, topic_id: str) -> None:
        lineage = self.lineage(partition)
        if lineage.is_seen and lineage.get(lineage.current).topic_id == topic_id:
            return
        rows = self._rows.get(Place(*partition, lineage.current), {})
        advanced = lineage.with_topic(topic_id, is_archived=any(map(has_archive, rows.values())), replica=self.replica)
        if advanced.current == lineage.current:
            self._set_lineage(partition, advanced)
        else:
            # The partition's directory belongs to another topic now: this scan shows all of it.
            self._lineages[partition] = advanced
            self._unwritten_lineages.add(partition)

    def _by_place(self, partition: Partition, rows: dict[int, bytes]) -> dict[Place, dict[int, bytes]]:
        """The scanned rows, by the incarnation that they belong to."""
        lineage = self._lineages.get(partition)
        if lineage is None or lineage.incarnations == Lineage().incarnations:
            return {Place(*partition): rows}
        found: dict[Place, dict[int, bytes]] = {place: {} for place in self._places_of(partition)}
        for label, first, end in lineage.chain():
            found[Place(*partition, label)] = {base: row for base, row in rows.items() if first <= base < end}
        return found

    def _observe_place(self, place: Place, seen: dict[int, bytes], *, partial: bool) -> list[SegmentId]:
        partition = place.partition
        gone: list[SegmentId] = []
        fresh: dict[int, bytes] = {}
        known = self._rows.get(place, {})
        active = self._writable.get(partition, frozenset()) & seen.keys()
        verbs_are_at_work = bool(self._changed_by_verbs or self._locks)
        # For most segments the row equals the scanned one.
        differing = [base_offset for base_offset, row in seen.items() if known.get(base_offset) != row]
        if not partial:
            differing += known.keys() - seen.keys()
            differing += [base for base in active if known.get(base) == seen[base]]
        for base_offset in differing:
            row = known.get(base_offset)
            files = seen.get(base_offset, NOTHING_SEEN)
            is_active = base_offset in active
            if row is not None and is_unchanged(row, files, active=is_active):
                continue
            # A first scan sees millions of new segments: create no object for any of them.
            identity = place.segment(base_offset) if verbs_are_at_work or row is not None else None
            if identity is not None and self._is_busy(identity):
                self._mark_unsettled(identity)
            elif identity is None or row is None:
                if has_log(files):
                    fresh[base_offset] = files
            elif self._update_local(identity, row, local_files(files), active=is_active):
                gone.append(identity)
        if fresh:
            self._add(place, fresh, active)
        return gone

    def unsettled_offsets(self, topic: str, partition: int) -> list[int]:
        """Base offsets to scan again even if the directory is unchanged: active and unsettled segments."""
        with self._guard:
            active = self._writable.get((topic, partition), frozenset())
            return [*active.union(self._unsettled.get((topic, partition), ()))]

    def observe_missing(self, seen: set[Partition]) -> list[SegmentId]:
        """After a complete scan: partitions that it did not see have no local files."""
        missing = [partition for partition in self.partitions() if partition not in seen]
        return [i for topic, number in missing for i in self.observe(PartitionListing(topic, number, {}, None))]

    async def flush(self) -> None:
        """Return when all earlier changes are in the journal. Concurrent callers share a commit."""
        async with self._write_lock:
            with self._guard:
                unwritten, self._unwritten = self._unwritten, {}
                intents, self._unwritten_intents = self._unwritten_intents, {}
                relations, self._unwritten_lineages = self._unwritten_lineages, set()
                lineages = {partition: self.lineage(partition) for partition in relations}
                events, self._events = self._events, []
                changes: dict[Place, dict[int, bytes | None]] = {}
                wholes: dict[Place, dict[int, bytes]] = {}
                for place, offsets in unwritten.items():
                    rows = self._rows.get(place, {})
                    if self._journal is not None and self._journal.should_rewrite(place, len(offsets), len(rows)):
                        wholes[place] = rows.copy()
                    else:
                        changes[place] = {offset: rows.get(offset) for offset in offsets}
            if self._journal is None or not (unwritten or intents or lineages):
                return
            try:
                await asyncio.shield(self._journal.write(changes, wholes, intents, lineages, events))
            except BaseException:
                with self._guard:
                    self._events = [*events, *self._events]
                    for place, offsets in unwritten.items():
                        self._unwritten.setdefault(place, set()).update(offsets)
                    self._unwritten_intents = {**intents, **self._unwritten_intents}
                    self._unwritten_lineages |= relations
                raise

    def _tell(self, old: Segment | None, new: Segment | None) -> None:
        # A disk that is gone takes its million segments with it: their history must not take the memory.
        if self._journal is not None and old is not None and len(self._events) < _EVENTS_UNWRITTEN:
            at, told = time.time(), running_operation()
            self._events += [EventRow(old.id, at, *event, *told) for event in events_between(old, new)]

    def _is_busy(self, identity: SegmentId) -> bool:
        return identity in self._changed_by_verbs or self.is_held(identity)

    def _add(self, place: Place, fresh: dict[int, bytes], active: frozenset[int]) -> None:
        """Add segments of which only the files are known."""
        if unsettled := self._unsettled.get(place.partition):
            unsettled.difference_update(fresh)
        for base in active & fresh.keys():
            files = local_files(fresh.pop(base))
            self._replace(Segment(place.segment(base), local=files, active=True))
        self._touch(place.partition)
        if unproven := self._unproven.get(place.partition):
            unproven.difference_update(fresh)
        self._rows.setdefault(place, {}).update(fresh)
        for bases in self._orders:
            bases.added(place, fresh)
        self._unwritten.setdefault(place, set()).update(fresh)
        self._tallies.add(list(fresh.values()), self._tallies.ages_of(place.topic))

    def _update_local(self, identity: SegmentId, row: bytes, files: LocalFiles, *, active: bool) -> bool:
        """Update the local files of a known segment; True if the segment is gone."""
        if unsettled := self._unsettled.get(identity.place.partition):
            unsettled.discard(identity.base_offset)
        known = unpack(identity, row)
        if files.log is None and known.archive is None:
            self._remove(identity)
            return True
        settled = known.local == files or not known.local or not files
        lease = known.lease_until if files.log is not None else 0.0
        # Damage of a segment that is not archived was found in the previous files.
        damage = known.damage if known.archive is not None or known.local.log == files.log else ""
        self._replace(replace(known, local=files, active=active, settled=settled, lease_until=lease, damage=damage))
        if not settled:
            self._mark_unsettled(identity)
        return False

    def _mark_unsettled(self, identity: SegmentId) -> None:
        self._unsettled.setdefault(identity.place.partition, set()).add(identity.base_offset)
