"""Sequences in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def in_batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """All items, in order, in lists of at most ``size``; none of an empty sequence."""
    for at in range(0, len(items), size):
        yield list(items[at : at + size])
