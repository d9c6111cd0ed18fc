"""What one pass over a log tells."""

from __future__ import annotations

from dataclasses import dataclass

MOST_OPEN_TRANSACTIONS = 1000
"""How many open transactions a summary names; it goes into the manifest."""


@dataclass(frozen=True, slots=True)
class LogSummary:
    """The result of reading a log. ``format`` is ``kafka``, ``takhin``, ``empty`` or ``unknown``.

    ``problem`` describes damage.
    ``leader_epochs`` are (epoch, offset of its first batch) in log order. ``has_gaps``: offsets are missing between
    the first and the last one, as after compaction; within compressed messages of magic 0 and 1 it does not show.
    ``open_transactions`` are (producer ID, its first offset in this log) of the transactions without a marker up to the
    end of this log; None if that is not known.
    """

    format: str
    first_offset: int | None = None
    last_offset: int | None = None
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    problem: str = ""
    leader_epochs: tuple[tuple[int, int], ...] = ()
    has_gaps: bool = False
    open_transactions: tuple[tuple[int, int], ...] | None = ()
