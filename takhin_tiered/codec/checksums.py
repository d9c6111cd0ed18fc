"""Checksums: SHA-256, in the two forms that an object store can verify.

An object uploaded in one request has the digest of its bytes. A multipart object has the digest of its
parts' digests, written ``<digest>-<number of parts>``. Source: Amazon S3 User Guide, "Checking object
integrity", full object and composite checksums.

MD5 is computed too for servers that verify nothing else (``Content-MD5``): it detects accidental errors.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

READ_SIZE = 1 << 20

Source = Callable[[int, int], bytes]
"""Bytes that can be read repeatedly: ``source(offset, length)``, blocking, so called in a thread.

A source with a ``fileno()`` that is not negative is a file with the same bytes at the same offsets. A
source with ``in_memory`` set does not block.
"""


@dataclass(frozen=True, slots=True)
class Checksum:
    """``sha256`` is hexadecimal, followed by ``-<parts>`` if ``part_size`` (bytes) is not 0.

    ``parts`` are the digests of the single requests, ``md5`` the MD5 of the same bytes, if computed.
    """

    sha256: str
    part_size: int = 0
    parts: tuple[bytes, ...] = field(default=(), compare=False, repr=False)
    md5: tuple[bytes, ...] = field(default=(), compare=False, repr=False)

    @property
    def header(self) -> str:
        """As S3 writes it: base64."""
        return hex_to_header(self.sha256)


def hex_to_header(sha256: str) -> str:
    digest, dash, count = sha256.partition("-")
    return base64.b64encode(bytes.fromhex(digest)).decode() + dash + count


def header_to_hex(header: str) -> str:
    digest, dash, count = header.partition("-")
    return base64.b64decode(digest).hex() + dash + count


def sha256_of_parts(digests: Sequence[bytes]) -> str:
    """The composite form, from the SHA-256 of each part."""
    return f"{hashlib.sha256(b''.join(digests)).hexdigest()}-{len(digests)}"


class Hasher:
    """A running `Checksum`: feed it the bytes in order."""

    def __init__(self, part_size: int = 0, *, md5: bool = False) -> None:
        self._part_size = part_size
        self._with_md5 = md5
        self._parts: list[bytes] = []
        self._md5s: list[bytes] = []
        self.size = 0
        self._begin_part()

    def update(self, chunk: bytes | memoryview) -> None:
        self.size += len(chunk)
        if not self._part_size:
            self._take(chunk)
            return
        view = memoryview(chunk)
        while view:
            taken = view[: self._room]
            self._take(taken)
            self._room -= len(taken)
            view = view[len(taken) :]
            if not self._room:
                self._close_part()

    def checksum(self) -> Checksum:
        if not self._part_size:
            return Checksum(self._current.hexdigest(), md5=(self._md5.digest(),) if self._md5 else ())
        if self._room < self._part_size or not self._parts:
            self._close_part()
        return Checksum(sha256_of_parts(self._parts), self._part_size, tuple(self._parts), tuple(self._md5s))

    def _take(self, chunk: bytes | memoryview) -> None:
        self._current.update(chunk)
        if self._md5:
            self._md5.update(chunk)

    def _begin_part(self) -> None:
        self._current = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if self._with_md5 else None
        self._room = self._part_size

    def _close_part(self) -> None:
        self._parts.append(self._current.digest())
        if self._md5:
            self._md5s.append(self._md5.digest())
        self._begin_part()


def checksum_of(source: Source, size: int, part_size: int = 0) -> Checksum:
    """Read ``size`` bytes in one pass, or fewer if the source ends early.

    For small objects: it always computes the MD5 too.
    """
    hasher = Hasher(part_size, md5=True)
    while hasher.size < size:
        chunk = source(hasher.size, min(READ_SIZE, size - hasher.size))
        if not chunk:
            break
        hasher.update(chunk)
    return hasher.checksum()


class _Bytes:
    in_memory = True

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __call__(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


def bytes_source(data: bytes) -> Source:
    return _Bytes(data)
