"""What this process is at: which segments, since when, and how many bytes of each have passed. For whoever asks now."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Work:
    """One verb on one segment; ``since`` is in seconds since the epoch."""

    __slots__ = ("_guard", "done", "segment", "since", "verb")

    def __init__(self, verb: str, segment: str) -> None:
        self.verb, self.segment = verb, segment
        self.since = time.time()
        self.done = 0
        self._guard = threading.Lock()

    def add(self, count: int) -> None:
        # Ranges of one object come in several threads.
        with self._guard:
            self.done += count


_running: dict[int, Work] = {}
_current: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(verb: str, segment: str) -> Iterator[None]:
    """Within: this is in `running`, and what `moved` is told, in threads too, counts for it."""
    with shown(verb, segment) as work, counting(work):
        yield


@contextmanager
def shown(verb: str, segment: str) -> Iterator[Work]:
    """Within: this is in `running`. What is moved counts for it where it is `counting`."""
    work = Work(verb, segment)
    _running[id(work)] = work
    try:
        yield work
    finally:
        del _running[id(work)]


@contextmanager
def counting(work: Work | None) -> Iterator[None]:
    """Within: what `moved` is told, in threads too, counts for this."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


def moved(count: int) -> None:
    """So many bytes were read, sent or received for the segment that is worked on."""
    if (work := _current.get()) is not None:
        work.add(count)


def running() -> list[Work]:
    """The longest first."""
    return sorted(_running.values(), key=lambda work: work.since)
