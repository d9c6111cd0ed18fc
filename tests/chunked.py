"""Archived segments as chunks: compressed, encrypted, or as they are. Written with the plain building blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from takhin_tiered import TieredStorage
from takhin_tiered.codec.aesgcm import Key
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.codec.chunks import Coder
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.codec.zstd import seek_table
from takhin_tiered.segments.chunks import ZSTD, Chunks, Encoding, Encryption
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.vault.decoding import context_of, key_context

RING = KeyRing({"k1": Key(b"1" * 32)}, "k1")


@dataclass
class Objects:
    """Where objects are read and written."""

    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]

    @classmethod
    def of_directory(cls, root: Path) -> Objects:
        return cls(lambda key: (root / key).read_bytes(), lambda key, data: (root / key).write_bytes(data))

    def manifest(self, path: str) -> Manifest:
        key = SegmentId.parse(path).manifest_key
        return Manifest.from_json(self.read(key), key=key)

    def put(self, manifest: Manifest) -> None:
        self.write(manifest.id.manifest_key, manifest.to_json())

    def cut(self, path: str, size: int, *, level: int = 0, ring: KeyRing | None = None) -> Manifest:
        """Store an archived segment anew, in chunks of that size."""
        manifest = self.manifest(path)
        data_key = Key.random() if ring else None
        files: dict[FileKind, ManifestFile] = {}
        for kind, file in manifest.files.items():
            files[kind], stored = _stored(manifest, kind, self.read(file.key), size, level, data_key, ring)
            self.write(file.key, stored)
        changed = replace(manifest, files=files, written_by=0)
        self.put(changed)
        return changed

    def without_chunks(self, path: str) -> None:
        """As an earlier release wrote it."""
        manifest = self.manifest(path)
        assert all(file.encoding is None for file in manifest.files.values())
        files = {kind: replace(file, chunks=None) for kind, file in manifest.files.items()}
        self.put(replace(manifest, files=files, written_by=0))


def _stored(
    manifest: Manifest,
    kind: FileKind,
    plain: bytes,
    size: int,
    level: int,
    data_key: Key | None,
    ring: KeyRing | None,
) -> tuple[ManifestFile, bytes]:
    file = manifest.files[kind]
    pieces = [plain[at : at + size] for at in range(0, len(plain), size)]
    checksums = tuple(map(crc32c, pieces))
    if not level and data_key is None:
        return replace(file, chunks=Chunks(size, checksums)), plain
    coder = Coder(level, data_key, context_of(manifest.id, manifest.topic_id, kind), len(pieces))
    encoded = [coder.encode(number, piece) for number, piece in enumerate(pieces)]
    table = seek_table([*map(len, encoded)], [*map(len, pieces)]) if data_key is None and level else b""
    stored = b"".join(encoded) + table
    encryption = None
    if ring is not None and data_key is not None:
        wrapped = ring.get(ring.current).wrap(data_key, key_context(manifest.id, manifest.topic_id))
        encryption = Encryption(ring.current, wrapped)
    checksum = checksum_of(bytes_source(stored), len(stored))
    return (
        replace(
            file,
            size=len(stored),
            sha256=checksum.sha256,
            part_size=0,
            chunks=Chunks(size, tuple(map(crc32c, encoded)), tuple(map(len, encoded))),
            encoding=Encoding(len(plain), file.sha256, file.part_size, checksums, ZSTD if level else "", encryption),
        ),
        stored,
    )


def use_keys(storage: TieredStorage, ring: KeyRing) -> None:
    """As if the key file had these."""
    object.__setattr__(storage._reader, "keys", lambda: ring)
