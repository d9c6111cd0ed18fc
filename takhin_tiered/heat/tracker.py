"""The reads of many segments, in bounded memory: of more than it keeps, the coldest are forgotten first."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from takhin_tiered.heat.rates import (
    ROW_SIZE,
    HotRule,
    Reads,
    is_hot,
    judged,
    not_after,
    pack,
    rate,
    standing,
    steady_reads,
    sure_rate,
    unpack,
    with_read,
)
from takhin_tiered.segments.names import SegmentId

MOST_TRACKED = 32_768
REST = 24 * 3600.0
"""A segment that left the disk stays off it for so long: with that it moves at most twice a day, down and up."""
_UNREAD = Reads()
_NEW_SHARE = 10
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Usage:
    """How segments are read, at one moment."""

    tracker: Tracker
    now: float

    def is_hot(self, identity: SegmentId) -> bool:
        return self.tracker.is_hot(identity, self.now)

    def rate(self, identity: SegmentId) -> float:
        """Reads an hour, for comparisons."""
        reads = self.tracker.get(identity)
        return 0.0 if reads is None else sure_rate(reads, self.now)

    def reason(self, identity: SegmentId) -> str:
        """Why it is hot, for people."""
        reads = self.tracker.get(identity) or _UNREAD
        return (
            f"hot: read {rate(reads, self.now):.3g} times an hour, {steady_reads(reads, self.now):.3g} times in the "
            "last weeks"
        )


class Tracker:
    """``rule`` says from when on a segment is hot. Threads may look at it while the event loop notes reads."""

    def __init__(self, rule: HotRule = HotRule(), most: int = MOST_TRACKED) -> None:  # noqa: B008 - it is frozen
        self._rule, self._most = rule, most
        self._guard = threading.Lock()
        # Packed, they take a third of what objects would.
        self._rows: dict[SegmentId, bytes] = {}
        # The newest, in order: one that is read for the first time must not be forgotten for that.
        self._new: deque[SegmentId] = deque()
        # A heap with one entry for each of the others: its standing at some time, which may have grown since.
        self._coldest: list[tuple[float, SegmentId]] = []
        # Those that a rule made hot: they may have cooled down since.
        self._hot: set[SegmentId] = set()
        # What changed since `take_changes`, and what was given there and not forgotten since.
        self._changed: set[SegmentId] = set()
        self._saved: set[SegmentId] = set()
        # The latest demotion of those that were forgotten: what is new here may be one of them.
        self.forgotten_demotion = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, now: float) -> Usage:
        return Usage(self, now)

    def get(self, identity: SegmentId) -> Reads | None:
        row = self._rows.get(identity)
        return None if row is None else unpack(row)

    def is_hot(self, identity: SegmentId, now: float) -> bool:
        if identity not in self._hot:
            return False
        reads = self.get(identity)
        return reads is not None and is_hot(reads, self._rule, now)

    def hot(self, now: float) -> list[SegmentId]:
        """All that are hot."""
        with self._guard:
            return [identity for identity in self._hot if is_hot(unpack(self._rows[identity]), self._rule, now)]

    def is_rested(self, identity: SegmentId, now: float) -> bool:
        """Whether it may come back to the disk: it did not leave it within a day."""
        reads = self.get(identity)
        return now - (self.forgotten_demotion if reads is None else reads.demoted) >= REST

    def note(self, identity: SegmentId, now: float, size: int = 0, count: int = 1) -> None:
        """A read of so many bytes; with a ``count`` of 0, more bytes of one that was noted."""
        with self._guard:
            row = self._rows.get(identity)
            if row is None and not count:
                return
            reads = Reads(demoted=self.forgotten_demotion) if row is None else unpack(row)
            self._put(identity, with_read(reads, now, size, self._rule, count))
            self._forget_coldest()

    def note_demotions(self, identities: Iterable[SegmentId], now: float) -> None:
        """These segments leave the disk."""
        with self._guard:
            for identity in identities:
                self._put(identity, (self.get(identity) or _UNREAD)._replace(demoted=now))
                self._forget_coldest()

    def set_rule(self, rule: HotRule, now: float) -> None:
        with self._guard:
            if rule == self._rule:
                return
            self._rule = rule
            for identity, row in list(self._rows.items()):
                self._put(identity, judged(unpack(row)._replace(hot=0), rule, now))

    def settle(self, now: float, exists: Callable[[SegmentId], bool]) -> None:
        """Forget segments that are gone, and what tells nothing any more; let those cool down that have."""
        known, is_disordered = list(self._rows), False
        for at in range(0, len(known), _AT_ONCE):
            # In between, reads are noted.
            with self._guard:
                for identity in known[at : at + _AT_ONCE]:
                    if identity in self._rows:
                        is_disordered |= self._settle(identity, now, exists)
        with self._guard:
            self.forgotten_demotion = min(self.forgotten_demotion, now)
            if is_disordered:
                self._new = deque(identity for identity in self._new if identity in self._rows)
                others = self._rows.keys() - set(self._new)
                self._coldest = [(standing(unpack(self._rows[identity])), identity) for identity in others]
                heapq.heapify(self._coldest)

    def _settle(self, identity: SegmentId, now: float, exists: Callable[[SegmentId], bool]) -> bool:
        """Whether `_coldest` has it wrong now: it was removed, or a clock that was set back lowered its standing."""
        known = unpack(self._rows[identity])
        is_idle = not known.total and now - known.demoted >= REST
        if is_idle or not exists(identity):
            self._remove(identity)
            return True
        reads = not_after(known, now)
        is_lower = reads.last < known.last
        if reads.hot:
            reads = judged(reads, self._rule, now)
        if reads is not known:
            self._put(identity, reads)
        return is_lower

    def load(self, rows: Iterable[tuple[SegmentId, bytes]]) -> None:
        """What an earlier process noted. Rows that it cannot have written are left out."""
        with self._guard:
            for identity, row in rows:
                if len(row) == ROW_SIZE:
                    # By the rule of now, which may be another one; what is hot by it stays so until it has cooled down.
                    self._put(identity, judged(unpack(row), self._rule))
                    self._changed.discard(identity)
                    self._saved.add(identity)
                    self._forget_coldest()

    def take_changes(self) -> dict[SegmentId, bytes | None]:
        """What changed since the last call, to be saved; None for what was forgotten."""
        with self._guard:
            changes = {identity: self._rows.get(identity) for identity in self._changed}
            self._changed = set()
            for identity, row in changes.items():
                (self._saved.discard if row is None else self._saved.add)(identity)
            return changes

    def give_back(self, changes: Iterable[SegmentId]) -> None:
        """They could not be saved."""
        with self._guard:
            self._changed.update(changes)
            self._saved.update(changes)

    def _put(self, identity: SegmentId, reads: Reads) -> None:
        if identity not in self._rows:
            self._new.append(identity)
        self._rows[identity] = pack(reads)
        (self._hot.add if reads.hot else self._hot.discard)(identity)
        self._changed.add(identity)

    def _remove(self, identity: SegmentId) -> None:
        del self._rows[identity]
        self._hot.discard(identity)
        # What was never saved need not be removed from there.
        (self._changed.add if identity in self._saved else self._changed.discard)(identity)

    def _forget_coldest(self) -> None:
        while len(self._rows) > self._most:
            if len(self._new) > max(1, self._most // _NEW_SHARE):
                identity = self._new.popleft()
                heapq.heappush(self._coldest, (standing(unpack(self._rows[identity])), identity))
                continue
            noted, identity = self._coldest[0]
            reads = unpack(self._rows[identity])
            if (now := standing(reads)) > noted:
                heapq.heapreplace(self._coldest, (now, identity))
                continue
            heapq.heappop(self._coldest)
            self.forgotten_demotion = max(self.forgotten_demotion, reads.demoted)
            self._remove(identity)
