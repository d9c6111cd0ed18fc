"""How far the running cycle is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """``queued`` steps have yet to begin, of a plan with so many segments and so many bytes to be uploaded."""

    queued: int = 0
    planned_segments: int = 0
    planned_bytes: int = 0
