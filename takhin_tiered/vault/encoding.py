"""Encode the files of a segment before they are stored: chunk by chunk, compressed first, then encrypted.

Each chunk is decoded again at once, and has to be what was read for the file's checksum. So neither a fault of a
library, nor bad memory, nor a file that changed meanwhile can put something into the archive that is not the file.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backports.zstd import ZstdError
from crc32c import crc32c

from takhin_tiered import logs, work
from takhin_tiered.codec.aesgcm import OVERHEAD, Key, NotAuthentic
from takhin_tiered.codec.chunks import Coder, is_compressible, sample_ranges
from takhin_tiered.codec.zstd import seek_table, seek_table_size
from takhin_tiered.concurrency import COMPUTING, computed
from takhin_tiered.disk.access import disk_errors
from takhin_tiered.errors import DiskFull, ObjectCorrupt, SegmentChanged
from takhin_tiered.points import reached
from takhin_tiered.segments.chunks import ZSTD, Chunks, Encoding, Encryption
from takhin_tiered.segments.names import FileKind
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.decoding import context_of, key_context
from takhin_tiered.vault.opened import Content, OpenSegment
from takhin_tiered.vault.stored import Spool, Stored, StoredHasher

_WORTH_A_FRAME = 1 << 10
"""Bytes: a smaller file gains nothing that counts."""
_IN_FLIGHT = 64 << 20


@dataclass(frozen=True, slots=True)
class Encoder:
    """``spool_dir`` is where large files are encoded to; ``reserve`` bytes of its disk stay free."""

    codecs: Codecs
    spool_dir: Path
    reserve: int
    with_md5: bool

    def encode(
        self, opened: OpenSegment, content: Content, kinds: Sequence[FileKind], topic_id: str
    ) -> dict[FileKind, Stored]:
        """What is to be stored of these files; blocking. ``topic_id`` is that of the manifest that will name them.

        `SegmentChanged`, `DiskError`, `ObjectCorrupt`. Each `Stored` has to be closed with `close_all`.
        """
        identity, level = opened.identity, self.codecs.level_for(opened.identity.topic)
        encoded: dict[FileKind, Stored] = {}
        keys = self.codecs.keys
        key = encryption = None
        if keys.current:
            # A key of its own for each attempt: no nonce is ever used twice, whatever a retry does.
            key = Key.random()
            wrapped = keys.get(keys.current).wrap(key, key_context(identity, topic_id))
            encryption = Encryption(keys.current, wrapped)
        try:
            for kind in kinds:
                file = _File(opened, content, kind)
                is_smaller = level > 0 and file.is_compressible()
                if is_smaller or key is not None:
                    coder = Coder(
                        level if is_smaller else 0, key, context_of(identity, topic_id, kind), len(file.chunks)
                    )
                    encoded[kind] = self._encode(file, coder, encryption)
                else:
                    encoded[kind] = file.as_it_is
        except BaseException:
            close_all(encoded.values())
            raise
        return encoded

    def _encode(self, file: _File, coder: Coder, encryption: Encryption | None) -> Stored:
        if file.data is not None:
            return self._encode_into(bytearray(), file, coder, encryption)
        try:
            spool = Spool(file.id, self.spool_dir, self.reserve)
            try:
                return self._encode_into(spool, file, coder, encryption)
            except BaseException:
                spool.close()
                raise
        except DiskFull as error:
            if encryption is not None:
                raise
            # To archive it is how its disk gets room again.
            logs.logger().warning("a file is stored uncompressed", file=file.name, error=error.message)
            return file.as_it_is

    def _encode_into(self, into: bytearray | Spool, file: _File, coder: Coder, encryption: Encryption | None) -> Stored:
        plain, codec = file.as_it_is, ZSTD if coder.level else ""
        has_table = bool(codec) and encryption is None
        most = plain.size + len(file.chunks) * (OVERHEAD + plain.chunks.size // 128 + 512)
        hasher = StoredHasher(most + seek_table_size(len(file.chunks)), md5=self.with_md5)
        sizes: list[int] = []
        sums: list[int] = []

        def take(data: bytes) -> None:
            hasher.update(data)
            if isinstance(into, Spool):
                into.write(data)
            else:
                into.extend(data)

        with closing(self._chunks(file, coder)) as chunks:
            for stored in chunks:
                take(stored)
                begin, end = file.range_of(len(sizes))
                work.moved(end - begin)
                sizes.append(len(stored))
                sums.append(crc32c(stored))
                reached("archive.encoding")
        if has_table:
            take(seek_table(sizes, [end - begin for begin, end in map(file.range_of, range(len(sizes)))]))
        size = into.size if isinstance(into, Spool) else len(into)
        if has_table and size >= plain.size:
            # The sample promised more than the whole file holds.
            if isinstance(into, Spool):
                into.close()
            return plain
        encoding = Encoding(
            plain.size, plain.checksum.sha256, plain.checksum.part_size, plain.chunks.checksums, codec, encryption
        )
        described = Chunks(plain.chunks.size, tuple(sums), tuple(sizes))
        data, spool = (None, into.file) if isinstance(into, Spool) else (bytes(into), None)
        return Stored(size, hasher.checksum(), described, data, spool, encoding)

    def _chunks(self, file: _File, coder: Coder) -> Generator[bytes, None, None]:
        encode, count = partial(file.encode, coder), len(file.chunks)
        if file.data is not None:
            return (encode(number) for number in range(count))
        return computed(encode, count, at_once=min(COMPUTING + 1, max(2, _IN_FLIGHT // file.chunks.size)))


class _File:
    """A file that is to be encoded, with what was read of it for its checksum."""

    def __init__(self, opened: OpenSegment, content: Content, kind: FileKind) -> None:
        self.id, self.name = opened.identity, f"{opened.identity.directory}/{opened.identity.file(kind)}"
        self.as_it_is = as_it_is(opened, content, kind)
        self.chunks = self.as_it_is.chunks
        self.data = self.as_it_is.data if self.as_it_is.size else b""
        self._file = opened.files[kind]
        self._buffers: list[bytearray] = []

    def range_of(self, number: int) -> tuple[int, int]:
        return self.chunks.plain_range(number, self.as_it_is.size)

    def is_compressible(self) -> bool:
        size = self.as_it_is.size
        if size < _WORTH_A_FRAME:
            return False
        return is_compressible([bytes(self._read(at, to, self._new_buffer(to - at))) for at, to in sample_ranges(size)])

    def encode(self, coder: Coder, number: int) -> bytes:
        """The stored bytes of a chunk, which give back those that were read for the checksum."""
        begin, end = self.range_of(number)
        checksum = self.chunks.checksums[number]
        # Fresh memory for each chunk would cost more time than its checksum.
        buffer = self._buffers.pop() if self._buffers else self._new_buffer(self.chunks.size)
        try:
            plain = self._read(begin, end, buffer)
            if crc32c(plain) != checksum:
                raise self._changed()
            stored = coder.encode(number, plain)
        finally:
            self._buffers.append(buffer)
        with suppress(NotAuthentic, ZstdError, ValueError):
            if crc32c(coder.decode(number, stored, end - begin)) == checksum:
                return stored
        raise ObjectCorrupt(
            f"the encoded bytes {begin} to {end} of {self.name} do not decode to the original",
            segment=self.id.path,
            hint="The local files stay, and nothing of it was archived. Test the memory of this machine",
        )

    def _new_buffer(self, size: int) -> bytearray:
        return bytearray(0 if self.data is not None else min(size, self.as_it_is.size))

    def _read(self, begin: int, end: int, buffer: bytearray) -> memoryview:
        if self.data is not None:
            return memoryview(self.data)[begin:end]
        size, got = end - begin, 0
        view = memoryview(buffer)[:size]
        with disk_errors(self.id):
            while got < size:
                count = self._file.read_into(view[got:], begin + got)
                if not count:
                    raise self._changed()
                got += count
        return view

    def _changed(self) -> SegmentChanged:
        return SegmentChanged(
            f"{self.name} changed while it was encoded",
            segment=self.id.path,
            hint="The local files stay, and nothing was archived; the next cycle tries again",
        )


def as_it_is(opened: OpenSegment, content: Content, kind: FileKind) -> Stored:
    """An object that has the bytes of its file."""
    return Stored(
        opened.size(kind),
        content.checksums[kind],
        content.chunks[kind],
        content.small.get(kind),
        opened.files[kind],
    )


def close_all(stored: Iterable[Stored]) -> None:
    """Close the spools among these; blocking."""
    for each in stored:
        if each.is_spooled and each.file is not None:
            with suppress(OSError):
                os.close(each.file.fd)
