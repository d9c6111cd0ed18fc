"""Names of files that are being written. They identify the writer, which may still be at work.

Whoever cleans up owns the segments of a prefix. Objects of hybrid tables are written beside them, by this process and
by others.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from uuid import uuid4

from takhin_tiered import machine

_LONGEST = 24 * 3600.0
"""Seconds after the last write in which somebody may be at work on it: on another machine, or in another container."""


def new_name() -> str:
    pid = os.getpid()
    return f"{uuid4().hex}.{_space()}.{pid}.{_started(pid)}"


def is_left(name: str, age: float, older_than: float) -> bool:
    """Whether nobody is at work any more on a file that was written last ``age`` seconds ago. Younger ones stay."""
    if age <= older_than:
        return False
    _, *writer = name.split(".")
    # Earlier releases named no writer.
    if not writer or age > _LONGEST:
        return True
    if len(writer) != 3 or not (writer[1] + writer[2]).isdecimal():
        return False
    return machine.is_gone(int(writer[1]), int(writer[2]), space=writer[0], here=_space())


@cache
def _space() -> str:
    """What of a `process_space` fits into a name. Empty if it is unknown."""
    space = machine.process_space()
    return hashlib.sha256(space.encode()).hexdigest()[:16] if space else ""


@cache
def _started(pid: int) -> int:
    return machine.started_at(pid)
