"""The bytes of items that were read from the store lately, the least recently used ones given up first."""

from __future__ import annotations

from collections import OrderedDict

_EACH = 400
"""Bytes, about, that the bookkeeping of an entry takes."""


class ItemCache:
    """Items as JSON, by pointer: bytes take a tenth of the memory of what they are parsed to. ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self.size = self.hits = self.misses = 0

    def get(self, pointer: tuple[str, str]) -> bytes | None:
        found = self._entries.get(pointer)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._entries.move_to_end(pointer)
        return found

    def put(self, pointer: tuple[str, str], plain: bytes) -> None:
        self.forget(pointer)
        if len(plain) + _EACH > self._limit:
            return
        self._entries[pointer] = plain
        self.size += len(plain) + _EACH
        while self.size > self._limit:
            _, oldest = self._entries.popitem(last=False)
            self.size -= len(oldest) + _EACH

    def forget(self, pointer: tuple[str, str]) -> None:
        if (old := self._entries.pop(pointer, None)) is not None:
            self.size -= len(old) + _EACH
