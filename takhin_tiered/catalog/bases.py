"""Base offsets in order, by partition and incarnation: sorted for a place when it is first asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sortedcontainers import SortedList

from takhin_tiered.segments.names import Place


class SortedBases:
    """Those of the rows that ``belong``. ``rows_of`` returns a place's rows by base offset, in any order."""

    def __init__(self, rows_of: Callable[[Place], Mapping[int, bytes]], belongs: Callable[[bytes], bool]) -> None:
        self._rows_of, self._belongs = rows_of, belongs
        self._sorted: dict[Place, SortedList[int]] = {}

    def __getitem__(self, place: Place) -> SortedList[int]:
        bases = self._sorted.get(place)
        if bases is None:
            bases = self._sorted[place] = SortedList(self._among(self._rows_of(place)))
        return bases

    def has(self, place: Place, first: int, end: int) -> bool:
        """Whether there is one from ``first`` up to, and without, ``end``."""
        return next(self[place].irange(first, end, inclusive=(True, False)), None) is not None

    def added(self, place: Place, rows: Mapping[int, bytes]) -> None:
        """Several rows that were not there before."""
        if (bases := self._sorted.get(place)) is not None:
            bases.update(self._among(rows))

    def note(self, place: Place, base_offset: int, old: bytes | None, new: bytes | None) -> None:
        """A row that came, changed or went."""
        bases = self._sorted.get(place)
        if bases is None:
            return
        was, is_now = old is not None and self._belongs(old), new is not None and self._belongs(new)
        if is_now and not was:
            bases.add(base_offset)
        elif was and not is_now:
            bases.remove(base_offset)

    def _among(self, rows: Mapping[int, bytes]) -> list[int]:
        return [base for base, row in rows.items() if self._belongs(row)]
