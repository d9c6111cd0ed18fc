"""Many rows of a partition in one block of bytes: reading and writing a million single rows takes seconds."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice, pairwise

SEGMENTS_AT_MOST = 1024
_COUNT = struct.Struct("<I")


def blocks(rows: Mapping[int, bytes]) -> Iterator[bytes]:
    """Pack rows, by base offset, into as many blocks as needed."""
    items = iter(rows.items())
    while some := list(islice(items, SEGMENTS_AT_MOST)):
        offsets, records = zip(*some, strict=True)
        yield b"".join([_COUNT.pack(len(some)), _head(len(some)).pack(*offsets, *map(len, records)), *records])


def unpack_blocks(packed: Iterable[bytes]) -> dict[int, bytes]:
    """Raises `struct.error` for bytes that are not a block."""
    rows: dict[int, bytes] = {}
    for block in packed:
        (count,) = _COUNT.unpack_from(block)
        head = _head(count)
        numbers = head.unpack_from(block, _COUNT.size)
        borders = list(accumulate(numbers[count:], initial=_COUNT.size + head.size))
        if borders[-1] != len(block):
            raise struct.error("a block of the catalog has the wrong length")
        rows.update(zip(numbers[:count], [block[start:end] for start, end in pairwise(borders)], strict=True))
    return rows


def _head(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}q{count}I")
