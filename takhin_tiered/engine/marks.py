"""The mark that a failed attempt leaves on its segment, until one succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from prometheus_client import Counter

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.naming import named_segment
from takhin_tiered.errors import InGlacier, SegmentActive, SegmentNotFound, SegmentRefused, StoreError, TakhinError
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import StoreHealth

_REFUSALS = (SegmentActive, SegmentRefused, SegmentNotFound)
"""What somebody asked for that cannot be: nothing is wrong with the segment."""


def note_failure(health: StoreHealth, attempts: Counter | None, error: TakhinError) -> None:
    """Count an attempt that failed among the ``attempts`` of its kind, and an error of the store by its code."""
    if attempts is not None:
        attempts.labels("failure").inc(1, logs.exemplar())
    if isinstance(error, StoreError):
        health.attempt_failed(error)


def mark_failed(catalog: Catalog, identity: SegmentId, error: TakhinError) -> None:
    known = catalog.get(identity)
    if known is not None and known.last_failure != str(error):
        catalog.put(replace(known, last_failure=str(error)))


@contextmanager
def by_hand(
    catalog: Catalog, health: StoreHealth, attempts: Counter, path: str, topic_id: str | None
) -> Iterator[None]:
    """Within: what fails is counted, and leaves its mark, as in a cycle."""
    try:
        yield
    except InGlacier:
        # It was requested, and is restored later: nothing has failed.
        raise
    except TakhinError as error:
        note_failure(health, attempts, error)
        if not isinstance(error, _REFUSALS):
            with suppress(SegmentNotFound):
                mark_failed(catalog, named_segment(catalog, path, topic_id), error)
        raise
