"""A file on its way from the archive to the disk: written under its temporary name, and compared with the manifest."""

from __future__ import annotations

import os

from takhin_tiered import filesystems, work
from takhin_tiered.codec.checksums import Hasher, sha256_of_parts
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.disk.files import PartitionDir
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.segments.manifest import ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.store.landing import write_sparse

_RANGES = 4
_RANGE_SIZE = 32 << 20


class Incoming:
    """Its methods block. They raise `DiskError`, and `ObjectCorrupt` where the bytes are others than archived."""

    def __init__(
        self,
        partition: PartitionDir,
        identity: SegmentId,
        kind: FileKind,
        archived: ManifestFile,
        *,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        self.identity, self.archived, self.pace, self.metrics = identity, archived, pace, metrics
        self.ranges = [Range(self, start, end) for start, end in ranges_of(archived.size, archived.part_size)]
        self.fd = -1
        self._partition, self._name = partition, identity.file(kind)

    def create(self) -> None:
        with disk_errors(self.identity):
            self.fd = self._partition.create_temp(self._name, self.archived.mode)

    def finish(self) -> None:
        """To be called when every range has come."""
        if any(each.missing for each in self.ranges) or self._sha256() != self.archived.sha256:
            raise self.corrupt()
        with disk_errors(self.identity):
            _set_size(self.fd, self.archived.size)
            filesystems.set_mode(self.fd, self.archived.mode)
            filesystems.set_time(self.fd, self.archived.mtime_ns)
            # Last, as only the owner may change the other two.
            filesystems.give_to_owner_of(self._partition.fd, self.fd)
            filesystems.sync_file(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def write_whole(self, data: bytes) -> None:
        try:
            self.create()
            self.ranges[0].see(memoryview(data))
            with disk_errors(self.identity):
                write_sparse(self.fd, memoryview(data), 0)
            self.finish()
        finally:
            self.close()

    def corrupt(self) -> ObjectCorrupt:
        return ObjectCorrupt(
            f"object {self.archived.key} is not what was archived",
            segment=self.identity.path,
            key=self.archived.key,
            hint="Nothing was restored. Look for an earlier version of the object in the bucket",
        )

    def _sha256(self) -> str:
        checksums = [each.hasher.checksum() for each in self.ranges]
        if len(checksums) == 1:
            return checksums[0].sha256
        return sha256_of_parts([digest for checksum in checksums for digest in checksum.parts])


class Range:
    """Bytes ``start`` to ``end`` (exclusive) of an incoming file; ranges come side by side."""

    def __init__(self, incoming: Incoming, start: int, end: int) -> None:
        self._incoming, self.start, self.end = incoming, start, end
        self.hasher = Hasher(incoming.archived.part_size)

    @property
    def missing(self) -> int:
        return self.end - self.start - self.hasher.size

    def see(self, piece: memoryview) -> None:
        """Before a piece is written: more than there should be is refused, and the others wait their turn."""
        if len(piece) > self.missing:
            raise self._incoming.corrupt()
        self._incoming.pace.spend_here(len(piece))
        self.hasher.update(piece)
        self._incoming.metrics.downloaded.inc(len(piece))
        work.moved(len(piece))


def ranges_of(size: int, part_size: int) -> list[tuple[int, int]]:
    """How a file is fetched: in one, or in a few ranges of whole parts, as the parts have digests of their own."""
    count = min(_RANGES, size // _RANGE_SIZE) if part_size else 1
    if count <= 1:
        return [(0, size)]
    parts = -(-size // part_size)
    step = -(-parts // count) * part_size
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _set_size(fd: int, size: int) -> None:
    """A file that ends in a hole is too short until its size is set."""
    if os.fstat(fd).st_size == size:
        return
    try:
        os.ftruncate(fd, size)
    except OSError:
        # Some file systems make a file longer only by a write.
        os.pwrite(fd, b"\0", size - 1)
