"""A file on its way from the archive to the disk: written under its temporary name, and compared with the manifest."""

from __future__ import annotations

import os
from math import lcm

from takhin_tiered import filesystems, work
from takhin_tiered.codec.checksums import Hasher, sha256_of_parts
from takhin_tiered.codec.chunks import ChunkCutter
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.disk.files import PartitionDir
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from takhin_tiered.segments.manifest import ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.store.landing import write_sparse
from takhin_tiered.vault.decoding import Decoder

_RANGES = 4
_RANGE_SIZE = 32 << 20


class Incoming:
    """Its methods block. They raise `DiskError`, and `ObjectCorrupt` where the bytes are others than archived.

    ``decoder`` is that of an encoded object, None for one that has the bytes of its file.
    """

    def __init__(
        self,
        partition: PartitionDir,
        identity: SegmentId,
        kind: FileKind,
        archived: ManifestFile,
        decoder: Decoder | None,
        *,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        self.identity, self.archived, self.decoder, self.pace, self.metrics = identity, archived, decoder, pace, metrics
        size, part_size = archived.plain_size, archived.plain_part_size
        self.ranges: list[Range] = []
        if archived.parts:
            self.ranges.append(SplicedRange(self, 0, size))
        else:
            for start, end in ranges_of(size, part_size, decoder.chunks.size if decoder else 1):
                self.ranges.append(
                    Range(self, start, end) if decoder is None else EncodedRange(self, decoder, start, end)
                )
        self.fd = -1
        self._partition, self._name = partition, identity.file(kind)

    def create(self) -> None:
        with disk_errors(self.identity):
            self.fd = self._partition.create_temp(self._name, self.archived.mode)

    def finish(self) -> None:
        """To be called when every range has come."""
        if any(each.missing for each in self.ranges) or self._sha256() != self.archived.plain_sha256:
            raise self.corrupt()
        with disk_errors(self.identity):
            _set_size(self.fd, self.archived.plain_size)
            filesystems.set_mode(self.fd, self.archived.mode)
            filesystems.set_time(self.fd, self.archived.mtime_ns)
            # Last, as only the owner may change the other two.
            filesystems.give_to_owner_of(self._partition.fd, self.fd)
            filesystems.sync_file(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def write_whole(self, data: bytes) -> None:
        """All bytes of a small object."""
        try:
            self.create()
            [whole] = self.ranges
            whole.see(memoryview(data))
            if self.decoder is None:
                self.write(memoryview(data), 0)
            self.finish()
        finally:
            self.close()

    def write(self, plain: memoryview, offset: int) -> None:
        with disk_errors(self.identity):
            write_sparse(self.fd, plain, offset)

    def corrupt(self) -> ObjectCorrupt:
        what = "the log, which is made of parts of others," if self.archived.parts else f"object {self.archived.key}"
        return ObjectCorrupt(
            f"{what} is not what was archived",
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
    """Bytes ``start`` to ``end`` (exclusive) of an incoming file; ranges come side by side.

    ``stored_start`` and ``stored_end`` are where they stand in the object.
    """

    def __init__(self, incoming: Incoming, start: int, end: int) -> None:
        self._incoming, self._end = incoming, end
        self.stored_start, self.stored_end = start, end
        self.hasher = Hasher(incoming.archived.plain_part_size)
        # Bytes that are still to come.
        self.missing = end - start

    def see(self, piece: memoryview) -> None:
        """Before a piece is written: more than there should be is refused, and the others wait their turn."""
        self._count(piece)
        self.hasher.update(piece)
        work.moved(len(piece))

    def _count(self, piece: memoryview) -> None:
        if len(piece) > self.missing:
            raise self._incoming.corrupt()
        self.missing -= len(piece)
        self._incoming.pace.spend_here(len(piece))
        self._incoming.metrics.downloaded.inc(len(piece))


class EncodedRange(Range):
    """Whole chunks of an encoded object: each is decoded, proven and written once all of it has come.

    The last range goes on to the end of the object, where the seek table stands.
    """

    def __init__(self, incoming: Incoming, decoder: Decoder, start: int, end: int) -> None:
        super().__init__(incoming, start, end)
        self._decoder, self._numbers = decoder, decoder.chunks.holding(start, end)
        size, stored_size = incoming.archived.plain_size, incoming.archived.size
        chunks, last = decoder.chunks, self._numbers.stop - 1
        self.stored_start = chunks.stored_range(self._numbers.start, size)[0] if self._numbers else 0
        self.stored_end = stored_size if end == size else chunks.stored_range(last, size)[1]
        self.missing = self.stored_end - self.stored_start
        ranges = (chunks.stored_range(number, size) for number in self._numbers)
        self._cutter = ChunkCutter([end - begin for begin, end in ranges], self._take)

    def see(self, piece: memoryview) -> None:
        self._count(piece)
        self._cutter.update(piece)

    def _take(self, index: int, stored: bytes) -> None:
        number = self._numbers[index]
        plain = self._decoder.decode(number, stored)
        self.hasher.update(plain)
        self._incoming.write(memoryview(plain), number * self._decoder.chunks.size)
        work.moved(len(plain))


class SplicedRange(Range):
    """All of a log that is made of parts of others: their plain bytes come in order, proven by their manifests."""

    def take(self, plain: memoryview) -> None:
        if len(plain) > self.missing:
            raise self._incoming.corrupt()
        self.hasher.update(plain)
        self._incoming.write(plain, self._end - self.missing)
        self.missing -= len(plain)
        work.moved(len(plain))

    def came(self, count: int) -> None:
        """So many bytes were downloaded for it."""
        self._incoming.pace.spend_here(count)
        self._incoming.metrics.downloaded.inc(count)


def ranges_of(size: int, part_size: int, chunk_size: int = 1) -> list[tuple[int, int]]:
    """How a file is fetched: in one, or in a few ranges of whole parts and chunks.

    The parts have digests of their own, and chunks are decoded whole.
    """
    count = min(_RANGES, size // _RANGE_SIZE) if part_size else 1
    if count <= 1:
        return [(0, size)]
    unit = lcm(part_size, chunk_size)
    units = -(-size // unit)
    step = -(-units // count) * unit
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
