"""Which rows a cycle might have work for: for most others a few bytes rule it out. Pure."""

from __future__ import annotations

from collections.abc import Callable

from takhin_tiered.catalog.record import may_have_work
from takhin_tiered.segments.lineage import Lineage
from takhin_tiered.segments.names import Place
from takhin_tiered.segments.policy import Policy

Wanted = Callable[[int, bytes], bool]
"""Whether a segment is wanted, by its base offset and its row."""


def due(place: Place, lineage: Lineage, policy: Policy, now: float) -> Wanted | None:
    """The rows of ``place`` that a cycle might have work for; None: it has none there.

    A cycle never works on segments of an earlier incarnation.
    """
    if not policy.enabled:
        return None
    rules = policy.of(place.topic)
    # One second of margin, because the exact rule rounds.
    since, keeps = int((now - rules.cold_age + 1) * 1e9), not rules.may_unlink
    upload_since = int((now - rules.upload_age + 1) * 1e9)
    may_expire = rules.max_age(place.topic) is not None
    bounds = next(((first, end) for at, first, end in lineage.chain() if at == place.label), None)
    if bounds is None:
        return None
    first, end = bounds
    if rules.max_size(place.topic) is not None:
        return lambda base, _: first <= base < end
    if not (policy.covers(place.topic) or may_expire):
        return None
    return lambda base, row: (
        first <= base < end
        and may_have_work(
            row, cold_since_ns=since, upload_since_ns=upload_since, keeps_copies=keeps, may_expire=may_expire
        )
    )
