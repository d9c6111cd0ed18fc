"""Chunks of a file: compressed first, then encrypted, each by itself. All functions block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from takhin_tiered.codec.aesgcm import Key
from takhin_tiered.codec.zstd import compress, decompress

_SAMPLE_SIZE = 64 << 10
_SAMPLES = 8
_WORTHWHILE = 0.97
"""Of its size: what gains less is stored as it is."""


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
        data = compress(plain, self.level) if self.level else bytes(plain)
        return data if self.key is None else self.key.seal(data, self._context_of(number))

    def decode(self, number: int, stored: bytes | memoryview, size: int) -> bytes:
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
