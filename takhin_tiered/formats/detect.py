"""Which format a log has, from its first bytes."""

from __future__ import annotations

from takhin_tiered.formats import takhin
from takhin_tiered.formats.batch import Bytes, adds_up, parse_any

HEAD = 4096
"""How many bytes are enough."""


def detect(head: Bytes, size: int) -> str:
    """``kafka``, ``takhin``, ``empty`` or ``unknown``, for a log of ``size`` bytes that begins with ``head``."""
    if size == 0:
        return "empty"
    record = takhin.parse_record(head, 0)
    is_record = record is not None and record.end <= size
    # Takhin's first: that two lengths fill a record exactly is no accident, while a batch that large an offset and that
    # small a length makes of a record may be one.
    if is_record and record is not None and takhin.is_sound(record, head):
        return "takhin"
    batch = parse_any(head, 0)
    if batch is not None and batch.end <= size and (batch.magic == 2 or adds_up(batch, head) is not False):
        return "kafka"
    return "takhin" if is_record and record is not None and takhin.is_sound(record, head) is None else "unknown"
