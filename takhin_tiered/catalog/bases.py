"""Base offsets in order, by partition and incarnation: sorted for a place when it is first asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sortedcontainers import SortedList

from takhin_tiered.segments.names import Place


class SortedBases:
    """``of_place`` lists those of a place, in any order."""

    def __init__(self, of_place: Callable[[Place], Iterable[int]]) -> None:
        self._of_place = of_place
        self._sorted: dict[Place, SortedList[int]] = {}

    def __getitem__(self, place: Place) -> SortedList[int]:
        bases = self._sorted.get(place)
        if bases is None:
            bases = self._sorted[place] = SortedList(self._of_place(place))
        return bases

    def added(self, place: Place, bases: Iterable[int]) -> None:
        """Several that did not belong to them, and do now."""
        if (known := self._sorted.get(place)) is not None:
            known.update(bases)

    def note(self, place: Place, base_offset: int, *, was: bool, is_now: bool) -> None:
        """Whether one belonged to them, and does now."""
        bases = self._sorted.get(place)
        if bases is None or was == is_now:
            return
        if is_now:
            bases.add(base_offset)
        else:
            bases.remove(base_offset)
