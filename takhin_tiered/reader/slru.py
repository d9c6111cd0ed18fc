"""Which chunks the disk cache keeps: a segmented LRU with a memory of what left. Pure.

A chunk that is new is on probation. One that is read again, while it is there or not long after it left, is protected.
What is on probation leaves first, so a scan that reads each chunk once pushes out only what nobody has read twice.
Protected chunks are at most `PROTECTED_SHARE` of all bytes; the least recently used of them go back to probation.

Sources: Karedla, Love and Wherry, "Caching strategies to improve disk system performance", IEEE Computer 27 (1994);
Johnson and Shasha, "2Q", VLDB 1994, for the names of those that left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

PROTECTED_SHARE = 0.8
MOST_LEFT = 100_000

Name = TypeVar("Name", bound=Hashable)


class SegmentedLru(Generic[Name]):
    """Names with their sizes. Nothing leaves by itself. ``limit``: bytes that all may have together."""

    def __init__(self) -> None:
        self._probation: OrderedDict[Name, int] = OrderedDict()
        self._protected: OrderedDict[Name, int] = OrderedDict()
        # What left, and would be there still if there were twice the room.
        self._left: OrderedDict[Name, int] = OrderedDict()
        self.size = self._protected_size = self._left_size = 0

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

    def add(self, name: Name, size: int, limit: int, *, is_protected: bool = False) -> None:
        """The most recently used one. ``is_protected``: it was, in another life of this process."""
        assert name not in self
        is_protected = is_protected or name in self._left
        self._left_size -= self._left.pop(name, 0)
        self.size += size
        if is_protected:
            self._protect(name, size, limit)
        else:
            self._probation[name] = size

    def hit(self, name: Name, limit: int) -> None:
        """It was read again."""
        if name in self._protected:
            self._protected.move_to_end(name)
        else:
            self._protect(name, self._probation.pop(name), limit)

    def remove(self, name: Name) -> int:
        """It is no good any more; returns its size, 0 if it was not there."""
        if (size := self._probation.pop(name, None)) is None:
            size = self._protected.pop(name, 0)
            self._protected_size -= size
        self.size -= size
        return size

    def leave(self, name: Name, limit: int) -> None:
        """The same for one that only has to make room: it is remembered for a while."""
        self.remember(name, self.remove(name), limit)

    def has_left(self, name: Name) -> bool:
        """Whether it left not long ago, or was only remembered."""
        return name in self._left

    def remember(self, name: Name, size: int, limit: int) -> None:
        """One that was read and not kept: if it is read again soon, it is worth its place."""
        self._left_size += size - self._left.pop(name, 0)
        self._left[name] = size
        while self._left and (self._left_size > limit or len(self._left) > MOST_LEFT):
            self._left_size -= self._left.popitem(last=False)[1]

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

    def _protect(self, name: Name, size: int, limit: int) -> None:
        self._protected[name] = size
        self._protected_size += size
        while self._protected_size > limit * PROTECTED_SHARE:
            oldest, size = self._protected.popitem(last=False)
            self._probation[oldest] = size
            self._protected_size -= size
