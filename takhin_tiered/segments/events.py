"""What happened to a segment, told from how it stood before and after. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from takhin_tiered.segments.model import Archive, Segment


class What(StrEnum):
    """COPIED: in the archive, and still on the disk; ARCHIVED: in the archive only.

    EVICTED: what was local is off the disk; RESTORED: it is back on it. CHANGED: the local files are not the archived
    ones any more. REMOVED: the archived copy is gone. FORGOTTEN: it left the disk, and was never archived.
    """

    COPIED = "copied"
    ARCHIVED = "archived"
    EVICTED = "evicted"
    RESTORED = "restored"
    LEASED = "leased"
    LEASE_ENDED = "lease_ended"
    CHANGED = "changed"
    FAILED = "failed"
    DAMAGED = "damaged"
    QUARANTINED = "quarantined"
    HEALED = "healed"
    REMOVED = "removed"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class SegmentEvent:
    """``verb`` and ``correlation_id`` are those of the operation, as in the log; empty for what a scan saw."""

    at: str
    event: str
    detail: str
    verb: str
    correlation_id: str
    incarnation: str = ""


def events_between(old: Segment | None, new: Segment | None) -> Iterator[tuple[What, str]]:
    """In the order in which they happened. Nothing for a segment that was not known before: it is only learned of."""
    if old is None or old == new:
        return
    if new is None:
        if old.archive is not None:
            yield What.REMOVED, _removed(old.archive)
        else:
            yield What.FORGOTTEN, "it left the disk before it was archived"
        return
    yield from _of_the_archive(old, new)
    yield from _of_the_disk(old, new)
    if new.damage and new.damage != old.damage:
        yield What.DAMAGED, new.damage
    if new.quarantine and new.quarantine != old.quarantine:
        yield What.QUARANTINED, new.quarantine
    elif old.quarantine and not new.quarantine and new.archive is not None:
        yield What.HEALED, "the archived copy is whole again"
    if new.last_failure and new.last_failure != old.last_failure:
        yield What.FAILED, new.last_failure


def _of_the_archive(old: Segment, new: Segment) -> Iterator[tuple[What, str]]:
    before, after = old.archive, new.archive
    if after is None:
        if before is not None:
            yield What.REMOVED, _removed(before)
        return
    if before is None or before.generation != after.generation:
        what = What.COPIED if new.local.log is not None else What.ARCHIVED
        yield what, f"generation {after.generation}, {after.size} bytes, stored as {after.stored_size}"


def _of_the_disk(old: Segment, new: Segment) -> Iterator[tuple[What, str]]:
    was, stands = old.local.log, new.local.log
    if was is not None and stands is None:
        yield What.EVICTED, f"{old.local.size - new.local.size} bytes off the disk"
        return
    if was is None and stands is not None:
        yield What.RESTORED, f"{new.local.size} bytes{_lease(new)}"
        return
    if old.is_proven and new.archive is not None and not new.is_proven and not new.active:
        yield What.CHANGED, "the local files differ from the archived ones"
    if new.lease_until != old.lease_until and stands is not None:
        if new.lease_until:
            yield What.LEASED, _lease(new).removeprefix(", ")
        else:
            yield What.LEASE_ENDED, "it is treated by its age again"


def _removed(archive: Archive) -> str:
    return f"generation {archive.generation}, {archive.stored_size} bytes, is not in the archive any more"


def _lease(segment: Segment) -> str:
    if not segment.lease_until:
        return ""
    until = datetime.fromtimestamp(segment.lease_until, UTC).isoformat(timespec="seconds")
    return f", kept until {until}" + (f", for {segment.lease_by}" if segment.lease_by else "")
