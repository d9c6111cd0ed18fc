"""From the stored bytes of a chunk to its plain ones, proven by the manifest."""

from __future__ import annotations

from backports.zstd import ZstdError
from crc32c import crc32c

from takhin_tiered.codec.aesgcm import Key, NotAuthentic
from takhin_tiered.codec.chunks import Coder
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import Damaged, NoKey, WrongKey
from takhin_tiered.segments.chunks import Chunks, Encryption
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId


class Decoder:
    """Of one archived file that has chunks. `NoKey` and `WrongKey` when it is made; its methods block."""

    def __init__(self, manifest: Manifest, kind: FileKind, keys: KeyRing) -> None:
        file = manifest.files[kind]
        assert file.chunks is not None
        self.chunks: Chunks = file.chunks
        self._file, self._id, self._kind = file, manifest.id, kind
        self._coder: Coder | None = None
        if (encoding := file.encoding) is not None:
            key = data_key(manifest.id, manifest.topic_id, encoding.encryption, keys)
            context = context_of(manifest.id, manifest.topic_id, kind)
            self._coder = Coder(1 if encoding.codec else 0, key, context, len(file.chunks))

    @property
    def file(self) -> ManifestFile:
        return self._file

    def decode(self, number: int, stored: bytes | bytearray | memoryview) -> bytes:
        """The plain bytes of chunk ``number``. `Damaged`, which names it, unless these are what was archived."""
        begin, end = self.chunks.stored_range(number, self._file.plain_size)
        if len(stored) != end - begin:
            raise self.damaged(number, f"{len(stored)} bytes instead of {end - begin}")
        if crc32c(stored) != self.chunks.checksums[number]:
            raise self.damaged(number, "its CRC-32C is another one")
        if self._coder is None or self._file.encoding is None:
            return bytes(stored)
        first, last = self.chunks.plain_range(number, self._file.plain_size)
        try:
            plain = self._coder.decode(number, stored, last - first)
        except NotAuthentic:
            raise self.damaged(number, "it is not authentic: other bytes, or a chunk of another place") from None
        except (ZstdError, ValueError) as error:
            raise self.damaged(number, str(error)) from None
        if crc32c(plain) != self._file.encoding.checksums[number]:
            raise self.damaged(number, "the CRC-32C of its plain bytes is another one")
        return plain

    def damaged(self, number: int, why: str) -> Damaged:
        begin, end = self.chunks.stored_range(number, self._file.plain_size)
        encryption = self._file.encoding.encryption if self._file.encoding else None
        key = f", encrypted with the key {encryption.key_id!r}" if encryption else ""
        return Damaged(
            f"chunk {number} of the {self._kind} of segment {self._id.path}, bytes {begin} to {end} of object "
            f"{self._file.key}{key}, is damaged: {why}",
            segment=self._id.path,
            key=self._file.key,
            hint="Nothing of it was given out. Look for an earlier version of the object in the bucket",
        )


def decoders_of(manifest: Manifest, keys: KeyRing) -> dict[FileKind, Decoder]:
    """For each file whose object is encoded. `NoKey` or `WrongKey`."""
    return {kind: Decoder(manifest, kind, keys) for kind, file in manifest.files.items() if file.encoding is not None}


def require_keys(manifest: Manifest, keys: KeyRing) -> None:
    """Return if all of its files can be decrypted. `NoKey` or `WrongKey`."""
    for file in manifest.files.values():
        if file.encoding is not None:
            data_key(manifest.id, manifest.topic_id, file.encoding.encryption, keys)


def data_key(identity: SegmentId, topic_id: str, encryption: Encryption | None, keys: KeyRing) -> Key | None:
    """`NoKey` or `WrongKey`."""
    if encryption is None:
        return None
    try:
        wrapping = keys.get(encryption.key_id)
    except NoKey as error:
        error.segment = error.segment or identity.path
        raise
    try:
        return wrapping.unwrap(encryption.wrapped, key_context(identity, topic_id))
    except NotAuthentic:
        raise WrongKey(
            f"the key {encryption.key_id!r} in storage.tiered.encryption.key.file does not fit that of segment "
            f"{identity.path}",
            segment=identity.path,
            key=identity.manifest_key,
            hint="It is another key under the same ID, or the manifest is that of another segment. Nothing was read",
        ) from None


def context_of(identity: SegmentId, topic_id: str, kind: FileKind) -> bytes:
    """What a chunk is bound to: the topic's incarnation, the segment and the file."""
    return f"takhin-tiered 1\n{topic_id}\n{identity.full_path}\n{kind}".encode()


def key_context(identity: SegmentId, topic_id: str) -> bytes:
    """What a wrapped data key is bound to."""
    return f"takhin-tiered key 1\n{topic_id}\n{identity.full_path}".encode()
