"""Chunks of a file: compressed first, then encrypted, each by itself. All functions block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crc32c import crc32c

from takhin_tiered.codec.aesgcm import Key
from takhin_tiered.codec.zstd import compress, decompress

_SAMPLE_SIZE = 64 << 10
_SAMPLES = 8
_WORTHWHILE = 0.97
"""Of its size: what gains less is stored as it is."""

MOST_CHUNKS = 1 << 16
"""Of a file, as they are cut here: each one takes some bytes of the manifest."""


def chunk_size_for(size: int, wanted: int) -> int:
    """Bytes in each chunk of a file: what is wanted, or as many times two of it as keep the number of chunks small."""
    while size > MOST_CHUNKS * wanted:
        wanted *= 2
    return wanted


class ChunkCutter:
    """Cuts stored bytes, which come in order and in pieces, into chunks of these sizes. What follows them is ignored.

    ``come`` gets the number of each, counted from 0, and its bytes, as soon as it is whole.
    """

    def __init__(self, sizes: Sequence[int], come: Callable[[int, bytes], None]) -> None:
        self._sizes, self._come = sizes, come
        self.complete = 0
        self._missing = sizes[0] if sizes else 0
        self._parts: list[bytes] = []

    def update(self, piece: memoryview) -> None:
        while piece and self.complete < len(self._sizes):
            # Small copies, joined: a buffer as large as a chunk would be mapped anew, page by page, for each of them.
            part = bytes(piece[: self._missing])
            self._parts.append(part)
            self._missing -= len(part)
            piece = piece[len(part) :]
            if not self._missing:
                stored, self._parts = b"".join(self._parts), []
                self._come(self.complete, stored)
                self.complete += 1
                self._missing = self._sizes[self.complete] if self.complete < len(self._sizes) else 0


class ChunkSums:
    """The CRC-32C of each chunk of bytes that come in order."""

    def __init__(self, chunk_size: int) -> None:
        self._size = self._room = chunk_size
        self._done: list[int] = []
        self._crc = 0

    def update(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        while view:
            taken = view[: self._room]
            self._crc = crc32c(taken, self._crc)
            self._room -= len(taken)
            view = view[len(taken) :]
            if not self._room:
                self._close()

    def checksums(self) -> tuple[int, ...]:
        """To be asked once, at the end."""
        if self._room < self._size:
            self._close()
        return tuple(self._done)

    def _close(self) -> None:
        self._done.append(self._crc)
        self._crc, self._room = 0, self._size


@dataclass(frozen=True, slots=True)
class Coder:
    """``level``: zstd's, 0 for no compression. ``key``: None for no encryption.

    ``context`` says what the file is. With the position of each chunk it is authenticated: a chunk cannot be opened as
    another one, nor in a file of another number of chunks.
    """

    level: int
    key: Key | None
    context: bytes
    count: int

    def encode(self, number: int, plain: bytes | memoryview) -> bytes:
        data = compress(plain, self.level) if self.level else plain
        return bytes(data) if self.key is None else self.key.seal(data, self._context_of(number))

    def decode(self, number: int, stored: bytes | bytearray | memoryview, size: int) -> bytes:
        """``size`` plain bytes. `NotAuthentic`, `ZstdError` or `ValueError` where these are not their stored ones."""
        data = bytes(stored) if self.key is None else self.key.open(stored, self._context_of(number))
        plain = decompress(data, size) if self.level else data
        if len(plain) != size:
            raise ValueError(f"{len(plain)} bytes, not {size}")
        return plain

    def _context_of(self, number: int) -> bytes:
        return self.context + f"\nchunk {number} of {self.count}".encode()


def is_compressible(samples: Sequence[bytes]) -> bool:
    """Whether zstd makes these noticeably smaller."""
    size = sum(map(len, samples))
    return size > 0 and sum(len(compress(sample, 1)) for sample in samples) < _WORTHWHILE * size


def sample_ranges(size: int) -> list[tuple[int, int]]:
    """Bytes (from, to) of a file that stand for all of it: evenly spread, or the whole of a small file."""
    if size <= _SAMPLES * _SAMPLE_SIZE:
        return [(0, size)]
    starts = [(size - _SAMPLE_SIZE) * number // (_SAMPLES - 1) for number in range(_SAMPLES)]
    return [(start, start + _SAMPLE_SIZE) for start in starts]
