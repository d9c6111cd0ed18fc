"""What a manifest says of the chunks of an archived file. Pure.

A file is cut into chunks of the same size, but for the last one. Each can be read and proven without the others. The
*plain* bytes are those of the file; the *stored* bytes are those of the object.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

MAX_CHUNKS = 1 << 20
_MOST = 2**63 - 1
_CRC = re.compile(r"[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{64}(-[1-9][0-9]*)?")
ALGORITHM = "AES-256-GCM"
ZSTD = "zstd"


@dataclass(frozen=True)
class Chunks:
    """``size``: plain bytes of each chunk but the last. ``checksums``: CRC-32C of the stored bytes of each.

    ``stored``: stored bytes of each, in the order of the object; empty where they are the plain ones.
    """

    size: int
    checksums: tuple[int, ...]
    stored: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.checksums)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(self.stored))

    def plain_range(self, number: int, plain_size: int) -> tuple[int, int]:
        """Bytes of the file, from and to (exclusive)."""
        return number * self.size, min((number + 1) * self.size, plain_size)

    def stored_range(self, number: int, plain_size: int) -> tuple[int, int]:
        """Bytes of the object, from and to (exclusive)."""
        if not self.stored:
            return self.plain_range(number, plain_size)
        end = self._ends[number]
        return end - self.stored[number], end

    def holding(self, start: int, end: int) -> range:
        """The chunks that hold these bytes of the file."""
        return range(start // self.size, -(-end // self.size)) if start < end else range(0)

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"size": self.size, "crc32c": [f"{crc:08x}" for crc in self.checksums]}
        return document | ({"stored": list(self.stored)} if self.stored else {})


@dataclass(frozen=True, slots=True)
class Encryption:
    """The data key, wrapped with the key ``key_id`` of the key file."""

    key_id: str
    wrapped: bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "algorithm": ALGORITHM,
            "key_id": self.key_id,
            "wrapped_key": base64.b64encode(self.wrapped).decode(),
        }


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an object differs from its file: chunk by chunk, first compressed, then encrypted.

    ``size``, ``sha256`` and ``part_size`` are those of the plain bytes, ``checksums`` the CRC-32C of each plain chunk.
    """

    size: int
    sha256: str
    part_size: int
    checksums: tuple[int, ...]
    codec: str = ""
    encryption: Encryption | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of a file's entry."""
        plain = {"size": self.size, "sha256": self.sha256, "part_size": self.part_size}
        plain["crc32c"] = [f"{crc:08x}" for crc in self.checksums]
        document: dict[str, Any] = {"plain": plain}
        if self.codec:
            document["codec"] = self.codec
        if self.encryption is not None:
            document["encryption"] = self.encryption.to_json()
        return document


def count_of(plain_size: int, chunk_size: int) -> int:
    return -(-plain_size // chunk_size)


def parse_chunks(entry: Mapping[str, Any], stored_size: int) -> tuple[Chunks | None, Encoding | None]:
    """From a file's entry in a manifest. `ValueError`, `TypeError` or `LookupError` where it makes no sense."""
    if entry.get("chunks") is None:
        if any(entry.get(name) is not None for name in ("plain", "codec", "encryption")):
            raise ValueError("an encoded file without chunks")
        return None, None
    described = entry["chunks"]
    stored = tuple(_size(number) for number in described.get("stored", ()))
    chunks = Chunks(_size(described["size"]), _checksums(described["crc32c"]), stored)
    encoding = _encoding(entry)
    plain_size = encoding.size if encoding else stored_size
    if not chunks.size or count_of(plain_size, chunks.size) != len(chunks) or len(chunks) > MAX_CHUNKS:
        raise ValueError(f"{len(chunks)} chunks of {chunks.size} bytes are no file of {plain_size} bytes")
    if encoding is None:
        if stored:
            raise ValueError("stored sizes of chunks that are stored as they are")
        return chunks, None
    if len(stored) != len(chunks) or len(encoding.checksums) != len(chunks) or sum(stored) > stored_size:
        raise ValueError(f"the chunks do not fit an object of {stored_size} bytes")
    return chunks, encoding


def _encoding(entry: Mapping[str, Any]) -> Encoding | None:
    plain, codec, encryption = entry.get("plain"), str(entry.get("codec", "")), entry.get("encryption")
    if plain is None and not codec and encryption is None:
        return None
    if plain is None or codec not in {"", ZSTD} or (not codec and encryption is None):
        raise ValueError(f"an encoding that is not known: codec {codec!r}")
    sha256 = str(plain["sha256"])
    part_size = _size(plain["part_size"])
    if not _SHA256.fullmatch(sha256) or ("-" in sha256) != bool(part_size):
        raise ValueError(f"{sha256!r} is not a SHA-256")
    return Encoding(
        _size(plain["size"]), sha256, part_size, _checksums(plain["crc32c"]), codec, _encryption(encryption)
    )


def _encryption(entry: Any) -> Encryption | None:
    if entry is None:
        return None
    if entry["algorithm"] != ALGORITHM:
        raise ValueError(f"{entry['algorithm']!r} is not known")
    try:
        return Encryption(str(entry["key_id"]), base64.b64decode(entry["wrapped_key"], validate=True))
    except binascii.Error as error:
        raise ValueError("the wrapped key is not base64") from error


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a number of bytes")
    return value


def _checksums(values: Sequence[str]) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(isinstance(crc, str) and _CRC.fullmatch(crc) for crc in values):
        raise ValueError("not a list of CRC-32C in hexadecimal")
    return tuple(int(crc, 16) for crc in values)
