"""One file of an archived segment, as chunks: where each stands in the object, and how it is proven."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import Damaged
from takhin_tiered.segments.chunks import Chunks, count_of
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.vault.decoding import Decoder

PIECE_SIZE = 4 << 20


class Proof(StrEnum):
    """What proves bytes that were read.

    ``chunk``: the checksum of each chunk in the manifest. ``object``: the manifest of an earlier release has only that
    of the whole object, which was read once. ``local``: they came from the broker's own file.
    """

    CHUNK = "chunk"
    OBJECT = "object"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """``name`` names the bytes of the object and how it is cut into chunks: another object has another name."""

    id: SegmentId
    kind: FileKind
    archived: ManifestFile
    chunks: Chunks
    proof: Proof
    name: str
    decoder: Decoder | None

    @property
    def size(self) -> int:
        return self.archived.plain_size

    @property
    def key(self) -> str:
        return self.archived.key

    @property
    def count(self) -> int:
        return count_of(self.size, self.chunks.size)

    @property
    def is_encoded(self) -> bool:
        return self.archived.encoding is not None

    def plain_range(self, number: int) -> tuple[int, int]:
        return self.chunks.plain_range(number, self.size)

    def stored_range(self, number: int) -> tuple[int, int]:
        return self.chunks.stored_range(number, self.size)

    def room(self, number: int) -> int:
        """Bytes of memory that the chunk takes while it is decoded."""
        begin, end = self.plain_range(number)
        first, last = self.stored_range(number)
        return end - begin + (last - first if self.is_encoded else 0)

    def decode(self, number: int, stored: bytes) -> bytes:
        """Its plain bytes, proven as ``proof`` says; `Damaged`. Blocking."""
        if self.decoder is not None:
            return self.decoder.decode(number, stored)
        begin, end = self.stored_range(number)
        if len(stored) != end - begin:
            raise self.damaged(f"bytes {begin} to {end} are {len(stored)} bytes")
        return stored

    def damaged(self, why: str) -> Damaged:
        return Damaged(
            f"object {self.key}, the {self.kind} of segment {self.id.path}, is damaged: {why}",
            segment=self.id.path,
            key=self.key,
            hint="Nothing of it was given out. Look for an earlier version of the object in the bucket",
        )


def is_proven_by_chunks(manifest: Manifest, kind: FileKind) -> bool:
    return manifest.files[kind].chunks is not None


def chunked_file(manifest: Manifest, kind: FileKind, keys: KeyRing) -> ArchivedFile:
    """A file whose manifest has checksums of chunks. `NoKey` and `WrongKey`."""
    return _made(manifest, kind, Proof.CHUNK, Decoder(manifest, kind, keys))


def proven_file(manifest: Manifest, kind: FileKind, checksums: tuple[int, ...], size: int) -> ArchivedFile:
    """A file of which the whole object was read and proven; ``checksums`` are those of chunks of ``size`` bytes."""
    file = replace(manifest.files[kind], chunks=Chunks(size, checksums))
    proven = replace(manifest, files={**manifest.files, kind: file})
    return _made(proven, kind, Proof.OBJECT, Decoder(proven, kind, KeyRing()))


def unproven_file(manifest: Manifest, kind: FileKind, size: int) -> ArchivedFile:
    """A file without checksums of chunks, in pieces of ``size`` bytes."""
    file = replace(manifest.files[kind], chunks=Chunks(size, ()))
    return _made(replace(manifest, files={**manifest.files, kind: file}), kind, Proof.OBJECT, None)


def name_of(file: ManifestFile, chunk_size: int) -> str:
    """In hexadecimal. The SHA-256 of an object says which bytes it has."""
    facts = f"{file.key}\n{file.size}\n{file.sha256}\n{file.part_size}\n{chunk_size}\n{file.plain_sha256}"
    return hashlib.sha256(facts.encode()).hexdigest()[:40]


def _made(manifest: Manifest, kind: FileKind, proof: Proof, decoder: Decoder | None) -> ArchivedFile:
    file = manifest.files[kind]
    assert file.chunks is not None
    # Bytes that nothing proves never stand for proven ones.
    name = name_of(file, file.chunks.size) + ("" if decoder else "-unproven")
    return ArchivedFile(manifest.id, kind, file, file.chunks, proof, name, decoder)
