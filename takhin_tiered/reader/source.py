"""A segment to be read: the plain bytes of its files, wherever it is."""

from __future__ import annotations

from typing import Protocol

from takhin_tiered.segments.names import FileKind, SegmentId


class SegmentFile(Protocol):
    """The plain bytes of one file of a segment, wherever it is."""

    @property
    def size(self) -> int: ...

    async def read(self, start: int, end: int) -> bytes:
        """Exactly these bytes, proven."""
        ...


class SegmentSource(Protocol):
    """One segment. ``format`` is empty if it is not known yet: the first bytes of the log tell.

    ``first_offset`` and ``last_offset`` are those of the manifest, None for a local segment of which they are not
    known. ``open_transactions`` are those of the manifest.
    """

    @property
    def id(self) -> SegmentId: ...

    @property
    def format(self) -> str: ...

    @property
    def first_offset(self) -> int | None: ...

    @property
    def last_offset(self) -> int | None: ...

    @property
    def open_transactions(self) -> tuple[tuple[int, int], ...] | None: ...

    def file(self, kind: FileKind) -> SegmentFile | None:
        """None if the segment has no such file."""
        ...
