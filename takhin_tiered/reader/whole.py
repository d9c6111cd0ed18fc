"""Manifests of earlier releases have no checksums of chunks: the object is read once to its end, and proven as a whole.

The checksums of its pieces, which that yields, are kept: they prove every range from then on.
"""

from __future__ import annotations

from typing import Protocol

from takhin_tiered.codec.checksums import Hasher
from takhin_tiered.codec.chunks import ChunkSums
from takhin_tiered.cost.usage import Purpose
from takhin_tiered.errors import ObjectMissing
from takhin_tiered.reader.archived import ArchivedFile, name_of, proven_file, unproven_file
from takhin_tiered.reader.fetching import Fetcher
from takhin_tiered.reader.flights import Flights
from takhin_tiered.segments.chunks import count_of
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind
from takhin_tiered.store import counted_as

Checksums = tuple[int, ...]


class KnownChecksums(Protocol):
    """Of objects that were proven as a whole, by the name of their bytes."""

    async def get(self, name: str) -> Checksums | None: ...

    async def put(self, name: str, checksums: Checksums) -> None: ...


class ChecksumsInMemory:
    """Of a process without a disk cache."""

    _MOST = 1000

    def __init__(self) -> None:
        self._known: dict[str, Checksums] = {}

    async def get(self, name: str) -> Checksums | None:
        return self._known.get(name)

    async def put(self, name: str, checksums: Checksums) -> None:
        while len(self._known) >= self._MOST:
            del self._known[next(iter(self._known))]
        self._known[name] = checksums


class WholeObjects:
    def __init__(self, fetcher: Fetcher, known: KnownChecksums, piece_size: int) -> None:
        self._fetcher, self._known, self._piece_size = fetcher, known, piece_size
        self._reading: Flights[str, Checksums] = Flights()

    def unproven(self, manifest: Manifest, kind: FileKind) -> ArchivedFile:
        return unproven_file(manifest, kind, self._piece_size)

    async def prove(self, manifest: Manifest, kind: FileKind) -> ArchivedFile:
        """The file with checksums of its pieces. `Damaged` if the object is not the archived one, and `StoreError`."""
        name = name_of(manifest.files[kind], self._piece_size)
        checksums = await self._known.get(name)
        if checksums is None or len(checksums) != count_of(manifest.files[kind].size, self._piece_size):
            checksums = await self._reading.share(name, lambda: self._read(name, manifest, kind))
        return proven_file(manifest, kind, checksums, self._piece_size)

    async def prove_again(self, manifest: Manifest, kind: FileKind) -> None:
        """The checksums that are kept may be wrong themselves: read the object once more. Raises as `prove`."""
        await self._known.put(name_of(manifest.files[kind], self._piece_size), ())
        await self.prove(manifest, kind)

    async def _read(self, name: str, manifest: Manifest, kind: FileKind) -> Checksums:
        described = self.unproven(manifest, kind)
        try:
            # Bytes may also be damaged on the wire.
            for _ in range(2):
                checksums = await self._read_once(manifest.files[kind])
                if checksums is not None:
                    await self._known.put(name, checksums)
                    return checksums
        except ObjectMissing as error:
            raise await self._fetcher.on_damage(described, described.damaged("it is not in the archive")) from error
        raise await self._fetcher.on_damage(described, described.damaged("its SHA-256 is another one"))

    async def _read_once(self, file: ManifestFile) -> Checksums | None:
        """None if these are not the bytes that were archived."""
        fetcher = self._fetcher
        hasher, pieces = Hasher(file.part_size), ChunkSums(self._piece_size)

        def take(piece: memoryview) -> None:
            fetcher.pace.spend_here(len(piece))
            fetcher.metrics.downloaded.inc(len(piece))
            hasher.update(piece)
            pieces.update(piece)

        with counted_as(Purpose.READ):
            await fetcher.store.fetch_into(file.key, fetcher.nothing, seen=take)
        is_right = (hasher.size, hasher.checksum().sha256) == (file.size, file.sha256)
        return pieces.checksums() if is_right else None
