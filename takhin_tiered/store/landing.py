"""Bytes of an object on their way into a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

_BLOCK = 4096
_ZEROS = memoryview(bytes(_BLOCK))

Seen = Callable[[memoryview], None]
"""Is shown each piece of an object, in order, in a thread, before it is written; the view is good during the call."""


def unseen(_: memoryview) -> None:
    """Nobody looks."""


def write_sparse(file: int, piece: memoryview, offset: int) -> None:
    """All of a piece but its blocks of zeros: a new file has holes there, as the archived one may have had."""
    at = 0
    for start, end in _holes(piece, offset):
        _write_all(file, piece[at:start], offset + at)
        at = end
    _write_all(file, piece[at:], offset + at)


def _holes(piece: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Where in a piece all that it has of a block of the file is zeros."""
    first = min(-offset % _BLOCK, len(piece))
    if first and piece[:first] == _ZEROS[:first]:
        yield 0, first
    # One look at each block's first byte: of records hardly one is zero.
    leading = bytes(piece[first::_BLOCK])
    number = leading.find(0)
    while number >= 0:
        start = first + number * _BLOCK
        end = min(start + _BLOCK, len(piece))
        if piece[start:end] == _ZEROS[: end - start]:
            yield start, end
        number = leading.find(0, number + 1)


def _write_all(file: int, piece: memoryview, offset: int) -> None:
    while piece:
        count = os.pwrite(file, piece, offset)
        piece, offset = piece[count:], offset + count
