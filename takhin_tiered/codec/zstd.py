"""Zstandard, one frame for each chunk, in the seekable format: ``zstd -d`` decompresses the object.

The frames are followed by the seek table, a skippable frame that other tools skip.
Source: "Zstandard Seekable Format", contrib/seekable_format in the zstd repository; RFC 8878 for frames.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# The standard library's own from Python 3.14 on.
from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_info

_SKIPPABLE = 0x184D2A5E
_SEEKABLE = 0x8F92EAB1
_HEADER = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")

__all__ = ["ZstdError", "compress", "content_size", "decompress", "seek_table", "seek_table_size"]


def compress(plain: bytes | memoryview, level: int) -> bytes:
    """One frame, with the size of its content and a checksum."""
    options: dict[int, int] = {CompressionParameter.compression_level: level, CompressionParameter.checksum_flag: 1}
    return ZstdCompressor(options=options).compress(plain, ZstdCompressor.FLUSH_FRAME)


def decompress(frame: bytes | memoryview, size: int) -> bytes:
    """The content of exactly one frame, of ``size`` bytes. `ZstdError` for anything else.

    It never holds more than ``size`` bytes and one: a frame may claim any size.
    """
    decompressor = ZstdDecompressor()
    plain = decompressor.decompress(frame, max_length=size + 1)
    if len(plain) != size or not decompressor.eof or decompressor.unused_data:
        raise ZstdError(f"the frame does not hold {size} bytes")
    return plain


def content_size(frame: bytes) -> int:
    """Bytes that a frame says it holds. `ZstdError` where it does not say, or is none."""
    size = get_frame_info(frame).decompressed_size
    if size is None:
        raise ZstdError("the frame does not tell its size")
    return size


def seek_table(frames: Sequence[int], contents: Sequence[int]) -> bytes:
    """From the bytes of each frame, and of its content, both below 4 GiB."""
    size = len(frames) * _ENTRY.size + _FOOTER.size
    entries = b"".join(_ENTRY.pack(frame, content) for frame, content in zip(frames, contents, strict=True))
    return _HEADER.pack(_SKIPPABLE, size) + entries + _FOOTER.pack(len(frames), 0, _SEEKABLE)


def seek_table_size(frames: int) -> int:
    return _HEADER.size + frames * _ENTRY.size + _FOOTER.size
