"""Counts and sums over a million rows at a start, without building a segment for each.

Rows of the same flags and length have the same form, so that all of them are read by one `struct`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from takhin_tiered.catalog import record

# More would take no less time, and much memory for an instant.
_AT_ONCE = 4096


@dataclass(slots=True)
class Survey:
    """As `Tallies` counts them; ``mtimes`` are seconds, of no order."""

    total: int = 0
    archived: int = 0
    quarantined: int = 0
    total_bytes: int = 0
    local_bytes: int = 0
    archived_bytes: int = 0
    mtimes: list[float] = field(default_factory=list)


def survey(rows: Iterable[bytes]) -> Survey:
    """Over rows none of which is `record.is_special`."""
    by_form: dict[tuple[int, int], list[bytes]] = {}
    for row in rows:
        by_form.setdefault((record.flags_of(row), len(row)), []).append(row)
    found = Survey()
    for (flags, length), alike in by_form.items():
        form = record.form_of(flags)
        for at in range(0, len(alike), _AT_ONCE):
            _add(found, form, length, alike[at : at + _AT_ONCE])
    return found


def _add(found: Survey, form: record.Form, length: int, rows: list[bytes]) -> None:
    known = struct.Struct(form.layout)
    reader = struct.Struct(f"{form.layout}{length - known.size}x")
    values = list(zip(*reader.iter_unpack(b"".join(rows)), strict=True))
    local = sum(sum(values[at]) for at in form.local_sizes)
    archived = sum(values[form.archive_size]) if form.archive_size else 0
    found.total += len(rows)
    found.archived += len(rows) if form.archived_only else 0
    found.quarantined += len(rows) if form.quarantined else 0
    found.total_bytes += archived if form.archived_only else local
    found.local_bytes += local
    found.archived_bytes += archived
    found.mtimes += [nanoseconds / 1e9 for nanoseconds in values[form.mtime]] if form.mtime else [0.0] * len(rows)
