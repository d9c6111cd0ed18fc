"""Files of a segment on the broker's disk. They are held open: an evict meanwhile does no harm."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack

from takhin_tiered.concurrency import in_thread
from takhin_tiered.disk.access import disk_errors, open_partition
from takhin_tiered.disk.files import DataDirs, OpenFile, as_file_stat
from takhin_tiered.disk.kafka import read_topic_id
from takhin_tiered.errors import SegmentChanged
from takhin_tiered.reader.archived import Proof
from takhin_tiered.reader.window import PIECE, require_within
from takhin_tiered.segments.names import FileKind, SegmentId


class LocalSegment:
    """Some files of a segment, open. ``topic_id``: of the topic to which the partition's directory belongs."""

    def __init__(self, files: dict[FileKind, OpenFile], topic_id: str, stack: ExitStack) -> None:
        self.files, self.topic_id, self._stack = files, topic_id, stack

    def close(self) -> None:
        self._stack.close()


def open_local(data_dir: DataDirs, identity: SegmentId) -> LocalSegment | None:
    """All files that the segment has; None if its log is not there. `DiskError`. Blocking."""
    with ExitStack() as stack:
        files: dict[FileKind, OpenFile] = {}
        try:
            partition = stack.enter_context(open_partition(data_dir, identity))
            with disk_errors(identity):
                topic_id = read_topic_id(partition.fd)
                for kind in dict(partition.stat_all(identity).items()):
                    files[kind] = stack.enter_context(partition.open(identity.file(kind), keep_pages=True))
                # An evict unlinks the log first, and a restore places it last: files that went or came meanwhile may
                # not be all of the segment.
                after = partition.stat_all(identity)
                if after.log is None or dict(after.items()).keys() != files.keys():
                    return None
        except SegmentChanged:
            return None
        return LocalSegment(files, topic_id, stack.pop_all())


class LocalFile:
    """A `SegmentFile` on the disk. ``grows``: the broker may be appending to it."""

    proof = Proof.LOCAL

    def __init__(self, identity: SegmentId, file: OpenFile, *, grows: bool) -> None:
        self._id, self._file, self._grows = identity, file, grows

    @property
    def size(self) -> int:
        """When it was opened."""
        return self._file.found.size

    @property
    def tag(self) -> str:
        """Another one for other bytes, as far as the file system tells."""
        found = self._file.found
        return f"{os.fstat(self._file.fd).st_ino:x}-{found.size:x}-{found.mtime_ns:x}"

    async def read(self, start: int, end: int) -> bytes:
        """`SegmentChanged` if the broker truncated it, or wrote other bytes."""
        require_within(self.size, start, end)
        return await in_thread(self._read, start, end)

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        require_within(self.size, start, end)
        while start < end:
            piece = await in_thread(self._read, start, min(end, start + PIECE))
            start += len(piece)
            yield piece

    def _read(self, start: int, end: int) -> bytes:
        parts: list[bytes] = []
        with disk_errors(self._id):
            while start < end and (part := self._file.read(start, end - start)):
                parts.append(part)
                start += len(part)
            now, found = as_file_stat(os.fstat(self._file.fd)), self._file.found
        is_same = now.size >= found.size if self._grows else (now.size, now.mtime_ns) == (found.size, found.mtime_ns)
        if start < end or not is_same:
            raise SegmentChanged(
                f"segment {self._id.path} changed while it was read", segment=self._id.path, hint="Read it again"
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)
