"""A verb at work on a segment: it is named in every log line and error, and shown to whoever asks what runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from takhin_tiered import logs, work
from takhin_tiered.errors import TakhinError


@contextmanager
def verb(name: str, path: str) -> Iterator[None]:
    """Within: every log line names the verb and the segment, and so does every error that goes up."""
    with work.working(name, path), named(name, path):
        yield


@contextmanager
def named(name: str, path: str, correlation: str = "") -> Iterator[None]:
    """The same, without a `Work` of its own: of a segment that is worked on together with others.

    ``correlation`` is its own caller's correlation ID, where that is another one.
    """
    with logs.operation(name, path, correlation):
        try:
            yield
        except TakhinError as error:
            error.segment = error.segment or path
            raise
