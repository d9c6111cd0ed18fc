"""The bytes of a local file, as an upload takes them."""

from __future__ import annotations

from takhin_tiered import work
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.disk.files import OpenFile
from takhin_tiered.errors import SegmentChanged, TakhinError
from takhin_tiered.pace import Pace
from takhin_tiered.segments.names import SegmentId


class FileSource:
    """A file's bytes; why they cannot be read is kept, as an HTTP library reports only a broken connection.

    ``data`` is all of a small file, as it was read for its checksum.
    """

    def __init__(self, identity: SegmentId, file: OpenFile, data: bytes | None, pace: Pace) -> None:
        self._identity, self._file, self._data, self._pace = identity, file, data, pace
        self.in_memory = data is not None and not pace.rate
        self.problem: TakhinError | None = None
        self.given = 0

    def __call__(self, offset: int, length: int) -> bytes:
        if self.in_memory and self._data is not None:
            return self._data[offset : offset + length]
        try:
            with disk_errors(self._identity):
                data = self._file.read(offset, length)
            if length and not data:
                raise self._became_shorter()
        except TakhinError as error:
            self.problem = error
            raise
        self._pace.spend_here(len(data))
        self.given += len(data)
        work.moved(len(data))
        return data

    def fileno(self) -> int:
        """For the kernel, which may send from it by itself; -1 where it would be too fast."""
        return -1 if self._pace.rate or self.in_memory else self._file.fd

    def _became_shorter(self) -> SegmentChanged:
        path = self._identity.path
        return SegmentChanged(
            f"the files of segment {path} changed while it was uploaded: it became shorter",
            segment=path,
            hint="The local files stay, and nothing was archived; the next cycle tries again",
        )
