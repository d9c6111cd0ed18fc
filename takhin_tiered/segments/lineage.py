"""The incarnations of a partition: which one is on the disk, and which keys the objects of each have. Pure.

A topic that was deleted and created again has the same names and other records. So has a truncated log, from the
truncation on; below it, it is still the same log. The incarnation that was archived first has the plain keys and no
label. A later one is labelled with its topic ID, or with ``~N``.

Where replicas share the archive, one that rolled its segments at other offsets has a log of its own from there on. It
is labelled with the replica's identifier, and is never the current one of another replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from takhin_tiered.segments.names import MAX_OFFSET, PLAIN, replica_label, replica_of


@dataclass(frozen=True, slots=True)
class Incarnation:
    """``follows`` is the label of the incarnation with which it shares all records below ``from_offset``, or None.

    ``archived_at`` is when its first known segment was archived, in seconds since the epoch, 0 for none. ``topic_id``
    is empty if unknown.
    """

    label: str = ""
    topic_id: str = ""
    follows: str | None = None
    from_offset: int = 0
    archived_at: float = 0.0

    @property
    def name(self) -> str:
        """As people name it."""
        return self.label or self.topic_id or PLAIN


@dataclass(frozen=True, slots=True)
class Lineage:
    """All incarnations of a partition. ``current`` is the label of the one that is, or was last, on the disk.

    ``is_seen``: the disk showed which topic it is; otherwise it is the one that was archived last. ``is_decided``:
    its records or a restore determined it, and no manifest overrides that.
    """

    incarnations: tuple[Incarnation, ...] = (Incarnation(),)
    current: str = ""
    is_seen: bool = False
    is_decided: bool = False

    def get(self, label: str) -> Incarnation:
        """The incarnation with this label; for an unknown label a new one without history."""
        return next((found for found in self.incarnations if found.label == label), Incarnation(label))

    def chain(self, label: str | None = None) -> Iterator[tuple[str, int, int]]:
        """The labels whose segments make up the log of an incarnation (default: the current one), newest first.

        Each comes with its range of base offsets, from ``first`` to before ``end``.
        """
        at, end, passed = self.current if label is None else label, MAX_OFFSET + 1, set[str]()
        while at not in passed:
            passed.add(at)
            found = self.get(at)
            first = 0 if found.follows is None else found.from_offset
            yield at, first, end
            if found.follows is None:
                return
            at, end = found.follows, min(end, first)

    def label_of(self, base_offset: int, label: str | None = None) -> str:
        """The label of the segment with this base offset in the log of an incarnation (default: the current one)."""
        chain = self.chain(label)
        return next((at for at, first, _ in chain if base_offset >= first), self.current if label is None else label)

    def is_current(self, label: str, base_offset: int) -> bool:
        # Most partitions have one incarnation, and a plan calls this for each of a million segments.
        if len(self.incarnations) == 1:
            return label == self.current
        return self.label_of(base_offset) == label

    def named(self, name: str) -> str | None:
        """The label of an incarnation by its topic ID, its label, or ``~0``; None if there is none.

        Of several with the same topic ID: the one on the disk, or else the one archived last.
        """
        of_topic = [found for found in self.incarnations if name and found.topic_id == name]
        if of_topic:
            current = [found for found in of_topic if found.label == self.current]
            return (current or [_last_of([each for each in of_topic if not replica_of(each.label)] or of_topic)])[
                0
            ].label
        if name == PLAIN:
            return ""
        return name if name and name in self._labels else None

    def with_topic(self, topic_id: str, *, is_archived: bool, replica: str = "") -> Lineage:
        """The disk shows a log of this topic. ``is_archived``: the current incarnation is in the archive."""
        here = self.get(self.current)
        if here.topic_id == topic_id:
            return self if self.is_seen else replace(self, is_seen=True)
        of_topic = [found for found in self._ours(replica) if found.topic_id == topic_id]
        if of_topic:
            return replace(self, current=_last_of(of_topic).label, is_seen=True, is_decided=False)
        if not here.topic_id or (not here.label and not is_archived):
            # Archives from before topic IDs belong to the present topic, unless their records say otherwise.
            return replace(self._put(replace(here, topic_id=topic_id)), is_seen=True)
        return replace(self._put(Incarnation(topic_id, topic_id)), current=topic_id, is_seen=True, is_decided=False)

    def with_branch(
        self, base_offset: int, *, topic_id: str = "", is_other_topic: bool = False, replica: str = ""
    ) -> Lineage:
        """From this base offset on, the disk differs from what was archived under the same names.

        ``is_other_topic``: the archived segments have no topic ID, and the present ID is not theirs. ``replica``: the
        one whose disk this is, where others archive the same log.
        """
        old = self.label_of(base_offset)
        here = self.get(self.current)
        if here.label != old and here.follows == old and not here.archived_at:
            # The same branch was detected at a higher offset before, and nothing of it is archived yet.
            return self._put(replace(here, from_offset=base_offset))
        if replica and replica_of(here.label) == replica and here.follows == old and base_offset < here.from_offset:
            # It is one log, whatever of it was archived first.
            return replace(self._put(replace(here, from_offset=base_offset)), is_decided=True)
        is_free = is_other_topic and topic_id and topic_id not in self._labels
        label = topic_id if is_free else self._free_label(replica)
        fresh = Incarnation(label, topic_id, follows=old, from_offset=base_offset)
        branched = replace(self._put(fresh), current=label, is_seen=True, is_decided=True)
        return branched._put(replace(self.get(old), topic_id="")) if is_other_topic and topic_id else branched  # noqa: SLF001

    def learned(self, found: Incarnation, replica: str = "") -> Lineage:
        """Merge what a manifest says about its incarnation; ``replica`` is the one whose disk this is."""
        on_disk, known = self.get(self.current), self.get(found.label)
        is_first = not known.archived_at or found.archived_at < known.archived_at
        merged = Incarnation(
            found.label,
            found.topic_id if found.topic_id and (is_first or not known.topic_id) else known.topic_id,
            known.follows if known.follows is not None else found.follows,
            min((each.from_offset for each in (known, found) if each.follows is not None), default=0),
            found.archived_at if is_first else known.archived_at,
        )
        lineage = self._put(merged)
        ours = lineage._ours(replica)  # noqa: SLF001
        if not self.is_seen:
            return replace(lineage, current=_last_of(ours).label)
        here = lineage.get(self.current)
        if here.topic_id != on_disk.topic_id and on_disk.topic_id:
            # These keys belong to another topic than the one on the disk, which is not archived yet.
            return lineage.with_topic(on_disk.topic_id, is_archived=True, replica=replica)
        if self.is_decided:
            return lineage
        last = _last_of([each for each in ours if each.topic_id == here.topic_id])
        return replace(lineage, current=last.label) if last.archived_at > here.archived_at > 0 else lineage

    def with_current(self, label: str) -> Lineage:
        """A restore placed a segment of this incarnation on a disk that had nothing of the partition."""
        return replace(self, current=label, is_seen=True, is_decided=True)

    def _ours(self, replica: str) -> list[Incarnation]:
        """Those that may stand on the disk of this replica."""
        return [each for each in self.incarnations if replica_of(each.label) in ("", replica)]

    @property
    def _labels(self) -> set[str]:
        return {found.label for found in self.incarnations}

    def _put(self, new: Incarnation) -> Lineage:
        if new.label in self._labels:
            return replace(
                self, incarnations=tuple(new if old.label == new.label else old for old in self.incarnations)
            )
        return replace(self, incarnations=(*self.incarnations, new))

    def _free_label(self, replica: str) -> str:
        taken, numbers = self._labels, range(1, len(self._labels) + 2)
        labels = (replica_label(replica, number) if replica else f"~{number}" for number in numbers)
        return next(label for label in labels if label not in taken)


def _last_of(incarnations: Sequence[Incarnation]) -> Incarnation:
    return max(incarnations, key=lambda found: (found.archived_at, found.label))
