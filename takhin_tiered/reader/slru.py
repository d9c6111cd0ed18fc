"""Which chunks the disk cache keeps: a segmented LRU. Pure.

A chunk that is new is on probation. One that is read again while it is there is protected. What is on probation leaves
first, so a scan that reads each chunk once pushes out only what nobody has read twice. Protected chunks are at most
`PROTECTED_SHARE` of all bytes; the least recently used of them go back to probation.

Source: Karedla, Love and Wherry, "Caching strategies to improve disk system performance", IEEE Computer 27 (1994).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

PROTECTED_SHARE = 0.8

Name = TypeVar("Name", bound=Hashable)


class SegmentedLru(Generic[Name]):
    """Names with their sizes. The order is kept; nothing leaves by itself."""

    def __init__(self) -> None:
        self._probation: OrderedDict[Name, int] = OrderedDict()
        self._protected: OrderedDict[Name, int] = OrderedDict()
        self.size = self._protected_size = 0

    def __contains__(self, name: Name) -> bool:
        return name in self._probation or name in self._protected

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def __iter__(self) -> Iterator[Name]:
        """Those that would leave first come first."""
        yield from self._probation
        yield from self._protected

    def is_protected(self, name: Name) -> bool:
        return name in self._protected

    def add(self, name: Name, size: int, *, is_protected: bool = False) -> None:
        """The most recently used one. ``is_protected``: as it was told to be, in another life of this process."""
        assert name not in self
        (self._protected if is_protected else self._probation)[name] = size
        self.size += size
        self._protected_size += size if is_protected else 0

    def hit(self, name: Name, limit: int) -> None:
        """It was read again. ``limit``: bytes that all may have together."""
        if name in self._protected:
            self._protected.move_to_end(name)
            return
        size = self._probation.pop(name)
        self._protected[name] = size
        self._protected_size += size
        while self._protected_size > limit * PROTECTED_SHARE and self._protected:
            oldest, size = self._protected.popitem(last=False)
            self._probation[oldest] = size
            self._protected_size -= size

    def remove(self, name: Name) -> None:
        """No error if it is not there."""
        if (size := self._probation.pop(name, None)) is not None:
            self.size -= size
        elif (size := self._protected.pop(name, None)) is not None:
            self.size -= size
            self._protected_size -= size

    def victims(self, limit: int, may_leave: Callable[[Name], bool] = lambda _: True) -> list[Name] | None:
        """Those that have to leave so that the others have at most ``limit`` bytes; None if that is not possible."""
        found, left = [], self.size
        for name in self:
            if left <= limit:
                break
            if may_leave(name):
                found.append(name)
                left -= self._probation.get(name, 0) or self._protected.get(name, 0)
        return found if left <= limit else None
