"""Counts and sums over a million rows at start-up, without creating a `Segment` for each.

Rows with the same flags have the same layout, so one `struct` reads all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from takhin_tiered.catalog import record
from takhin_tiered.segments.classes import Walk, stands_in_cold

# Larger batches are no faster, and need more memory.
_AT_ONCE = 4096


@dataclass(slots=True)
class Survey:
    """Counts as in `Tallies`; ``mtimes`` are seconds, unordered."""

    total: int = 0
    archived: int = 0
    quarantined: int = 0
    damaged: int = 0
    total_bytes: int = 0
    local_bytes: int = 0
    archived_bytes: int = 0
    copies: int = 0
    mtimes: list[float] = field(default_factory=list)


def survey(rows: Sequence[bytes]) -> Survey:
    """Count rows; none of them may be `record.is_special`."""
    found = Survey()
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        for head in set(map(record.head_of, some)):
            form = record.form_of(head)
            _add(found, form, [row[: form.reader.size] for row in some if row.startswith(head)])
    return found


def stored_sizes(rows: Sequence[bytes], cold_age: float, walk: Walk) -> tuple[list[int], list[int]]:
    """Bytes in the store of each archived copy: of those in the class of cold ones, and of the others."""
    cold: list[int] = []
    others: list[int] = []
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        for head in set(map(record.head_of, some)):
            form = record.form_of(head)
            if form.stored_size < 0:
                continue
            whole = b"".join([row[: form.reader.size] for row in some if row.startswith(head)])
            values = list(chain.from_iterable(form.reader.iter_unpack(whole)))
            sizes, times = values[form.stored_size :: form.fields], values[form.mtime :: form.fields]
            archived = values[form.archived_at :: form.fields]
            for size, time, archived_at in zip(sizes, times, archived, strict=True):
                cold_at = time / 1e9 + cold_age
                is_cold = stands_in_cold(archived_at=archived_at, cold_at=cold_at, size=size, walk=walk)
                (cold if is_cold else others).append(size)
    return cold, others


def _add(found: Survey, form: record.Form, rows: list[bytes]) -> None:
    # One flat list: the garbage collector would have to traverse a tuple per row.
    values = list(chain.from_iterable(form.reader.iter_unpack(b"".join(rows))))
    local = sum(sum(values[at :: form.fields]) for at in form.local_sizes)
    archived = sum(values[form.archive_size :: form.fields]) if form.archive_size >= 0 else 0
    found.total += len(rows)
    found.archived += len(rows) if form.archived_only else 0
    found.quarantined += len(rows) if form.quarantined else 0
    found.damaged += len(rows) if form.damaged else 0
    found.total_bytes += archived if form.archived_only else local
    found.local_bytes += local
    found.archived_bytes += sum(values[form.stored_size :: form.fields]) if form.stored_size >= 0 else 0
    found.copies += len(rows) if form.stored_size >= 0 else 0
    if form.mtime >= 0:
        found.mtimes += [nanoseconds / 1e9 for nanoseconds in values[form.mtime :: form.fields]]
    else:
        found.mtimes += [0.0] * len(rows)
