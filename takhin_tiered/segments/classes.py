"""In which storage class the log of an archived segment stands, by what was asked of the store. Pure.

The catalog has no class. A log was put in the class of its tier at the time of its archive. The class of cold ones
comes later, by a walk through the store: until then the log stands in the class before. What a lifecycle rule moves is
not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.segments.model import Archive, Tier
from takhin_tiered.segments.policy import Policy
from takhin_tiered.segments.retrieval import class_of_object


@dataclass(frozen=True, slots=True)
class Walk:
    """The last walk through the store that changed classes, to its end: of all that was cold when it ``began``.

    ``began`` is in seconds since the epoch, ``largest`` the bytes of the largest object whose class the server changes.
    """

    began: float = 0.0
    largest: int = 0


def stands_in_cold(*, archived_at: float, cold_at: float, size: int, walk: Walk) -> bool:
    """Whether a log is in the class of cold ones, that became cold at this time."""
    return archived_at >= cold_at or (walk.began >= cold_at and size <= walk.largest)


def class_of_log(archive: Archive, rules: Policy, walk: Walk) -> str:
    """``rules`` are those of the topic, and ``walk`` the last one that made the change that they ask for."""
    is_cold = stands_in_cold(
        archived_at=archive.archived_at,
        cold_at=archive.mtime_ns / 1e9 + rules.cold_age,
        size=archive.stored_size,
        walk=walk,
    )
    return class_of_object(rules.class_of(Tier.COLD if is_cold else Tier.WARM), archive.stored_size)
