"""The frames of a log: record batches, messages, or Takhin's records, whichever its format has."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.formats import takhin
from takhin_tiered.formats.batch import HEADER_SIZE, Batch, Bytes, parse_any

LARGEST_HEAD = HEADER_SIZE
"""With so many bytes of a frame its header is known, unless the log ends before."""


def parse_frame(head: Bytes, position: int, log_format: str) -> Batch | None:
    """The header of the frame that ``head`` begins with, at ``position`` of the log; None if it is not one."""
    return takhin.parse_record(head, position) if log_format == "takhin" else parse_any(head, position)


@dataclass(frozen=True, slots=True)
class Sought:
    """Where a frame was looked for. ``position``: where it begins, if ``is_found``, else where to go on."""

    position: int
    is_found: bool = False


def seek_frame(window: Bytes, position: int, offset: int, log_format: str) -> Sought | None:
    """The frame with this base offset, from ``position`` on, where ``window`` begins and a frame does.

    None if there is none: a later one comes first, or these bytes are no frame.
    """
    view, at = memoryview(window), 0
    while len(view) - at >= LARGEST_HEAD:
        frame = parse_frame(view[at : at + LARGEST_HEAD], position + at, log_format)
        if frame is None or frame.base_offset > offset:
            return None
        if frame.base_offset == offset:
            return Sought(position + at, is_found=True)
        at = frame.end - position
    return Sought(position + at)
