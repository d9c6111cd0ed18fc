"""The frames of a log: record batches, messages, or Takhin's records, whichever its format has."""

from __future__ import annotations

from takhin_tiered.formats import takhin
from takhin_tiered.formats.batch import HEADER_SIZE, Batch, Bytes, parse_any

LARGEST_HEAD = HEADER_SIZE
"""With so many bytes of a frame its header is known, unless the log ends before."""


def parse_frame(head: Bytes, position: int, log_format: str) -> Batch | None:
    """The header of the frame that ``head`` begins with, at ``position`` of the log; None if it is not one."""
    return takhin.parse_record(head, position) if log_format == "takhin" else parse_any(head, position)
